"""From a changed object to the canary queue: the real forwarder, each target that it knows, and the real handler."""

import json
import secrets
from collections.abc import Callable, Iterator

import pytest

from tests.functions.conftest import Deployment
from tests.functions.test_handlers import NOTHING_RETURNED, declare, handler
from tests.integration.forwarder_process import Inbox, bus_before, forwarder, topic_before
from tests.servers.process import wait_until
from tests.servers.s3 import Minio
from tests.servers.sqs import AwsServer, Queue

TARGETS: dict[str, Callable[[AwsServer, Queue], str]] = {
    "bus": bus_before,
    "topic": lambda aws, queue: topic_before(aws, queue, raw=False),
    "topic, raw": lambda aws, queue: topic_before(aws, queue, raw=True),
    "queue by ARN": lambda _, queue: queue.arn,
    "queue by URL": lambda _, queue: queue.url,
}


@pytest.fixture(params=TARGETS)
def inbox(request: pytest.FixtureRequest, deployment: Deployment) -> Iterator[Inbox]:
    """The changes queue behind a forwarder that sends to one kind of target."""
    queue = deployment.sqs.create_queue()
    target = TARGETS[request.param](deployment.sqs, queue)
    with forwarder(deployment.platform.api, deployment.sqs, target, LANDFALL_CLUSTER="default"):
        yield Inbox(deployment.sqs, queue)


def test_a_changed_destination_comes_to_the_canary_queue(deployment: Deployment, minio: Minio, inbox: Inbox) -> None:
    declare(deployment, minio)
    inbox.wait_for(("ADDED", "worker-1"), ("ADDED", "worker-2"))
    inbox.wait_for(("ADDED", "default"), kind="BucketStateStore")
    inbox.forget()
    deployment.platform.destination("worker-1", "bucket/default", path="moved")
    inbox.wait_for(("MODIFIED", "worker-1"))
    inbox.keep("Destination")  # the store's Secret is told when it is listed, which may be now
    assert handler("on_destination_change")(inbox.batch(), deployment.context) == NOTHING_RETURNED
    (message,) = deployment.received("canary")
    obj = deployment.platform.get("worker-1")
    assert obj is not None
    assert (message["cluster"], message["kind"], message["name"]) == ("default", "Destination", "worker-1")
    assert (message["uid"], message["generation"]) == (obj["metadata"]["uid"], 2)


@pytest.mark.parametrize("way", TARGETS)
def test_a_heartbeat_becomes_a_metric_of_its_cluster_and_no_work(
    way: str, deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    queue = deployment.sqs.create_queue()
    target, inbox = TARGETS[way](deployment.sqs, queue), Inbox(deployment.sqs, queue)
    with forwarder(deployment.platform.api, deployment.sqs, target, LANDFALL_HEARTBEAT_SECONDS="1"):
        wait_until("two heartbeats", lambda: inbox.heartbeats() >= 2, timeout=30)
    capsys.readouterr()
    assert handler("on_destination_change")(inbox.batch(), deployment.context) == NOTHING_RETURNED
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"ForwarderHeartbeats"' in line]
    counted = {line.get("cluster"): sum(line["ForwarderHeartbeats"]) for line in lines}
    assert counted == {"default": inbox.heartbeats(), None: inbox.heartbeats()}
    assert [queue for queue in deployment.queues if deployment.received(queue)] == []


def test_a_heartbeat_of_a_cluster_that_is_not_served_becomes_a_warning_and_no_metric(
    deployment: Deployment, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever may send could else make as many metrics as there are names, and each is paid for."""
    inbox = Inbox(deployment.sqs, deployment.sqs.create_queue())
    deployment.sqs.send(inbox.queue.url, '{"cluster":"elsewhere","type":"HEARTBEAT"}')
    wait_until("it is there", lambda: inbox.heartbeats() == 1, timeout=10)
    capsys.readouterr()
    assert handler("on_destination_change")(inbox.batch(), deployment.context) == NOTHING_RETURNED
    assert "ForwarderHeartbeats" not in capsys.readouterr().out
    assert "names the cluster 'elsewhere', which is not served here" in caplog.text


def test_a_rotated_secret_has_its_state_store_looked_at(deployment: Deployment, minio: Minio) -> None:
    queue = deployment.sqs.create_queue()
    inbox = Inbox(deployment.sqs, queue)
    with forwarder(deployment.platform.api, deployment.sqs, queue.arn):
        declare(deployment, minio)
        inbox.wait_for(("ADDED", "worker-2"))
        inbox.wait_for(("ADDED", "default"), kind="BucketStateStore")
        inbox.forget()
        deployment.platform.secret("aws-credentials", accessKeyID="rotated", secretAccessKey=secrets.token_hex())
        wait_until("the Secret told", lambda: bool(inbox.names("Secret")), timeout=30)
        inbox.keep("Secret")
    assert handler("on_destination_change")(inbox.batch(), deployment.context) == NOTHING_RETURNED
    assert [(m["kind"], m["name"]) for m in deployment.received("canary")] == [("BucketStateStore", "default")]


def test_what_the_functions_report_comes_back_to_nobody_but_for_a_state_store(
    deployment: Deployment, minio: Minio
) -> None:
    declare(deployment, minio)
    queue = deployment.sqs.create_queue()
    inbox = Inbox(deployment.sqs, queue)
    with forwarder(deployment.platform.api, deployment.sqs, queue.arn):
        inbox.wait_for(("ADDED", "worker-1"), ("ADDED", "worker-2"))
        inbox.wait_for(("ADDED", "default"), kind="BucketStateStore")
        handler("on_destination_change")(inbox.batch(), deployment.context)
        inbox.forget()
        write_and_report(deployment)
        assert deployment.platform.ready("worker-1")[0] == "True"
        inbox.wait_for(("MODIFIED", "default"), kind="BucketStateStore")
        deployment.platform.destination("worker-3", "bucket/default")  # whatever came before it was told before
        inbox.wait_for(("ADDED", "worker-3"))
        assert inbox.names() == [("ADDED", "worker-3")]
    # An echo that on-destination-change can know as one: it asks for no second look at the store.
    inbox.keep("BucketStateStore")
    assert handler("on_destination_change")(inbox.batch(), deployment.context) == NOTHING_RETURNED
    assert deployment.received("canary") == []


def write_and_report(deployment: Deployment) -> None:
    """Run write-canary and status-report over what lies in their queues."""
    for queue, function in (("canary", "write_canary"), ("status", "status_report")):
        inbox = Inbox(deployment.sqs, deployment.queues[queue])
        while found := deployment.sqs.receive(deployment.queues[queue].url):
            inbox.messages += found
            for message in found:
                deployment.sqs.delete(deployment.queues[queue].url, message["ReceiptHandle"])
        assert handler(function)(inbox.batch(), deployment.context) == NOTHING_RETURNED
