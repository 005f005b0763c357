"""A Destination becomes Ready on a real API server, a real bucket and a real repository.

See docs/contract.md#objects, #paths, #destination-conditions, #state-store-conditions, #refusals.
"""

import asyncio
import shutil
import subprocess
import time

import pytest

from infra.local.runtime import LocalRuntime
from shared.documents import CANARY_CONFIGMAP, CANARY_NAMESPACE
from tests.integration.platform_team import Platform, named
from tests.servers.git import GitServer
from tests.servers.kubernetes import KubernetesApi
from tests.servers.process import free_port
from tests.servers.repository import Repository
from tests.servers.s3 import Minio

pytestmark = pytest.mark.asyncio(loop_scope="module")

# The manifests of Kratix's Destination reference page, namespace on the cluster-scoped kind and all.
EXAMPLE = """
apiVersion: platform.kratix.io/v1alpha1
kind: BucketStateStore
metadata:
  name: default
  namespace: default
spec:
  path: destinations
  endpoint: {endpoint}
  insecure: true
  bucketName: {bucket}
  secretRef:
    name: aws-credentials
---
apiVersion: platform.kratix.io/v1alpha1
kind: Destination
metadata:
  name: worker-1
  labels:
    environment: dev
spec:
  path: dev
  stateStoreRef:
    name: default
    kind: BucketStateStore
"""

READY = ("True", "TestDocumentsWritten", "Test documents written to State Store")


def declare_bucket(platform: Platform, minio: Minio, name: str = "default", *, bucket: str = "") -> str:
    """Declare a BucketStateStore on MinIO with its Secret, and return its bucket."""
    bucket = bucket or minio.create_bucket()
    platform.secret(name, accessKeyID=minio.root.access_key, secretAccessKey=minio.root.secret_key)
    platform.bucket_store(
        name, path="destinations", endpoint=minio.endpoint, insecure=True, bucketName=bucket, secretRef={"name": name}
    )
    return bucket


def declare_repository(
    platform: Platform, git_server: GitServer, repository: Repository, name: str = "default"
) -> None:
    """Declare a GitStateStore over HTTPS with its Secret."""
    platform.secret(f"{name}-git", username=git_server.username, password=git_server.password)
    platform.git_store(
        name, path="destinations", url=repository.https_url, branch="main", secretRef={"name": f"{name}-git"}
    )


def canaries(root: str) -> dict[str, bytes]:
    return {
        f"{root}/dependencies/kratix-canary-namespace.yaml": CANARY_NAMESPACE,
        f"{root}/resources/kratix-canary-configmap.yaml": CANARY_CONFIGMAP,
    }


async def test_a_destination_of_a_bucket_becomes_ready_with_kratix_documents_and_words(
    runtime: LocalRuntime, platform: Platform, minio: Minio
) -> None:
    bucket = declare_bucket(platform, minio)
    platform.destination("worker-1", "bucket/default", labels={"environment": "dev"}, path="dev")
    await platform.wait_ready("worker-1")
    assert platform.ready("worker-1") == READY
    assert minio.objects(bucket) == canaries("destinations/dev")
    obj = platform.get("worker-1")
    assert obj is not None
    (condition,) = obj["status"]["conditions"]
    assert condition["observedGeneration"] == obj["metadata"]["generation"]
    await runtime.idle()
    assert platform.events("worker-1") == [("Normal", "DestinationReady", "Destination is Ready", 1)]


async def test_a_destination_of_a_repository_becomes_ready_by_one_commit(
    runtime: LocalRuntime, platform: Platform, git_server: GitServer
) -> None:
    repository = git_server.create_repository()
    declare_repository(platform, git_server, repository)
    platform.destination("worker-1", "git/default", path="dev")
    await platform.wait_ready("worker-1")
    tree = repository.tree()
    assert {path: content for path, content in tree.items() if path != "README.md"} == canaries("destinations/dev")
    commits = repository.commits()
    assert len(commits) == 2
    assert commits[0].message.splitlines()[0] == "Update from: worker-1"
    await runtime.idle()


