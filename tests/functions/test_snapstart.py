"""SnapStart's hooks, as Lambda's runtime calls them; two forks of one process are two copies of a snapshot."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.functions.conftest import ROOT, Deployment
from tests.functions.interpreter import run_program
from tests.functions.test_handlers import FILES, NOTHING_RETURNED, declare
from tests.functions.test_imports import BUCKET, GIT
from tests.servers.s3 import Minio

Event = Callable[[str], dict[str, Any]]

# Initialises a handler, has the snapshot taken, and restores copies of it: each says what chance gave it, what the
# handler answered in it, and what it had to load and to read for that.
PROGRAM = """
import importlib, json, os, sys
sys.path[:0] = json.loads(sys.argv[1])
given = json.load(sys.stdin)
handler = importlib.import_module(given["module"]).lambda_handler
import random, snapshot_restore_py as hooks
from shared import runtime
while hooks.get_before_snapshot():
    call, args, kwargs = hooks.get_before_snapshot().pop()
    call(*args, **kwargs)
snapshot, state = set(sys.modules), random.getstate()

class Context:
    function_name = aws_request_id = invoked_function_arn = "landfall-test"
    memory_limit_in_mb = 1024
    get_remaining_time_in_millis = staticmethod(lambda: 60_000)

def restored():
    random.setstate(state)  # a fork would seed it anew, the copy of a machine does not
    read = []
    sys.addaudithook(lambda event, args: read.append(str(args[0])) if event == "open" else None)
    for call, args, kwargs in hooks.get_after_restore() if given["restore"] else ():
        call(*args, **kwargs)
    os.environ.update(given["environment"])
    answers = [handler(event, Context()) for event in given["events"]]
    runtime.close()
    print(json.dumps({
        "chance": random.random(),
        "answers": answers,
        "later": sorted(set(sys.modules) - snapshot),
        "read": [path for path in read if "/botocore/data/" in path],
    }), flush=True)

print(json.dumps({"snapshot": sorted(snapshot), "container": runtime._container is not None}), flush=True)
for _ in range(2):
    child = os.fork()
    if not child:
        restored()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


def run(module: str, *events: dict[str, Any], restore: bool = True, **environment: str) -> list[dict[str, Any]]:
    """Return what the snapshot and its two copies say."""
    path = [ROOT, ROOT / "functions" / module.replace("_", "-")]
    # In a snapshot there are no credentials: a copy gets them when it is restored.
    late = {name: value for name, value in os.environ.items() if name.startswith("AWS_") and "KEY" in name}
    early = {name: value for name, value in os.environ.items() if name not in late}
    given = {"module": module, "events": events, "restore": restore, "environment": late}
    lambdas = {"AWS_DEFAULT_REGION": "eu-west-1", **early, "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"}
    lines = run_program([sys.executable], PROGRAM, path, given, {**lambdas, **environment})
    return [said for line in lines if "_aws" not in (said := json.loads(line)) and "level" not in said]


def test_a_writers_snapshot_has_everything_loaded_and_nothing_open() -> None:
    snapshot, *_ = run("write_canary")
    assert set(snapshot["snapshot"]) >= {*GIT, *BUCKET} - {"nacl"}
    assert snapshot["container"] is False, "connections and credentials are the copies' own"


@pytest.mark.parametrize("module", ["on_destination_change", "on_work_change", "resync", "status_report"])
def test_the_snapshot_of_a_function_that_writes_to_no_store_has_no_writers(module: str) -> None:
    snapshot, *_ = run(module)
    assert set(snapshot["snapshot"]).isdisjoint({*GIT, *BUCKET})


@pytest.mark.parametrize(("restore", "differ"), [(True, True), (False, False)])
def test_copies_of_a_snapshot_have_chances_of_their_own(restore: bool, differ: bool) -> None:
    _, *copies = run("status_report", restore=restore)
    first, second = (copy["chance"] for copy in copies)
    assert (first != second) is differ


def test_a_restored_copy_works_with_what_the_snapshot_has_loaded_and_its_own_credentials(
    deployment: Deployment, minio: Minio, event: Event
) -> None:
    bucket = declare(deployment, minio)
    _, *copies = run("write_canary", event(FILES["write_canary"]))
    for copy in copies:
        assert copy["answers"] == [NOTHING_RETURNED]
        assert [name for name in copy["later"] if name.startswith(("shared", "botocore", "aiobotocore"))] == []
        assert copy["read"] == [], "descriptions of services are in the snapshot"
    assert len(minio.keys(bucket)) == 4
    assert {verdict["status"] for verdict in deployment.received("status")} == {"True"}


def test_without_snapstart_nothing_is_registered_or_loaded_early() -> None:
    snapshot, *_ = run("write_canary", AWS_LAMBDA_INITIALIZATION_TYPE="on-demand")
    assert set(snapshot["snapshot"]).isdisjoint({*GIT, *BUCKET})


def test_a_wrong_environment_fails_the_publishing_of_a_version() -> None:
    with pytest.raises(AssertionError, match="LANDFALL_BUCKET_CONCURRENCY"):
        run("write_canary", LANDFALL_BUCKET_CONCURRENCY="plenty")
