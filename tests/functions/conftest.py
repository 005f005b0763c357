"""Handlers in this very process, with SQS and a Kubernetes API behind them, as Lambda would call them."""

import fcntl
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from infra.artifacts import RUNTIME
from shared import runtime
from tests.functions.interpreter import find_python
from tests.integration.platform_team import Platform
from tests.servers.kubernetes import KubernetesApi
from tests.servers.s3 import Minio
from tests.servers.sqs import AwsServer, Queue

ROOT = Path(__file__).parents[2]


@dataclass
class Context:
    """What Lambda tells a handler about its invocation."""

    function_name: str = "landfall-test"
    memory_limit_in_mb: int = 512
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:123456789012:function:landfall-test"
    aws_request_id: str = "52fdfc07-2182-454f-963f-5f0f9a621d72"
    remaining_milliseconds: int = 60_000

    def get_remaining_time_in_millis(self) -> int:
        return self.remaining_milliseconds


@dataclass
class Deployment:
    """The queues that handlers send to, and the cluster that they talk to."""

    sqs: AwsServer
    platform: Platform
    queues: dict[str, Queue] = field(default_factory=dict)
    context: Context = field(default_factory=Context)

    def received(self, queue: str) -> list[dict[str, Any]]:
        """Return, and delete, the messages that lie in a queue now."""
        found = []
        while messages := self.sqs.receive(self.queues[queue].url, count=10):
            for message in messages:
                found.append(json.loads(message["Body"]))
                self.sqs.delete(self.queues[queue].url, message["ReceiptHandle"])
        return found


@pytest.fixture(scope="session")
def python() -> str:
    """The Python of the functions, which need not be the one that runs the tests."""
    try:
        return find_python(RUNTIME)
    except LookupError as error:
        pytest.fail(str(error))


@pytest.fixture(scope="session")
def artifacts(python: str, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """All artifacts, built as `make artifacts` does, once for all workers; dependencies come from a cache."""
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "artifacts"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            unfinished = folder.with_suffix(".new")
            command = [python, str(ROOT / "infra" / "artifacts.py"), str(unfinished)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            unfinished.rename(folder)
    return folder


@pytest.fixture
def deployment(
    cluster: KubernetesApi, sqs: AwsServer, minio: Minio, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Deployment]:
    """A deployment whose cluster holds the objects that the events speak of."""
    platform = Platform(cluster)
    platform.clear()
    landfall = Deployment(sqs, platform)
    for name in [name for name in os.environ if name.startswith("LANDFALL_")]:
        monkeypatch.delenv(name)
    for name in ("canary", "cleanup", "works", "documents", "status"):
        landfall.queues[name] = sqs.create_queue()
        monkeypatch.setenv(f"LANDFALL_{name.upper()}_QUEUE_URL", landfall.queues[name].url)
    monkeypatch.setenv("LANDFALL_SQS_ENDPOINT_URL", sqs.url)
    monkeypatch.setenv("LANDFALL_KUBECONFIG", str(cluster.kubeconfig))
    monkeypatch.setenv("LANDFALL_ALLOWED_NETWORKS", "127.0.0.0/8")
    for name, value in sqs.environment().items():
        monkeypatch.setenv(name, value)
    runtime.close()
    yield landfall
    runtime.close()
    platform.clear()


@pytest.fixture
def event() -> Callable[[str], dict[str, Any]]:
    """Read an event of the events/ folder."""

    def read(name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((ROOT / "events" / f"{name}.json").read_text())
        return content

    return read