@pytest.mark.parametrize(
    ("mode", "files"),
    [
        ("none", ["kratix-canary-configmap.yaml", "kratix-canary-namespace.yaml"]),
        ("aggregatedYAML", ["kratix-canary-configmap.yaml", "kratix-canary-namespace.yaml"]),
        ("nestedByMetadata", ["dependencies/kratix-canary-namespace.yaml", "resources/kratix-canary-configmap.yaml"]),
    ],
)
async def test_each_mode_has_its_canary_paths(
    runtime: LocalRuntime, platform: Platform, minio: Minio, mode: str, files: list[str]
) -> None:
    bucket = declare_bucket(platform, minio)
    platform.destination("worker-1", "bucket/default", path="/", filepath={"mode": mode})
    await platform.wait_ready("worker-1")
    assert minio.keys(bucket) == [f"destinations/{file}" for file in files]
    await runtime.idle()


async def test_without_init_workloads_it_is_ready_and_earlier_canaries_go(
    runtime: LocalRuntime, platform: Platform, minio: Minio
) -> None:
    bucket = declare_bucket(platform, minio)
    platform.destination("worker-1", "bucket/default")
    await platform.wait_ready("worker-1")
    assert len(minio.keys(bucket)) == 2
    platform.destination("worker-1", "bucket/default", initWorkloads={"enabled": False})
    await platform.until(
        lambda: platform.ready("worker-1") == ("True", "DestinationReady", "Destination is ready"), "DestinationReady"
    )
    assert minio.keys(bucket) == []
    await runtime.idle()


async def test_a_wrong_secret_is_told_and_heals_when_it_is_put_right(
    runtime: LocalRuntime, platform: Platform, minio: Minio
) -> None:
    declare_bucket(platform, minio)
    platform.secret("default", accessKeyID=minio.root.access_key, secretAccessKey="not-the-right-one")
    platform.destination("worker-1", "bucket/default")
    why = await platform.wait_reason("worker-1", "StateStoreNotReady")
    assert why.startswith("BucketStateStore/default: Error validating state store permissions: ")
    assert "not-the-right-one" not in why
    platform.secret("default", accessKeyID=minio.root.access_key, secretAccessKey=minio.root.secret_key)
    await platform.wait_ready("worker-1")
    await runtime.idle()


async def test_a_missing_secret_and_a_missing_key_are_told_and_heal(
    runtime: LocalRuntime, platform: Platform, minio: Minio
) -> None:
    declare_bucket(platform, minio)
    platform.delete("secrets", "default")
    platform.destination("worker-1", "bucket/default")
    why = await platform.wait_reason("worker-1", "StateStoreNotReady")
    assert why == "BucketStateStore/default: Secret default not found in namespace default"
    platform.secret("default", accessKeyID=minio.root.access_key)
    await platform.until(
        lambda: "secret is missing key: secretAccessKey" in platform.ready("worker-1")[2],
        "the missing key is named",
        seen=lambda: platform.ready("worker-1"),
    )
    platform.secret("default", secretAccessKey=minio.root.secret_key)
    await platform.wait_ready("worker-1")
    await runtime.idle()


async def test_a_missing_store_is_told_and_heals_when_it_comes(
    runtime: LocalRuntime, platform: Platform, minio: Minio
) -> None:
    platform.destination("worker-1", "bucket/default")
    assert await platform.wait_reason("worker-1", "StateStoreNotFound") == "BucketStateStore/default: not found"
    declare_bucket(platform, minio)
    await platform.wait_ready("worker-1")
    await runtime.idle()


async def test_a_missing_bucket_is_told_and_heals_without_any_event(
    runtime: LocalRuntime, platform: Platform, minio: Minio
) -> None:
    declare_bucket(platform, minio, bucket="not-there-yet")
    platform.destination("worker-1", "bucket/default")
    why = await platform.wait_reason("worker-1", "StateStoreNotReady")
    assert "not-there-yet" in why
    minio.create_bucket("not-there-yet")
    await platform.wait_ready("worker-1")
    await runtime.idle()


async def test_an_unreachable_endpoint_is_told(runtime: LocalRuntime, platform: Platform, minio: Minio) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    declare_bucket(platform, minio)
    platform.bucket_store("default", endpoint=endpoint)
    platform.destination("worker-1", "bucket/default")
    assert endpoint in await platform.wait_reason("worker-1", "StateStoreNotReady")
    platform.bucket_store("default", endpoint=minio.endpoint)
    await platform.wait_ready("worker-1")
    await runtime.idle()


