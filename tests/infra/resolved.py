"""A transformed template with its parameters put in: what CloudFormation would hand to each service."""

import re
from collections.abc import Mapping
from typing import Any, Final

Template = Mapping[str, Any]

ACCOUNT: Final = "123456789012"
_SUFFIX: Final = {"aws": "amazonaws.com", "aws-cn": "amazonaws.com.cn", "aws-us-gov": "amazonaws.com"}
_NOTHING: Final = object()  # AWS::NoValue

# What `Ref` and `GetAtt …Arn` give, by type. Of others both give the logical id.
_NAMES: Final = {
    "AWS::CloudWatch::Dashboard": "DashboardName",
    "AWS::Events::EventBus": "Name",
    "AWS::Lambda::Function": "FunctionName",
    "AWS::Logs::LogGroup": "LogGroupName",
    "AWS::SNS::Topic": "TopicName",
    "AWS::SQS::Queue": "QueueName",
}
_ARNS: Final = {
    "AWS::Events::EventBus": "events:{region}:{account}:event-bus/{name}",
    "AWS::Events::Rule": "events:{region}:{account}:rule/{name}",
    "AWS::IAM::ManagedPolicy": "iam::{account}:policy/{name}-ABCDEFGHIJKL",
    "AWS::IAM::Role": "iam::{account}:role/{name}-ABCDEFGHIJKL",
    "AWS::KMS::Key": "kms:{region}:{account}:key/12345678-1234-1234-1234-123456789012",
    "AWS::Lambda::Function": "lambda:{region}:{account}:function:{name}",
    "AWS::Logs::LogGroup": "logs:{region}:{account}:log-group:{name}:*",
    "AWS::SNS::Topic": "sns:{region}:{account}:{name}",
    "AWS::SQS::Queue": "sqs:{region}:{account}:{name}",
}


class Resolver:
    """Puts parameters into a template.

    Args:
        template: transformed.
        stack: name of the stack.
        partition: `aws`, `aws-cn` or `aws-us-gov`.
        region: of the stack.
        given: parameters; the template's defaults for the others.
    """

    def __init__(
        self,
        template: Template,
        stack: str,
        given: Mapping[str, str],
        partition: str = "aws",
        region: str = "us-east-1",
    ) -> None:
        unknown = given.keys() - template["Parameters"].keys()
        assert not unknown, f"the template has no parameters {sorted(unknown)}"
        self._template = template
        self._pseudo = {
            "AWS::AccountId": ACCOUNT,
            "AWS::NoValue": _NOTHING,
            "AWS::Partition": partition,
            "AWS::Region": region,
            "AWS::StackName": stack,
            "AWS::URLSuffix": _SUFFIX[partition],
        }
        self._given = given

    def resources(self) -> dict[str, dict[str, Any]]:
        """Return the resources that are created, by logical id."""
        return {id_: self.value(r) for id_, r in self._template["Resources"].items() if self.has(r)}

    def outputs(self) -> dict[str, str]:
        """Return the stack's outputs."""
        return {name: self.value(output["Value"]) for name, output in self._template["Outputs"].items()}

    def has(self, resource: Mapping[str, Any]) -> bool:
        """Whether a resource is created."""
        return "Condition" not in resource or self.true({"Condition": resource["Condition"]})

    def refusals(self) -> list[str]:
        """Return the sentences with which CloudFormation refuses these parameters."""
        return [
            assertion["AssertDescription"]
            for rule in self._template.get("Rules", {}).values()
            if "RuleCondition" not in rule or self.true(rule["RuleCondition"])
            for assertion in rule["Assertions"]
            if not self.true(assertion["Assert"])
        ]

    def true(self, condition: Any) -> bool:
        """Evaluate a condition, or a rule's function."""
        match condition:
            case {"Condition": str(name)}:
                return self.true(self._template["Conditions"][name])
            case {"Fn::Not": [inner]}:
                return not self.true(inner)
            case {"Fn::Or": inner}:
                return any(self.true(each) for each in inner)
            case {"Fn::And": inner}:
                return all(self.true(each) for each in inner)
            case {"Fn::Equals": [one, other]}:
                return bool(_words(self.value(one)) == _words(self.value(other)))
            case {"Fn::EachMemberEquals": [members, other]}:
                return all(member == self.value(other) for member in self.value(members))
            case _:
                raise NotImplementedError(condition)

    def value(self, node: Any) -> Any:  # noqa: C901, PLR0911 -- one a function of CloudFormation
        """Return what a part of the template becomes."""
        match node:
            case {"Ref": str(name)}:
                return self._ref(name)
            case {"Fn::GetAtt": [str(id_), str(attribute)]}:
                return self._attribute(id_, attribute)
            case {"Fn::Sub": [str(text), {**names}]}:
                return self._sub(text, {str(name): self.value(value) for name, value in names.items()})
            case {"Fn::Sub": str(text)}:
                return self._sub(text, {})
            case {"Fn::If": [name, then, otherwise]}:
                return self.value(then if self.true({"Condition": name}) else otherwise)
            case {"Fn::Join": [separator, items]}:
                return separator.join(self.value(items))
            case {"Fn::Select": [place, items]}:
                return self.value(items)[int(place)]
            case {"Fn::Split": [separator, text]}:
                return self.value(text).split(separator)
            case {**fields}:
                assert not any(str(key).startswith("Fn::") for key in fields), node
                found = {str(key): self.value(value) for key, value in fields.items()}
                return {key: value for key, value in found.items() if value is not _NOTHING}
            case list(items):
                return [value for value in map(self.value, items) if value is not _NOTHING]
            case _:
                return node

    def _ref(self, name: str) -> Any:
        if name in self._pseudo:
            return self._pseudo[name]
        if name in self._template["Parameters"]:
            parameter = self._template["Parameters"][name]
            value = self._given.get(name, str(parameter["Default"]))
            return value.split(",") if parameter["Type"] == "CommaDelimitedList" else value
        type_ = self._template["Resources"][name]["Type"]
        if type_ in {"AWS::SNS::Topic", "AWS::IAM::ManagedPolicy"}:
            return self._attribute(name, "Arn")
        if type_ == "AWS::SQS::Queue":
            host = f"sqs.{self._pseudo['AWS::Region']}.{self._pseudo['AWS::URLSuffix']}"
            return f"https://{host}/{ACCOUNT}/{self._name(name)}"
        return self._name(name)

    def _name(self, id_: str) -> str:
        resource = self._template["Resources"][id_]
        named = resource["Properties"].get(_NAMES.get(resource["Type"], ""))
        return self.value(named) if named else f"{self._pseudo['AWS::StackName']}-{id_}"

    def _attribute(self, id_: str, attribute: str) -> str:
        if attribute != "Arn":
            return self._name(id_)
        arn = _ARNS[self._template["Resources"][id_]["Type"]].format(
            region=self._pseudo["AWS::Region"], account=ACCOUNT, name=self._name(id_)
        )
        return f"arn:{self._pseudo['AWS::Partition']}:{arn}"

    def _sub(self, text: str, names: Mapping[str, Any]) -> str:
        def found(match: re.Match[str]) -> str:
            name, _, attribute = match[1].partition(".")
            if match[1] in names:
                return str(names[match[1]])
            return str(self._attribute(name, attribute) if attribute else self._ref(name))

        return re.sub(r"\$\{([A-Za-z:.0-9]+)\}", found, text)


def _words(value: Any) -> Any:
    """Return a value as conditions compare it: a number as the text that a parameter has."""
    return value if isinstance(value, list) else str(value)
