"""Each events/ file through its handler, with a real Kubernetes API, SQS and S3 behind it."""

import ast
import base64
import gzip
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from shared.errors import LandfallError, UnknownEvent
from tests.functions.conftest import ROOT, Deployment
from tests.servers.s3 import Minio

Event = Callable[[str], dict[str, Any]]

NOTHING_RETURNED: dict[str, list[Any]] = {"batchItemFailures": []}
FILES = {
    "on_destination_change": "on-destination-change/watch-event",
    "write_canary": "write-canary/references",
    "cleanup": "cleanup/references",
    "on_work_change": "on-work-change/references",
    "write_documents": "write-documents/references",
    "status_report": "status-report/verdicts",
    "resync": "resync/schedule",
}
CHANGES = sorted(path.stem for path in (ROOT / "events" / "on-destination-change").glob("*.json"))
WITHOUT_WORK = {"status-echo.in-sqs"}  # an event may lie about a deletion: what is there is looked at


def handler(module: str) -> Callable[[Any, Any], Any]:
    found: ModuleType = importlib.import_module(module)
    function: Callable[[Any, Any], Any] = found.lambda_handler
    return function


def declare(deployment: Deployment, minio: Minio, **spec: Any) -> str:
    """Declare what the events speak of: State Store `default`, Destinations `worker-1` and `worker-2`."""
    bucket = minio.create_bucket()
    platform = deployment.platform
    platform.secret("aws-credentials", accessKeyID=minio.root.access_key, secretAccessKey=minio.root.secret_key)
    platform.bucket_store(
        "default",
        path="destinations",
        endpoint=minio.endpoint,
        insecure=True,
        bucketName=bucket,
        secretRef={"name": "aws-credentials"},
    )
    platform.destination("worker-1", "bucket/default", **{"path": "dev", **spec})
    platform.destination("worker-2", "bucket/default")
    return bucket


@pytest.mark.parametrize("name", [name for name in CHANGES if name != "unknown-among-good.in-sqs"])
def test_every_change_sends_what_it_concerns_to_the_canary_queue(
    deployment: Deployment, minio: Minio, event: Event, name: str
) -> None:
    declare(deployment, minio)
    answer = handler("on_destination_change")(event(f"on-destination-change/{name}"), deployment.context)
    assert answer == NOTHING_RETURNED
    sent = deployment.received("canary")
    if name in WITHOUT_WORK:
        assert sent == []
        return
    (message,) = sent
    if name.startswith(("state-store", "secret")):
        assert (message["kind"], message["name"]) == ("BucketStateStore", "default")
    else:
        assert (message["kind"], message["name"]) == ("Destination", "worker-1")
        obj = deployment.platform.get("worker-1")
        assert obj is not None
        assert (message["uid"], message["generation"]) == (obj["metadata"]["uid"], obj["metadata"]["generation"])


def test_unknown_messages_return_alone_and_the_others_are_done(
    deployment: Deployment, minio: Minio, event: Event
) -> None:
    declare(deployment, minio)
    batch = event("on-destination-change/unknown-among-good.in-sqs")
    answer = handler("on_destination_change")(batch, deployment.context)
    ids = [record["messageId"] for record in batch["Records"]]
    assert answer == {"batchItemFailures": [{"itemIdentifier": id_} for id_ in ids[1:]]}
    assert [message["name"] for message in deployment.received("canary")] == ["worker-1"]


def test_messages_with_parts_of_the_wrong_kind_return_alone_and_the_others_are_done(
    deployment: Deployment, minio: Minio, event: Event
) -> None:
    declare(deployment, minio)
    good = event("on-destination-change/watch-event")["object"]
    well = {**good, "metadata": {**good["metadata"], "generation": 1}}
    bad: list[Any] = [
        {**well, "spec": "x"},
        {**well, "status": [1]},
        {**well, "status": {"conditions": ["x"]}},
        {**well, "metadata": {**well["metadata"], "finalizers": 5}},
        {**well, "metadata": {**well["metadata"], "uid": "\ud800"}},
        {**well, "metadata": {**well["metadata"], "name": ".."}},
    ]
    bodies: list[Any] = [{"type": "MODIFIED", "object": obj} for obj in (well, *bad)]
    bodies.append({"Type": "Notification", "Message": "\ud800"})
    records = [{"messageId": str(at), "body": json.dumps(body)} for at, body in enumerate(bodies)]
    answer = handler("on_destination_change")({"Records": records}, deployment.context)
    assert answer == {"batchItemFailures": [{"itemIdentifier": str(at)} for at in range(1, len(bodies))]}
    assert [message["name"] for message in deployment.received("canary")] == ["worker-1"]


def test_an_unknown_event_that_came_without_a_queue_fails_the_invocation(deployment: Deployment) -> None:
    with pytest.raises(UnknownEvent):
        handler("on_destination_change")({"hello": "world"}, deployment.context)


def test_an_unknown_cluster_is_refused_with_its_name(deployment: Deployment, minio: Minio, event: Event) -> None:
    declare(deployment, minio)
    forged = {**event("on-destination-change/watch-event"), "cluster": "elsewhere"}
    with pytest.raises(LandfallError, match="elsewhere"):
        handler("on_destination_change")(forged, deployment.context)
    assert deployment.received("canary") == []


def test_write_canary_writes_a_batch_and_sends_a_verdict_each(
    deployment: Deployment, minio: Minio, event: Event
) -> None:
    bucket = declare(deployment, minio)
    batch = event("write-canary/references")
    assert handler("write_canary")(batch, deployment.context) == NOTHING_RETURNED
    assert minio.keys(bucket) == [
        "destinations/dev/dependencies/kratix-canary-namespace.yaml",
        "destinations/dev/resources/kratix-canary-configmap.yaml",
        "destinations/worker-2/dependencies/kratix-canary-namespace.yaml",
        "destinations/worker-2/resources/kratix-canary-configmap.yaml",
    ]
    verdicts = deployment.received("status")
    assert {(v["reference"]["name"], v["status"], v["reason"]) for v in verdicts} == {
        ("worker-1", "True", "TestDocumentsWritten"),
        ("worker-2", "True", "TestDocumentsWritten"),
    }


