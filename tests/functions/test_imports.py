"""What each handler loads, in a clean interpreter: nothing that it does not use; the rest when a batch asks for it."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.functions.conftest import ROOT, Deployment
from tests.functions.interpreter import Done, run_handler
from tests.functions.test_handlers import FILES, NOTHING_RETURNED, declare
from tests.servers.git import GitServer
from tests.servers.s3 import Minio

Event = Callable[[str], dict[str, Any]]

# What a handler must not have loaded by the time it is imported. A name stands for what is below it too; with a dot at
# its end, for that alone.
GIT = ("bcrypt", "cryptography", "dulwich", "jwt", "nacl", "paramiko", "shared.writers.git")
BUCKET = ("shared.writers.s3",)
GENERATED = (
    "kubernetes_asyncio.client.api",
    "kubernetes_asyncio.client.models.",
    "kubernetes_asyncio.dynamic",
    "kubernetes_asyncio.stream",
    "kubernetes_asyncio.watch",
)
KUBECONFIG = ("kubernetes_asyncio.config.kube_config", "yaml")  # a cluster of EKS needs neither
AWS = ("aws_xray_sdk", "boto3", "shared.kube.aws")
NEVER = (*GIT, *BUCKET, *GENERATED, *KUBECONFIG, *AWS, "infra")
UNUSED = {
    "on_destination_change": (*NEVER, "shared.schedule", "shared.reconcile.store_batch"),
    "write_canary": (*NEVER, "shared.events", "shared.schedule"),
    "cleanup": (*NEVER, "shared.events", "shared.schedule"),
    "on_work_change": (*NEVER, "shared.events", "shared.reconcile.store_batch"),
    "write_documents": (*NEVER, "shared.events", "shared.schedule"),
    "status_report": (*NEVER, "shared.documents", "shared.events", "shared.schedule", "shared.reconcile.store_batch"),
    "resync": (*NEVER, "shared.schedule", "shared.reconcile.store_batch"),
}


def run(module: str, *events: dict[str, Any], **environment: str) -> Done:
    """Import a handler of the source tree in a clean interpreter, and give it events."""
    path = [ROOT, ROOT / "functions" / module.replace("_", "-")]
    return run_handler([sys.executable], path, module, events, {**os.environ, **environment})


def test_every_handler_has_a_row_in_the_table() -> None:
    assert set(UNUSED) == set(FILES) == {path.stem for path in (ROOT / "functions").glob("*/*.py")}


@pytest.mark.parametrize("module", UNUSED)
def test_a_handler_loads_nothing_that_it_does_not_use(module: str) -> None:
    done = run(module)
    assert module in done.loaded
    assert done.among(UNUSED[module]) == []


def test_a_batch_with_a_bucket_alone_loads_no_git(deployment: Deployment, minio: Minio, event: Event) -> None:
    bucket = declare(deployment, minio)
    done = run("write_canary", event(FILES["write_canary"]))
    assert done.answers == [NOTHING_RETURNED]
    assert len(minio.keys(bucket)) == 4
    assert set(BUCKET) < set(done.among(BUCKET))
    assert done.among((*GIT, *GENERATED, *AWS)) == []


def test_a_batch_with_a_repository_alone_loads_no_bucket_writer_and_no_ssh(
    deployment: Deployment, minio: Minio, git_server: GitServer, event: Event
) -> None:
    repository = git_server.create_repository()
    declare(deployment, minio)
    platform = deployment.platform
    credentials = {"username": git_server.username, "password": git_server.password}
    platform.secret("git", **credentials, **{"ca.crt": git_server.ca.read_text()})
    platform.git_store("default", path="destinations", url=repository.https_url, secretRef={"name": "git"})
    for name in ("worker-1", "worker-2"):
        platform.destination(name, "git/default")
    done = run("write_canary", event(FILES["write_canary"]))
    assert done.answers == [NOTHING_RETURNED]
    assert len(repository.paths()) == 5
    assert "dulwich" in done.loaded
    assert done.among(("cryptography", "jwt", "nacl", "paramiko", *BUCKET, *GENERATED, *AWS)) == []


def test_who_asks_kubernetes_asyncio_for_more_gets_it() -> None:
    program = """
import shared.kube, sys
assert "kubernetes_asyncio.client.api" not in sys.modules
import kubernetes_asyncio
from kubernetes_asyncio.client import ApiClient, CoreV1Api, V1Pod
from kubernetes_asyncio.config import load_kube_config
assert CoreV1Api(ApiClient.__new__(ApiClient)).api_client.__class__ is shared.kube.library.ApiClient
assert kubernetes_asyncio.watch.Watch and kubernetes_asyncio.client.models.V1Pod is V1Pod
assert not hasattr(kubernetes_asyncio.client, "NoSuchThing")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
