"""A stack of the transformed template in moto's CloudFormation, and what moto has to be helped with.

The names, variables, roles and mappings that functions run with come from the stack, never from a test.
"""

import ast
import io
import json
import secrets
import zipfile
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl

import botocore.session

from infra.deployment.transform import BUCKET
from infra.local.template import ROOT, Function
from tests.infra.resolved import Resolver
from tests.servers import web
from tests.servers.sqs import AwsServer

# What moto's CloudFormation passes over. The subscription is made by `create`, from the same properties.
NOT_IN_MOTO = {
    "AWS::CloudWatch::Alarm",
    "AWS::Lambda::EventInvokeConfig",
    "AWS::SNS::Subscription",
    "AWS::SNS::TopicPolicy",
    "AWS::SQS::QueuePolicy",
    "AWS::Scheduler::Schedule",
}

# IAM knows one permission for a call and its batch; moto asks for the name of the call.
BATCHES = {
    "sqs:SendMessage": "sqs:SendMessageBatch",
    "sqs:DeleteMessage": "sqs:DeleteMessageBatch",
    "sqs:ChangeMessageVisibility": "sqs:ChangeMessageVisibilityBatch",
}


@dataclass(frozen=True)
class Identity:
    """Who calls AWS."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str = field(default="", repr=False)

    def environment(self) -> dict[str, str]:
        """Return what AWS clients have to find in their environment to be this one."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_SESSION_TOKEN": self.token,
        }


@dataclass(frozen=True)
class Call:
    """One request as moto recorded it.

    Attributes:
        access_key: whose it was.
        action: in IAM's words, such as `sqs:SendMessage`.
        parameters: of the request.
    """

    access_key: str
    action: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Stack:
    """A created stack.

    Attributes:
        server: moto.
        name: of the stack.
        template: as it was given to moto.
        resolver: has its parameters.
    """

    server: AwsServer
    name: str
    template: Mapping[str, Any] = field(repr=False)
    resolver: Resolver = field(repr=False)

    def client(self, service: str, identity: Identity | None = None) -> Any:
        """Return a botocore client; its calls are the operator's where nobody else is named."""
        return _client(self.server, service, identity or self.operator)

    @cached_property
    def operator(self) -> Identity:
        """Somebody who may do everything."""
        iam = _client(self.server, "iam", ANYBODY)
        name = f"operator-{secrets.token_hex(4)}"
        iam.create_user(UserName=name)
        everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        iam.put_user_policy(UserName=name, PolicyName="everything", PolicyDocument=json.dumps(everything))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return Identity(key["AccessKeyId"], key["SecretAccessKey"])

    def resources(self) -> dict[str, tuple[str, str]]:
        """Return by logical id what was created: type and physical id."""
        pages = self.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=self.name)
        found = [resource for page in pages for resource in page["StackResourceSummaries"]]
        # What moto passes over has no names here.
        return {
            r["LogicalResourceId"]: (r["ResourceType"], r["PhysicalResourceId"]) for r in found if r["ResourceType"]
        }

    def has(self, resource: Mapping[str, Any]) -> bool:
        """Whether a resource of the template is there with these parameters."""
        return self.resolver.has(resource)

    def outputs(self) -> dict[str, str]:
        """Return the stack's outputs."""
        (stack,) = self.client("cloudformation").describe_stacks(StackName=self.name)["Stacks"]
        return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}

    def functions(self) -> dict[str, dict[str, Any]]:
        """Return the configurations of the created functions, by the names of their folders."""
        found = self.client("lambda").list_functions()["Functions"]
        return {f["FunctionName"].removeprefix(f"{self.name}-"): f for f in found}

    def queue(self, arn: str) -> str:
        """Return the URL of a queue."""
        url: str = self.client("sqs").get_queue_url(QueueName=arn.rpartition(":")[2])["QueueUrl"]
        return url

    def assume(self, role_arn: str, session: str) -> Identity:
        """Return the credentials that AWS gives to whoever has a role."""
        got = self.client("sts").assume_role(RoleArn=role_arn, RoleSessionName=session)["Credentials"]
        return Identity(got["AccessKeyId"], got["SecretAccessKey"], got["SessionToken"])

    def enforce(self, *, on: bool) -> None:
        """Let moto check signatures and the rights of roles, or not."""
        answer = web.request("POST", f"{self.server.url}/moto-api/reset-auth", body=b"0" if on else b"inf")
        assert answer.status == 200, answer

    def record(self) -> None:
        """Begin to keep requests."""
        web.request("POST", f"{self.server.url}/moto-api/recorder/reset-recording")
        web.request("POST", f"{self.server.url}/moto-api/recorder/start-recording")

    def recorded(self) -> list[Call]:
        """Return the requests since `record`."""
        answer = web.request("GET", f"{self.server.url}/moto-api/recorder/download-recording")
        assert answer.status == 200, answer
        return [call for line in answer.body.decode().splitlines() if (call := _call(json.loads(line)))]


ANYBODY = Identity("testing", "testing")  # while moto checks nothing