def test_without_time_write_canary_returns_what_it_did_not_do(
    deployment: Deployment, minio: Minio, event: Event
) -> None:
    bucket = declare(deployment, minio)
    deployment.context.remaining_milliseconds = 0
    batch = event("write-canary/references")
    answer = handler("write_canary")(batch, deployment.context)
    ids = [record["messageId"] for record in batch["Records"]]
    assert [failure["itemIdentifier"] for failure in answer["batchItemFailures"]] == ids
    assert minio.keys(bucket) == []
    assert deployment.received("status") == []


def test_a_verdict_that_cannot_be_sent_returns_its_message(
    deployment: Deployment, minio: Minio, event: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(deployment, minio)
    monkeypatch.setenv("LANDFALL_STATUS_QUEUE_URL", deployment.queues["status"].url + "-gone")
    batch = event("write-canary/references")
    answer = handler("write_canary")(batch, deployment.context)
    assert len(answer["batchItemFailures"]) == len(batch["Records"])


def test_cleanup_deletes_the_files_of_a_destination_that_is_being_deleted(
    deployment: Deployment, minio: Minio, event: Event
) -> None:
    bucket = declare(deployment, minio, cleanup="all")
    platform = deployment.platform
    platform.finalizers("worker-1", ["kratix.io/destination-cleanup"])
    minio.put(bucket, "destinations/dev/by/hand.yaml", b"a: 1\n")
    minio.put(bucket, "destinations/developer.yaml", b"b: 2\n")
    assert handler("cleanup")(event("cleanup/references"), deployment.context) == NOTHING_RETURNED
    assert len(minio.keys(bucket)) == 2, "a message alone deletes nothing"
    platform.delete("destinations", "worker-1")
    assert handler("cleanup")(event("cleanup/references"), deployment.context) == NOTHING_RETURNED
    assert minio.keys(bucket) == ["destinations/developer.yaml"]
    (verdict,) = deployment.received("status")
    assert verdict["remove_finalizers"] == ["kratix.io/destination-cleanup"]


def test_a_work_is_placed_and_its_placement_written(deployment: Deployment, minio: Minio, event: Event) -> None:
    bucket = declare(deployment, minio)
    workload = {"filepath": "a.yaml", "content": base64.b64encode(gzip.compress(b"a: 1\n")).decode()}
    deployment.platform.work("redis", {"id": "5058f1af", "workloads": [workload]}, promise="redis")
    assert handler("on_work_change")(event("on-work-change/references"), deployment.context) == NOTHING_RETURNED
    work = deployment.platform.object("works", "redis") or {}
    assert work["metadata"]["finalizers"] == ["kratix.io/work-cleanup"], "nothing is placed before it is there"
    kinds = sorted((v["reference"]["kind"], v["reference"]["name"]) for v in deployment.received("status"))
    placements = ["redis.worker-1-5058f", "redis.worker-2-5058f"]
    assert kinds == [("Work", "redis"), *(("WorkPlacement", name) for name in placements)]
    assert handler("write_documents")(event("write-documents/references"), deployment.context) == NOTHING_RETURNED
    assert minio.objects(bucket) == {"destinations/dev/dependencies/redis/5058f/a.yaml": b"a: 1\n"}
    (verdict,) = deployment.received("status")
    assert (verdict["type"], verdict["status"], verdict["reason"]) == (
        "WriteSucceeded",
        "True",
        "WorkloadsWrittenToStateStore",
    )


def test_status_report_patches_the_condition_and_records_the_event(
    deployment: Deployment, minio: Minio, event: Event
) -> None:
    declare(deployment, minio)
    assert handler("status_report")(event("status-report/verdicts"), deployment.context) == NOTHING_RETURNED
    assert deployment.platform.ready("worker-1") == (
        "True",
        "TestDocumentsWritten",
        "Test documents written to State Store",
    )
    assert deployment.platform.events("worker-1")[-1][:3] == ("Normal", "DestinationReady", "Destination is Ready")
    assert deployment.platform.ready("worker-2") == ("", "", "")


def test_resync_sends_each_store_once_and_its_destinations_in_few_messages(
    deployment: Deployment, minio: Minio, event: Event
) -> None:
    declare(deployment, minio)
    handler("resync")(event("resync/schedule"), deployment.context)
    store, destinations = sorted(deployment.received("canary"), key=lambda message: message["kind"])
    assert (store["kind"], store["name"], store["alone"]) == ("BucketStateStore", "default", True)
    assert sorted([destinations["name"], *destinations["names"]]) == ["worker-1", "worker-2"]


@pytest.mark.parametrize("module", FILES)
def test_a_wrong_environment_fails_with_the_name_of_the_variable(
    deployment: Deployment, event: Event, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANDFALL_BUCKET_CONCURRENCY", "plenty")
    with pytest.raises(LandfallError, match="LANDFALL_BUCKET_CONCURRENCY"):
        handler(module)(event(FILES[module]), deployment.context)


@pytest.mark.parametrize("path", sorted((ROOT / "functions").glob("*/*.py")), ids=lambda path: path.stem)
def test_a_handler_is_thin_and_imports_no_client_library(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= 60
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    allowed = ("typing", "aws_lambda_powertools", "shared.")
    assert all(name.startswith(allowed) for name in names), names
    assert path.parent.name.replace("-", "_") == path.stem
