"""Parameters that do not fit together, keys that are given, and what differs where a stack is deployed or built.

The template is read as SAM transforms it, with its parameters put in. Each rule names its source.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.infra.resolved import ACCOUNT, Resolver
from tests.infra.test_aws_limits import listed, longest, of_type
from tests.infra.test_aws_rules import named, resolved

ARN = "arn:aws:{}:us-east-1:111122223333:{}"
BUCKETS = {"IamBucketArns": "arn:aws:s3:::kratix", "IamObjectArns": "arn:aws:s3:::kratix/destinations/*"}
VPC = {"VpcSubnetIds": "subnet-01234567,subnet-12345678", "VpcSecurityGroupIds": "sg-01234567"}
SECRETS = {
    "Clusters": "{edge: {kubeconfigSecret: edge}}",
    "ClusterSecretArns": ARN.format("secretsmanager", "secret:edge-??????"),
}
KEYS = {"KmsKeyArns": ARN.format("kms", "key/12345678-1234-1234-1234-123456789012")}
EKS = {"EksClusterName": "prod"}

HALVES = [
    ({"IamBucketArns": BUCKETS["IamBucketArns"]}, "IamBucketArns needs IamObjectArns"),
    ({"IamObjectArns": BUCKETS["IamObjectArns"]}, "IamObjectArns needs IamBucketArns"),
    ({"VpcSubnetIds": VPC["VpcSubnetIds"]}, "VpcSubnetIds needs VpcSecurityGroupIds"),
    ({"VpcSecurityGroupIds": VPC["VpcSecurityGroupIds"]}, "VpcSecurityGroupIds needs VpcSubnetIds"),
    (KEYS, "KmsKeyArns is for buckets and secrets"),
    ({"EksClusterArns": ARN.format("eks", "cluster/staging")}, "EksClusterArns needs Clusters"),
    ({"ClusterRoleArns": "arn:aws:iam::111122223333:role/landfall"}, "ClusterRoleArns needs Clusters"),
    ({"ClusterSecretArns": SECRETS["ClusterSecretArns"]}, "ClusterSecretArns needs Clusters"),
    ({**EKS, "ClusterName": "production"}, "ClusterName must be EksClusterName"),
    ({**EKS, "Kubeconfig": "/var/task/kubeconfig"}, "Kubeconfig is read only if"),
    ({**SECRETS, "Kubeconfig": "/var/task/kubeconfig"}, "Kubeconfig is read only if"),
]
WHOLE = [
    {},
    BUCKETS,
    {**BUCKETS, **KEYS},
    {**SECRETS, **KEYS},
    VPC,
    SECRETS,
    EKS,
    {**EKS, "ClusterName": "prod"},
    {**EKS, **SECRETS, "ClusterName": "edge"},
    {"ClusterName": "production", "Kubeconfig": "/var/task/kubeconfig"},
]


@pytest.mark.parametrize(("given", "sentence"), HALVES, ids=["+".join(given) for given, _ in HALVES])
def test_parameters_that_are_given_by_halves_are_refused_with_a_sentence(
    transformed: dict[str, Any], given: dict[str, str], sentence: str
) -> None:
    # https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/rules-section-structure.html
    refusals = Resolver(transformed, "landfall", given).refusals()
    assert [refusal for refusal in refusals if sentence in refusal] == refusals != []


@pytest.mark.parametrize("given", WHOLE, ids=["+".join(given) or "nothing" for given in WHOLE])
def test_parameters_that_belong_together_are_taken(transformed: dict[str, Any], given: dict[str, str]) -> None:
    assert Resolver(transformed, "landfall", given).refusals() == []


def test_everything_at_its_longest_is_taken(transformed: dict[str, Any]) -> None:
    assert Resolver(transformed, "landfall", longest(transformed)).refusals() == []


def test_rules_use_nothing_that_rules_do_not_know(transformed: dict[str, Any]) -> None:
    # https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/intrinsic-function-reference-rules.html
    used = set(re.findall(r"'(Fn::\w+)'", str(transformed["Rules"])))
    assert used
    assert used <= {"Fn::And", "Fn::Contains", "Fn::EachMemberEquals", "Fn::EachMemberIn", "Fn::Equals"} | {
        "Fn::Not",
        "Fn::Or",
        "Fn::RefAll",
        "Fn::ValueOf",
        "Fn::ValueOfAll",
    }


WRITERS = {"cleanup", "write-canary", "write-documents"}


def test_buckets_and_secrets_with_a_customers_key_can_be_used(transformed: dict[str, Any]) -> None:
    # https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingKMSEncryption.html
    # https://docs.aws.amazon.com/secretsmanager/latest/userguide/security-encryption.html
    resources = resolved(transformed, **BUCKETS, **SECRETS, **KEYS)
    policies = {
        f"arn:aws:iam::{ACCOUNT}:policy/landfall-{id_}-ABCDEFGHIJKL": policy["PolicyDocument"]
        for id_, policy in of_type(resources, "AWS::IAM::ManagedPolicy").items()
    }
    may: dict[tuple[str, str], set[str]] = {}
    for role in of_type(resources, "AWS::IAM::Role").values():
        (function,) = [tag["Value"] for tag in role.get("Tags", []) if tag["Key"] == "landfall-function"] or [""]
        documents = [policy["PolicyDocument"] for policy in role.get("Policies", [])]
        documents += [policies[arn] for arn in role.get("ManagedPolicyArns", [])]
        for statement in [s for document in documents for s in document["Statement"]]:
            if listed(statement["Resource"]) == [KEYS["KmsKeyArns"]]:
                via = statement["Condition"]["StringLike"]["kms:ViaService"]
                may.setdefault((function, via), set()).update(listed(statement["Action"]))
    functions = {name.removeprefix("landfall-") for name in named(resources, "AWS::Lambda::Function", "FunctionName")}
    of_secrets = {(function, "secretsmanager.*.amazonaws.com"): {"kms:Decrypt"} for function in functions}
    of_buckets = {(function, "s3.*.amazonaws.com"): {"kms:Decrypt", "kms:GenerateDataKey"} for function in WRITERS}
    assert may == {**of_secrets, **of_buckets}


# ---------------------------------------------------------------- partitions, and the build


@pytest.mark.parametrize(
    ("partition", "region", "console"),
    [
        ("aws", "eu-central-1", "console.aws.amazon.com"),
        # https://docs.amazonaws.cn/en_us/aws/latest/userguide/endpoints-Ningxia.html
        ("aws-cn", "cn-northwest-1", "console.amazonaws.cn"),
        # https://docs.aws.amazon.com/govcloud-us/latest/UserGuide/using-govcloud-endpoints.html
        ("aws-us-gov", "us-gov-west-1", "console.amazonaws-us-gov.com"),
    ],
)
def test_addresses_are_those_of_the_partition(
    transformed: dict[str, Any], partition: str, region: str, console: str
) -> None:
    resolver = Resolver(transformed, "landfall", longest(transformed), partition, region)
    assert resolver.outputs()["DashboardUrl"].startswith(f"https://{region}.{console}/cloudwatch/home?region={region}#")
    if partition != "aws":
        arns = re.findall(r"arn:aws:(?!eks|iam::1111|s3|kms|secretsmanager|sns|iam)\w+", str(resolver.resources()))
        assert arns == []


def test_sam_builds_anew_what_it_builds_in_a_container() -> None:
    # SAM's cache of container builds looks at CodeUri alone, and so not at shared/.
    # https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/sam-cli-command-reference-sam-build.html
    build = tomllib.loads(Path("infra/samconfig.toml").read_text())["default"]["build"]["parameters"]
    assert not build.get("cached")
