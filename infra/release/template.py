"""The released template: plain CloudFormation, with the code in a bucket that a parameter names."""

import json
from collections.abc import Mapping
from typing import Any, Final

import yaml

from infra.release.functions import ARCHITECTURES

_X86, _ARM = ARCHITECTURES
_PARAMETERS: Final = {
    "ArtifactBucket": {
        "Type": "String",
        "AllowedPattern": "^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
        "ConstraintDescription": "the name of a bucket, without s3://",
        "Description": "The bucket that the release's zips were copied to; of the stack's own region",
    },
    "ArtifactPrefix": {
        "Type": "String",
        "Default": "landfall/",
        "AllowedPattern": "^$|^[^/].*/$",
        "ConstraintDescription": "a prefix that ends in / and does not begin with it, or nothing",
        "Description": "What the zips' keys begin with in that bucket",
    },
}
_LABELS: Final = {"ArtifactBucket": "Bucket with the release's zips", "ArtifactPrefix": "Prefix of their keys"}


def released(transformed: Mapping[str, Any], zips: Mapping[str, Mapping[str, str]], version: str) -> str:
    """Return the template of a release as YAML.

    SAM's transformation is done already: the template needs neither the SAM CLI nor CAPABILITY_AUTO_EXPAND.

    Args:
        transformed: template.yaml, as `infra.deployment.transform` returns it.
        zips: by a function's name and by architecture, the zip's name.
        version: of the release.

    Raises:
        LookupError: a function of the template has no zip.
    """
    template: dict[str, Any] = json.loads(json.dumps(transformed))  # plain types: the translator has its own strings
    template["Description"] = f"{template['Description']} - {version}"
    template["Parameters"] = {**_PARAMETERS, **template["Parameters"]}
    template["Parameters"]["Architecture"]["Description"] = "Of the functions"
    template["Metadata"].pop("cfn-lint", None)  # about merge keys, which are written out
    interface = template["Metadata"]["AWS::CloudFormation::Interface"]
    interface["ParameterGroups"].insert(0, {"Label": {"default": "Release"}, "Parameters": list(_PARAMETERS)})
    interface["ParameterLabels"] |= {name: {"default": label} for name, label in _LABELS.items()}
    template["Conditions"]["OnArm"] = {"Fn::Equals": [{"Ref": "Architecture"}, _ARM]}
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Lambda::Function":
            _point(resource, zips)
    template["Outputs"] |= _next_steps(version)
    text: str = yaml.safe_dump(template, sort_keys=False, width=120, allow_unicode=True)
    return text


def _next_steps(version: str) -> Mapping[str, Any]:
    """Return the outputs with the next steps, which use only the release's files."""
    install = f"helm install landfall landfall-{version}.tgz --namespace landfall --create-namespace"
    return {
        "Next1Cluster": {
            "Description": "First, the cluster's half (without Helm - crds.yaml, rbac.yaml and forwarder.yaml)",
            "Value": {"Fn::Sub": f"{install} --set target=${{EventBus.Arn}}"},
        },
        "Next3Forwarder": {
            "Description": "Third, see the forwarder run",
            "Value": "kubectl --namespace landfall get deployments,pods",
        },
    }


def _point(function: dict[str, Any], zips: Mapping[str, Mapping[str, str]]) -> None:
    """Set a function's code to its zip for the chosen architecture."""
    function.pop("Metadata", None)  # how SAM builds it
    name = function["Properties"]["FunctionName"]["Fn::Sub"].removeprefix("${AWS::StackName}-")
    if name not in zips:
        raise LookupError(f"the template has a function {name}, and functions/ has none of that name")
    # No Mappings: their keys may hold no underscore, and x86_64 has one.
    keys = {architecture: {"Fn::Sub": f"${{ArtifactPrefix}}{zips[name][architecture]}"} for architecture in zips[name]}
    function["Properties"]["Code"] = {
        "S3Bucket": {"Ref": "ArtifactBucket"},
        "S3Key": {"Fn::If": ["OnArm", keys[_ARM], keys[_X86]]},
    }