async def test_a_protected_branch_is_terminal_with_the_servers_words_and_heals_by_resync(
    runtime: LocalRuntime, platform: Platform, git_server: GitServer
) -> None:
    words = "GH006: Protected branch update failed for refs/heads/main."
    repository = git_server.create_repository(hooks={"pre-receive": f'#!/bin/sh\necho "{words}" >&2\nexit 1\n'})
    declare_repository(platform, git_server, repository)
    platform.destination("worker-1", "git/default")
    assert words in await platform.wait_reason("worker-1", "StateStoreWriteFailed")
    await runtime.idle()
    asked = len(git_server.access_log.read_text().splitlines())
    await asyncio.sleep(3)
    assert len(git_server.access_log.read_text().splitlines()) == asked, "a terminal refusal is not tried again"
    repository.set_hook("pre-receive", None)
    await runtime.resync()
    await platform.wait_ready("worker-1")
    await runtime.idle()


async def test_of_fifty_destinations_one_with_a_bad_path_fails_alone(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer
) -> None:
    repository = git_server.create_repository()
    declare_repository(platform, git_server, repository)
    names = list(named("worker", 50))
    for name in names:
        platform.destination(name, "git/default", path="x" * 256 if name == "worker-017" else name)
    why = await platform.wait_reason("worker-017", "InvalidDestination")
    assert "is over 255 bytes: shorten it" in why
    for name in names:
        if name != "worker-017":
            await platform.wait_ready(name)
    roots = {path.split("/")[1] for path in repository.tree() if path.startswith("destinations/")}
    assert roots == set(names) - {"worker-017"}
    await runtime.idle()


async def test_300_destinations_of_one_repository_take_few_commits(
    runtime: LocalRuntime, platform: Platform, git_server: GitServer
) -> None:
    repository = git_server.create_repository()
    declare_repository(platform, git_server, repository)
    names = list(named("worker", 300))
    began = time.monotonic()
    await platform.create_destinations(names, "git/default")
    created = time.monotonic()
    await platform.until(
        lambda: all(
            any(c["type"] == "Ready" and c["status"] == "True" for c in (d.get("status") or {}).get("conditions") or [])
            for d in platform.destinations().values()
        ),
        "all Ready",
        seconds=120,
    )
    commits = len(repository.commits()) - 1
    ready = time.monotonic()
    print(f"300 created in {created - began:.1f} s, Ready after {ready - began:.1f} s, {commits} commits")
    assert len(platform.destinations()) == 300
    tree = repository.tree()
    for name in names:
        assert canaries(f"destinations/{name}").items() <= tree.items()
    assert 1 <= commits <= 30  # as many as there were batches, while they were created
    await runtime.idle()


async def test_kubectl_apply_and_wait_work_as_in_the_reference_page(
    runtime: LocalRuntime, platform: Platform, minio: Minio, cluster: KubernetesApi
) -> None:
    kubectl = shutil.which("kubectl")
    assert kubectl, "kubectl is not installed: install it, the manifests of users are applied with it"
    bucket = declare_bucket(platform, minio, "aws-credentials")
    platform.delete("bucketstatestores", "aws-credentials")
    manifests = EXAMPLE.format(endpoint=minio.endpoint, bucket=bucket)

    async def run(*arguments: str, stdin: str = "") -> str:
        command = [kubectl, f"--kubeconfig={cluster.kubeconfig}", *arguments]
        result = await asyncio.to_thread(
            subprocess.run, command, input=stdin, capture_output=True, text=True, check=False, timeout=60
        )
        assert result.returncode == 0, result.stderr
        return str(result.stdout)

    await run("apply", "-f", "-", stdin=manifests)
    await run("wait", "--for=condition=Ready", "destination/worker-1", "--timeout=30s")
    await runtime.idle()  # the Event follows the condition
    described = await run("describe", "destination", "worker-1")
    for words in ("TestDocumentsWritten", "Test documents written to State Store", "Destination is Ready"):
        assert words in described
    assert (await run("get", "dest", "worker-1", "--no-headers")).split() == [
        "worker-1",
        "BucketStateStore",
        "default",
        "True",
    ]
    assert minio.objects(bucket) == canaries("destinations/dev")
    await runtime.idle()
