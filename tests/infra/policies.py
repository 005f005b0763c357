"""What the documentation's policies have to allow, held to the template."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from infra.artifacts import WRITERS
from infra.deployment.iam import grants

_HERE = "us-east-1:123456789012"
# By type of resource, what its ARN is made of: the property that names it, or nothing where CloudFormation does.
_ARNS = {
    "AWS::CloudWatch::Alarm": (f"arn:aws:cloudwatch:{_HERE}:alarm:", "AlarmName"),
    "AWS::CloudWatch::Dashboard": ("arn:aws:cloudwatch::123456789012:dashboard/", "DashboardName"),
    "AWS::Events::EventBus": (f"arn:aws:events:{_HERE}:event-bus/", "Name"),
    "AWS::Events::Rule": (f"arn:aws:events:{_HERE}:rule/landfall/", ""),
    "AWS::IAM::ManagedPolicy": ("arn:aws:iam::123456789012:policy/", ""),
    "AWS::IAM::Role": ("arn:aws:iam::123456789012:role/", ""),
    "AWS::Lambda::EventSourceMapping": (f"arn:aws:lambda:{_HERE}:event-source-mapping:", ""),
    "AWS::Lambda::Function": (f"arn:aws:lambda:{_HERE}:function:", "FunctionName"),
    "AWS::Logs::LogGroup": (f"arn:aws:logs:{_HERE}:log-group:", "LogGroupName"),
    "AWS::SNS::Topic": (f"arn:aws:sns:{_HERE}:", "TopicName"),
    "AWS::SQS::Queue": (f"arn:aws:sqs:{_HERE}:", "QueueName"),
    "AWS::Scheduler::Schedule": (f"arn:aws:scheduler:{_HERE}:schedule/default/", "Name"),
}
# What belongs to one of those, or has a statement of its own that names no names.
_PARTS = {
    "AWS::EKS::AccessEntry",
    "AWS::Lambda::EventInvokeConfig",
    "AWS::SNS::Subscription",
    "AWS::SNS::TopicPolicy",
    "AWS::SQS::QueuePolicy",
}
# What creates a resource, where that is not any action of its service.
_CREATES = {
    "AWS::EKS::AccessEntry": "eks:CreateAccessEntry",
    "AWS::IAM::ManagedPolicy": "iam:CreatePolicy",
    "AWS::IAM::Role": "iam:CreateRole",
    "AWS::Lambda::EventSourceMapping": "lambda:CreateEventSourceMapping",
}
_KEYS = {"AWS::KMS::Alias", "AWS::KMS::Key"}  # the page says what to do about them


def check_stack_policy(policy: Mapping[str, Any], template: Mapping[str, Any]) -> None:
    """Check that CloudFormation's role may make each resource of the template, by the name that it will have.

    Args:
        policy: of the role.
        template: transformed; the stack is called `landfall`.
    """
    for id_, resource in template["Resources"].items():
        type_ = resource["Type"]
        if type_ in _KEYS:
            continue
        action = _CREATES.get(type_, f"{type_.split('::')[1].lower()}:Anything")
        arn = "" if type_ in _PARTS else _arn(id_, resource)
        assert any(_allows(statement, action, arn) for statement in policy["Statement"]), (id_, action, arn)


def check_bucket_policy(policy: Mapping[str, Any], template: Mapping[str, Any], roles: set[str], bucket: str) -> None:
    """Check that a bucket of another account allows the writing functions exactly what their own account allows them.

    Args:
        policy: of the bucket.
        template: transformed.
        roles: ARNs of those functions' roles.
        bucket: its name.
    """
    own = [grant for grant in grants(template) if "s3:" in str(grant.actions)]
    assert {grant.who for grant in own} == WRITERS
    allowed = {grant.sid: set(grant.actions) for grant in own}
    theirs = {statement["Sid"]: statement for statement in policy["Statement"]}
    assert {sid: set(listed(statement["Action"])) for sid, statement in theirs.items()} == {
        "Bucket": allowed["Buckets"],
        "Objects": allowed["Objects"],
    }
    assert all(set(statement["Principal"]["AWS"]) == roles for statement in theirs.values())
    assert theirs["Bucket"]["Resource"] == f"arn:aws:s3:::{bucket}"
    assert theirs["Objects"]["Resource"] == f"arn:aws:s3:::{bucket}/destinations/*"


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _arn(id_: str, resource: Mapping[str, Any]) -> str:
    begin, key = _ARNS[resource["Type"]]
    if not key:
        return f"{begin}landfall-{id_}-1ABCDEFGHIJKL"
    name: Any = resource["Properties"][key]
    return begin + str(name["Fn::Sub"] if isinstance(name, Mapping) else name).replace("${AWS::StackName}", "landfall")


def _allows(statement: Mapping[str, Any], action: str, arn: str) -> bool:
    return any(fnmatchcase(action, allowed) for allowed in listed(statement["Action"])) and (
        not arn or any(fnmatchcase(arn, resource) for resource in listed(statement["Resource"]))
    )
