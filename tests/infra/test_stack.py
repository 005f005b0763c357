"""The deployment without an account: the template is transformed, its stack made in moto, and the whole flow driven.

moto has the queues, the topic, the bus with its rule, the roles and the functions' configurations; the functions run as
processes with just those variables and roles, and moto refuses what a role does not allow. The API server, the bucket
and the repository are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio
from botocore.exceptions import ClientError

from tests.infra.played import Played, played
from tests.infra.stack import NOT_IN_MOTO, Call, Identity, Stack, create
from tests.integration.forwarder_process import forwarder
from tests.integration.platform_team import Platform
from tests.integration.test_documents import group
from tests.integration.test_first_ready import canaries, declare_bucket, declare_repository
from tests.servers.git import GitServer
from tests.servers.kubernetes import KubernetesApi
from tests.servers.process import wait_until
from tests.servers.s3 import Minio
from tests.servers.sqs import aws_server

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAME = "landfall-test"
Forwarding = Callable[[str], contextlib.AbstractContextManager[object]]
WAYS = ["EventBusArn", "ChangesTopicArn", "ChangesQueueArn", "ChangesQueueUrl"]


@pytest.fixture(scope="module")
def stack(transformed: dict[str, Any], cluster: KubernetesApi) -> Iterator[Stack]:
    with aws_server() as server:
        yield create(
            server,
            transformed,
            NAME,
            ClusterName="production",
            Kubeconfig=str(cluster.kubeconfig),
            AllowedNetworks="127.0.0.0/8, ::1/128",
            EncryptionKey="create",
            IamBucketArns="arn:aws:s3:::kratix",
            IamObjectArns="arn:aws:s3:::kratix/destinations/*",
        )


@pytest.fixture(scope="module")
def forwarders_identity(stack: Stack) -> Identity:
    """A role with the template's policy for forwarders."""
    iam = stack.client("iam")
    trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "sts:AssumeRole"}]}
    role = iam.create_role(RoleName="forwarder", AssumeRolePolicyDocument=json.dumps(trust))["Role"]
    document = forwarder_policy(stack)
    # moto knows the resource of SQS's calls alone: for the other two, what was called is compared in the end.
    anywhere = {"Effect": "Allow", "Action": ["events:PutEvents", "sns:PublishBatch"], "Resource": "*"}
    for name, statements in (("own", document["Statement"]), ("moto", [anywhere])):
        text = json.dumps({"Version": "2012-10-17", "Statement": statements})
        iam.put_role_policy(RoleName="forwarder", PolicyName=name, PolicyDocument=text)
    return stack.assume(role["Arn"], "forwarder")


def forwarder_policy(stack: Stack) -> dict[str, Any]:
    arn = stack.outputs()["ForwarderPolicyArn"]
    document: dict[str, Any] = stack.client("iam").get_policy_version(PolicyArn=arn, VersionId="v1")["PolicyVersion"][
        "Document"
    ]
    return document


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def at_work(stack: Stack, forwarders_identity: Identity, git_server: GitServer) -> AsyncIterator[Played]:
    """The stack's functions at work, with nothing allowed but what their roles allow."""
    async with played(stack, LANDFALL_CA_BUNDLE=str(git_server.ca)) as running:
        stack.record()
        stack.enforce(on=True)
        yield running
        stack.enforce(on=False)


@pytest.fixture(scope="module")
def forwarding(stack: Stack, cluster: KubernetesApi, forwarders_identity: Identity) -> Forwarding:
    """Runs the cluster's forwarder until a block ends, with one of the stack's outputs as its target."""

    def run(way: str) -> contextlib.AbstractContextManager[object]:
        return forwarder(
            cluster,
            stack.server,
            stack.outputs()[way],
            AWS_ACCESS_KEY_ID=forwarders_identity.access_key,
            AWS_SECRET_ACCESS_KEY=forwarders_identity.secret_key,
            AWS_SESSION_TOKEN=forwarders_identity.token,
        )

    return run


async def test_the_stack_holds_all_that_the_template_declares(stack: Stack, transformed: dict[str, Any]) -> None:
    wanted = {id_: r for id_, r in transformed["Resources"].items() if stack.has(r)}
    assert set(stack.resources()) == {id_ for id_, r in wanted.items() if r["Type"] not in NOT_IN_MOTO}
    assert {r["Type"] for r in wanted.values()} >= NOT_IN_MOTO
    assert {"Key", "KeyPolicy"} <= set(wanted)
    # No VPC, a kubeconfig for the cluster, and traced only where the caller is.
    assert not {"NetworkPolicy", "ClustersPolicy", "TracingPolicy"} & set(wanted)


