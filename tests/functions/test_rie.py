"""Every handler out of its artifact under Lambda's runtime interface emulator, with the real runtime client."""

import asyncio
import base64
import contextlib
import gzip
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.local.emulation.commands import InvocationFailed
from infra.local.emulation.lambda_python import emulator, interpreter, runtime_client
from infra.local.emulation.rie import Emulator
from infra.local.template import Template
from tests.functions.conftest import ROOT, Deployment
from tests.functions.test_handlers import FILES, NOTHING_RETURNED, declare
from tests.servers.s3 import Minio

Invoke = Callable[..., Any]

SAM = ROOT / ".venv-sam-{}.{}".format(*sys.version_info) / "bin" / "sam"


@pytest.fixture(scope="session")
def machine(python: str) -> Emulator:
    """The emulator that SAM has, and the runtime client that infra/locks/requirements-emulation.txt names."""

    async def prepare() -> Emulator:
        own = await interpreter(python)
        return Emulator(emulator(SAM), own, await runtime_client(own))

    return asyncio.run(prepare())


@pytest.fixture
def invoke(machine: Emulator, artifacts: Path, deployment: Deployment) -> Invoke:
    """Return what invokes a function with its events/ file, in the deployment's environment."""
    functions = {function.name: function for function in Template.load().functions.values()}

    def invoke(module: str, **more: str) -> Any:
        name = module.replace("_", "-")
        event = (ROOT / "events" / f"{FILES[module]}.json").read_text()
        own = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "LANDFALL_"))}
        return asyncio.run(machine.invoke(functions[name], artifacts / name, event, {**own, **more}))

    return invoke


def test_a_destination_becomes_ready_and_is_cleaned_up_under_the_emulator(
    invoke: Invoke, deployment: Deployment, minio: Minio
) -> None:
    bucket = declare(deployment, minio, cleanup="all")
    platform = deployment.platform
    platform.finalizers("worker-1", ["kratix.io/destination-cleanup"])
    assert invoke("on_destination_change") == NOTHING_RETURNED
    assert [message["name"] for message in deployment.received("canary")] == ["worker-1"]
    assert invoke("write_canary") == NOTHING_RETURNED
    assert len(minio.keys(bucket)) == 4
    assert {verdict["reason"] for verdict in deployment.received("status")} >= {"TestDocumentsWritten"}
    assert invoke("status_report") == NOTHING_RETURNED
    assert platform.ready("worker-1")[:2] == ("True", "TestDocumentsWritten")
    assert invoke("resync") is None
    assert [message["kind"] for message in deployment.received("canary")] == ["BucketStateStore", "Destination"]
    platform.delete("destinations", "worker-1")
    assert invoke("cleanup") == NOTHING_RETURNED
    assert [key for key in minio.keys(bucket) if key.startswith("destinations/dev/")] == []
    # What was said of it when it was first seen comes 15 seconds later, if at all.
    released = [verdict for verdict in deployment.received("status") if "remove_finalizers" in verdict]
    assert [verdict["remove_finalizers"] for verdict in released] == [["kratix.io/destination-cleanup"]]


def test_a_work_is_placed_and_written_under_the_emulator(invoke: Invoke, deployment: Deployment, minio: Minio) -> None:
    bucket = declare(deployment, minio)
    workload = {"filepath": "a.yaml", "content": base64.b64encode(gzip.compress(b"a: 1\n")).decode()}
    deployment.platform.work("redis", {"id": "5058f1af", "workloads": [workload]}, promise="redis")
    deployment.platform.work_finalizers("redis", ["kratix.io/work-cleanup"])
    assert invoke("on_work_change") == NOTHING_RETURNED
    assert invoke("write_documents") == NOTHING_RETURNED
    assert minio.objects(bucket) == {"destinations/dev/dependencies/redis/5058f/a.yaml": b"a: 1\n"}


def test_a_function_that_fails_under_the_emulator_is_told_with_its_own_words(invoke: Invoke) -> None:
    with pytest.raises(InvocationFailed, match=r"write-canary failed:(.|\n)*LANDFALL_BUCKET_CONCURRENCY"):
        invoke("write_canary", LANDFALL_BUCKET_CONCURRENCY="plenty")


def test_a_function_that_cannot_be_imported_is_told_so(machine: Emulator, tmp_path: Path) -> None:
    function = next(iter(Template.load().functions.values()))
    with pytest.raises(InvocationFailed, match="No module named"):
        asyncio.run(machine.invoke(function, tmp_path, "{}", {}))


def test_no_process_of_the_emulator_stays(
    invoke: Invoke, artifacts: Path, deployment: Deployment, minio: Minio
) -> None:
    declare(deployment, minio)
    invoke("status_report")

    def stayed(process: Path) -> bool:
        with contextlib.suppress(OSError):  # it has ended, or is another's
            return (process / "cwd").readlink().is_relative_to(artifacts)
        return False

    assert not [process for process in Path("/proc").glob("[0-9]*") if stayed(process)]