def create(server: AwsServer, template: Mapping[str, Any], name: str, **parameters: str) -> Stack:
    """Create a stack.

    Args:
        server: moto.
        template: transformed.
        name: of the stack.
        parameters: of the template; moto would not check them against its rules.
    """
    resolver = Resolver(template, name, parameters)
    assert resolver.refusals() == []
    made = {**template, "Resources": _batch_names(_present(template["Resources"], resolver))}
    s3, zipped = _client(server, "s3", ANYBODY), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("empty.py", "")  # moto wants a file; what runs is the folder of the same name
    s3.create_bucket(Bucket=BUCKET)
    for resource in made["Resources"].values():
        if resource["Type"] == "AWS::Lambda::Function":
            code = resource["Properties"]["Code"]
            if isinstance(code["S3Bucket"], Mapping):
                continue  # a released template: the deployer has put the zip there
            s3.put_object(Bucket=code["S3Bucket"], Key=code["S3Key"], Body=zipped.getvalue())
    _client(server, "cloudformation", ANYBODY).create_stack(
        StackName=name,
        TemplateBody=json.dumps(made),
        Capabilities=["CAPABILITY_IAM"],
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
    )
    stack = Stack(server, name, made, resolver)
    lambda_ = stack.client("lambda")
    for mapping in lambda_.list_event_source_mappings()["EventSourceMappings"]:
        # moto would look for a container engine; the mappings are played by infra/local.
        lambda_.update_event_source_mapping(UUID=mapping["UUID"], Enabled=False)
    _subscribe(stack)
    _mend_roles(stack)
    return stack


def function(stack: Stack, id_: str, name: str) -> Function:
    """Return a created function as the local runtime knows functions; only its code is found by its name."""
    made = stack.functions()[name]
    return Function(
        id=id_,
        name=name,
        folder=ROOT / "functions" / name,
        handler=made["Handler"],
        timeout_seconds=made["Timeout"],
        memory_mb=made["MemorySize"],
        environment=made["Environment"]["Variables"],
        queue_urls={},
    )


def _client(server: AwsServer, service: str, identity: Identity) -> Any:
    return botocore.session.get_session().create_client(
        service,
        region_name=server.region,
        endpoint_url=server.url,
        aws_access_key_id=identity.access_key,
        aws_secret_access_key=identity.secret_key,
        aws_session_token=identity.token or None,
    )


def _subscribe(stack: Stack) -> None:
    made = stack.resources()
    sns, sqs = stack.client("sns"), stack.client("sqs")
    for resource in stack.template["Resources"].values():
        if resource["Type"] != "AWS::SNS::Subscription":
            continue
        properties = resource["Properties"]
        url = made[properties["Endpoint"]["Fn::GetAtt"][0]][1]
        endpoint = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        sns.subscribe(
            TopicArn=made[properties["TopicArn"]["Ref"]][1],
            Protocol=properties["Protocol"],
            Endpoint=endpoint,
            Attributes={"RawMessageDelivery": str(properties["RawMessageDelivery"]).lower()},
        )


def _mend_roles(stack: Stack) -> None:
    """Write the policies of each role anew: moto's CloudFormation keeps them as Python prints them, not as JSON.

    Managed policies become the role's own: moto attaches none.
    """
    made, iam = stack.resources(), stack.client("iam")
    for id_, resource in stack.template["Resources"].items():
        if resource["Type"] != "AWS::IAM::Role":
            continue
        role = made[id_][1]
        documents = {
            name: ast.literal_eval(iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"])
            for name in iam.list_role_policies(RoleName=role)["PolicyNames"]
        }
        for policy in resource["Properties"].get("ManagedPolicyArns", []):
            version = iam.get_policy_version(PolicyArn=made[policy["Ref"]][1], VersionId="v1")["PolicyVersion"]
            documents[policy["Ref"]] = version["Document"]
        for name, document in documents.items():
            document.setdefault("Version", "2012-10-17")  # SAM's own policies leave it out
            iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(document))


def _present(node: Any, resolver: Resolver) -> Any:
    """Leave out of lists what a condition leaves out: moto would put a null there."""
    if isinstance(node, list):
        chosen = [_chosen(item, resolver) for item in node]
        return [_present(item, resolver) for item in chosen if item != {"Ref": "AWS::NoValue"}]
    if isinstance(node, Mapping):
        if "Fn::If" in node:
            name, *ways = node["Fn::If"]
            return {"Fn::If": [name, *(_present(way, resolver) for way in ways)]}
        return {key: _present(value, resolver) for key, value in node.items()}
    return node


def _chosen(item: Any, resolver: Resolver) -> Any:
    while isinstance(item, Mapping) and "Fn::If" in item:
        name, then, otherwise = item["Fn::If"]
        item = then if resolver.true({"Condition": name}) else otherwise
    return item


def _batch_names(node: Any) -> Any:
    if isinstance(node, list):
        return [_batch_names(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    found = {key: _batch_names(value) for key, value in node.items()}
    if "Effect" in found and "Action" in found:
        actions = found["Action"] if isinstance(found["Action"], list) else [found["Action"]]
        found["Action"] = [*actions, *(BATCHES[action] for action in actions if action in BATCHES)]
    return found


def _call(entry: Mapping[str, Any]) -> Call | None:
    headers = {name.lower(): value for name, value in entry["headers"].items()}
    if "authorization" not in headers:
        return None
    access_key, _, _, service, _ = headers["authorization"].partition("Credential=")[2].partition(",")[0].split("/")
    action = headers.get("x-amz-target", "").rpartition(".")[2]
    body = b64decode(entry["body"]) if entry["body_encoded"] else (entry["body"] or "").encode()
    parameters = json.loads(body) if action else _query(body)
    action = f"{service}:{action or parameters.get('Action', entry['method'])}"
    singles = {batch: single for single, batch in BATCHES.items()}
    return Call(access_key, singles.get(action, action), parameters)


def _query(body: bytes) -> dict[str, str]:
    return dict(parse_qsl(body.decode(errors="replace")))