async def test_a_stack_with_a_vpc_a_given_key_a_boundary_and_clusters_has_all_of_them(
    transformed: dict[str, Any],
) -> None:
    account, network = "123456789012", {"VpcSubnetIds": "subnet-01234567", "VpcSecurityGroupIds": "sg-01234567"}
    key = f"arn:aws:kms:us-east-1:{account}:key/12345678-1234-1234-1234-123456789012"
    boundary = f"arn:aws:iam::{account}:policy/boundary"
    with aws_server() as server:
        options = {"EncryptionKey": key, "PermissionsBoundaryArn": boundary, "EksClusterName": "prod", **network}
        stack = create(server, transformed, "options", Tracing="Active", **options)
        assert not {"Key", "KeyAlias"} & set(stack.resources())
        for configuration in stack.functions().values():
            assert configuration["VpcConfig"]["SubnetIds"] == ["subnet-01234567"]
            assert configuration["Environment"]["Variables"]["LANDFALL_CLUSTERS"] == '{"prod": {"eks": "prod"}}'
            name = configuration["Role"].rpartition("/")[2]
            role = stack.client("iam").get_role(RoleName=name)["Role"]
            assert role["PermissionsBoundary"]["PermissionsBoundaryArn"] == boundary
            policies = stack.client("iam").list_role_policies(RoleName=name)["PolicyNames"]
            assert {"own", "NetworkPolicy", "KeyPolicy", "ClustersPolicy", "TracingPolicy"} <= set(policies)
        queue = stack.queue(stack.outputs()["ChangesQueueArn"])
        told = stack.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["KmsMasterKeyId"])
        assert told["Attributes"]["KmsMasterKeyId"] == key


async def test_every_queue_of_a_function_hands_failures_to_its_dead_letter_queue(stack: Stack) -> None:
    sqs = stack.client("sqs")
    for mapping in stack.client("lambda").list_event_source_mappings()["EventSourceMappings"]:
        arn = mapping["EventSourceArn"]
        told = sqs.get_queue_attributes(QueueUrl=stack.queue(arn), AttributeNames=["All"])["Attributes"]
        assert json.loads(told["RedrivePolicy"]) == {"deadLetterTargetArn": f"{arn}-dead-letter", "maxReceiveCount": 6}
        assert told["KmsMasterKeyId"].startswith("arn:aws:kms:")
        assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]


async def test_the_rule_of_the_bus_and_the_subscription_of_the_topic_lead_to_the_changes_queue(stack: Stack) -> None:
    outputs, events = stack.outputs(), stack.client("events")
    (rule,) = events.list_rules(EventBusName=outputs["EventBusName"])["Rules"]
    (target,) = events.list_targets_by_rule(Rule=rule["Name"], EventBusName=outputs["EventBusName"])["Targets"]
    assert target["Arn"] == outputs["ChangesQueueArn"]
    assert target["DeadLetterConfig"] == {"Arn": outputs["ChangesQueueArn"].replace("-changes", "-undelivered")}
    (subscription,) = stack.client("sns").list_subscriptions_by_topic(TopicArn=outputs["ChangesTopicArn"])[
        "Subscriptions"
    ]
    assert subscription["Endpoint"] == outputs["ChangesQueueArn"]


async def test_every_function_of_the_tree_is_created_with_a_role_and_a_log_of_its_own(stack: Stack) -> None:
    made = stack.functions()
    logs = {group["logGroupName"]: group for group in stack.client("logs").describe_log_groups()["logGroups"]}
    assert set(made) == {"cleanup", "on-destination-change", "on-work-change", "resync", "status-report"} | {
        "write-canary",
        "write-documents",
    }
    assert len({configuration["Role"] for configuration in made.values()}) == len(made)
    for configuration in made.values():
        assert configuration["Runtime"] == "python3.13"
        assert logs[f"/aws/lambda/{configuration['FunctionName']}"]["retentionInDays"] == 30
        assert configuration["Environment"]["Variables"]["POWERTOOLS_SERVICE_NAME"] == NAME


async def test_the_dashboard_shows_every_function_every_queue_and_the_destinations(stack: Stack) -> None:
    body = stack.client("cloudwatch").get_dashboard(DashboardName=NAME)["DashboardBody"]
    shown = json.dumps([widget["properties"] for widget in json.loads(body)["widgets"]])
    queues = [url.rpartition("/")[2] for url in stack.client("sqs").list_queues()["QueueUrls"]]
    functions = [configuration["FunctionName"] for configuration in stack.functions().values()]
    assert len(queues) == 13
    metrics = ["DestinationsNotReady", "StateStoresNotReady", "WorkPlacementsFailing", "SecondsToReady"]
    metrics += ["CommitConflicts", "ForwarderHeartbeats", "Messages", "MessagesReturned", "Ticks"]
    assert [name for name in (*queues, *functions, *metrics) if name not in shown] == []
    assert "${" not in shown


@pytest.mark.parametrize("way", WAYS)
async def test_an_object_that_changes_becomes_ready_by_every_way_in(
    way: str, at_work: Played, forwarding: Forwarding, *, platform: Platform, minio: Minio, git_server: GitServer
) -> None:
    bucket, repository = declare_bucket(platform, minio), git_server.create_repository()
    declare_repository(platform, git_server, repository)
    with forwarding(way):
        platform.destination("in-bucket", "bucket/default")
        platform.destination("in-git", "git/default")
        await platform.wait_ready("in-bucket", 60)
        await platform.wait_ready("in-git", 60)
    assert minio.objects(bucket) == canaries("destinations/in-bucket")
    assert canaries("destinations/in-git").items() <= repository.tree().items()


async def test_works_are_placed_written_and_cleaned_up_within_the_roles(
    at_work: Played, forwarding: Forwarding, platform: Platform, minio: Minio
) -> None:
    bucket = declare_bucket(platform, minio)
    with forwarding("EventBusArn"):
        platform.destination("worker", "bucket/default", labels={"environment": "dev"}, cleanup="all")
        await platform.wait_ready("worker", 60)
        platform.work("app", group({"app.yaml": b"kind: App\n"}, environment="dev"), promise="app")
        path = "destinations/worker/dependencies/app/"
        await platform.until(lambda: bool(minio.keys(bucket, path)), "the Work's document in the bucket", 60)
        platform.delete("destinations", "worker")
        await platform.until(lambda: platform.get("worker") is None, "worker gone", 60)
        await platform.until(lambda: not minio.keys(bucket, "destinations/worker/"), "its files gone", 60)


async def test_the_schedule_invokes_resync_which_counts_destinations(
    at_work: Played, transformed: dict[str, Any], platform: Platform
) -> None:
    (schedule,) = (
        r["Properties"] for r in transformed["Resources"].values() if r["Type"] == "AWS::Scheduler::Schedule"
    )
    assert schedule["Target"]["Arn"] == {"Fn::GetAtt": ["ResyncFunction", "Arn"]}
    platform.destination("lost", "bucket/missing")
    await at_work.functions["resync"].invoke({"detail-type": "Scheduled Event", "source": "aws.scheduler"})
    await platform.wait_reason("lost", "StateStoreNotFound", 60)
    lines = [line.partition(": ")[2] for line in at_work.log.tail(200, "resync")]
    metrics = [json.loads(line) for line in lines if '"DestinationsNotReady"' in line]
    assert [(m["service"], m.get("cluster"), m["Destinations"]) for m in metrics] == [
        (NAME, "production", [1.0]),
        (NAME, None, [1.0]),
    ]


async def test_moto_refuses_what_a_role_does_not_allow(at_work: Played) -> None:
    stack, status_report = at_work.stack, at_work.identities["status-report"]
    with pytest.raises(ClientError, match="not authorized to perform: sqs:SendMessage"):
        stack.client("sqs", status_report).send_message(
            QueueUrl=at_work.functions["on-destination-change"].function.environment["LANDFALL_OWN_QUEUE_URL"],
            MessageBody="{}",
        )


async def test_after_all_this_nobody_was_refused_and_the_forwarder_kept_to_its_policy(
    at_work: Played, forwarders_identity: Identity
) -> None:
    await asyncio.to_thread(wait_until, "every queue is empty", lambda: not at_work.waiting(), timeout=60)
    said = at_work.log.path.read_text()
    assert "AccessDenied" not in said
    assert "not authorized" not in said
    assert not [name for name, pool in at_work.functions.items() if pool.failures]
    calls = at_work.stack.recorded()
    for name, identity in at_work.identities.items():
        assert any(call.access_key == identity.access_key for call in calls), name
    allowed = {
        (action, statement["Resource"])
        for statement in forwarder_policy(at_work.stack)["Statement"]
        for action in listed(statement["Action"])
    }
    forwarded = {of_iam(call, at_work.stack) for call in calls if call.access_key == forwarders_identity.access_key}
    assert len(forwarded) == 3
    assert forwarded <= allowed


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def of_iam(call: Call, stack: Stack) -> tuple[str, str]:
    """Return the permission that a forwarder's call needs, and on what."""
    match call.action:
        case "events:PutEvents":
            (bus,) = {entry["EventBusName"] for entry in call.parameters["Entries"]}
            return call.action, bus
        case "sns:PublishBatch":
            return "sns:Publish", call.parameters["TopicArn"]
        case _:
            name = call.parameters["QueueUrl"].rpartition("/")[2]
            return call.action, stack.outputs()["ChangesQueueArn"].rpartition(":")[0] + f":{name}"
