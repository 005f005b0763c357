"""`make run` against a real API server, as a person at a terminal uses it; and the same on SQS."""

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from infra.local.runtime import LocalRuntime
from tests.infra.test_demo import alive, children, start
from tests.servers.kubernetes import KubernetesApi
from tests.servers.process import free_port
from tests.servers.s3 import Minio
from tests.servers.sqs import AwsServer

GROUP = "/apis/platform.kratix.io/v1alpha1"


@pytest.fixture
def bucket(cluster: KubernetesApi, minio: Minio) -> Iterator[str]:
    """A BucketStateStore `run` on MinIO, and its bucket."""
    name = minio.create_bucket()
    root = minio.root
    manifests = f"""
apiVersion: v1
kind: Secret
metadata: {{name: run, namespace: default}}
stringData: {{accessKeyID: {root.access_key}, secretAccessKey: {root.secret_key}}}
---
apiVersion: platform.kratix.io/v1alpha1
kind: BucketStateStore
metadata: {{name: run}}
spec: {{path: destinations, endpoint: "{minio.endpoint}", insecure: true, bucketName: {name}, secretRef: {{name: run}}}}
"""
    kubectl(cluster, "apply", "-f", "-", stdin=manifests)
    yield name
    kubectl(cluster, "delete", "--ignore-not-found", "destination/run-1", "bucketstatestore/run", "secret/run")


def kubectl(api: KubernetesApi, *arguments: str, stdin: str = "") -> str:
    command = ["kubectl", f"--kubeconfig={api.kubeconfig}", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


DESTINATION = """
apiVersion: platform.kratix.io/v1alpha1
kind: Destination
metadata: {name: run-1}
spec: {stateStoreRef: {name: run, kind: BucketStateStore}}
"""


def test_kubectl_apply_and_wait_see_a_destination_become_ready(
    cluster: KubernetesApi, minio: Minio, bucket: str
) -> None:
    process = start("run", "--kubeconfig", str(cluster.kubeconfig), "--resync-seconds", "0")
    assert process.stdout is not None
    try:
        seen = []
        for line in process.stdout:
            seen.append(line)
            if "Ctrl-C ends it" in line:
                break
        assert process.poll() is None, "".join(seen)
        kubectl(cluster, "apply", "-f", "-", stdin=DESTINATION)
        kubectl(cluster, "wait", "--for=condition=Ready", "destination/run-1", "--timeout=30s")
        assert sorted(minio.objects(bucket)) == [
            "destinations/run-1/dependencies/kratix-canary-namespace.yaml",
            "destinations/run-1/resources/kratix-canary-configmap.yaml",
        ]
        family = children(process.pid)
        told = []
        for line in process.stdout:  # it watches, so it tells a moment after kubectl knows
            told.append(line)
            if re.search(r"Destination/run-1 +Ready True TestDocumentsWritten", line):
                break
        assert process.poll() is None, "".join(told)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "Traceback" not in rest
        assert alive(family) == set()
    finally:
        process.kill()


async def test_the_same_handlers_work_on_sqs(cluster: KubernetesApi, minio: Minio, bucket: str, sqs: AwsServer) -> None:
    environment = {**sqs.environment(), "LANDFALL_ALLOWED_NETWORKS": "127.0.0.0/8"}
    del environment["AWS_ENDPOINT_URL"]  # it would be S3's too
    async with LocalRuntime(
        kubeconfig=cluster.kubeconfig, environment=environment, resync_seconds=0, sqs_endpoint=sqs.url
    ) as runtime:
        await asyncio.to_thread(kubectl, cluster, "apply", "-f", "-", stdin=DESTINATION)
        wait = ("wait", "--for=condition=Ready", "destination/run-1", "--timeout=30s")
        await asyncio.to_thread(kubectl, cluster, *wait)
        assert len(minio.objects(bucket)) == 2
        await runtime.idle()
        assert all(function.failures == 0 for function in runtime.functions.values())
        assert await runtime.dead_letters() == {}


async def test_poison_goes_alone_to_the_dead_letter_queue_and_a_resync_reaches_the_bucket(
    cluster: KubernetesApi, minio: Minio, bucket: str
) -> None:
    kubectl(cluster, "apply", "-f", "-", stdin=DESTINATION)
    async with LocalRuntime(
        kubeconfig=cluster.kubeconfig,
        environment={"LANDFALL_ALLOWED_NETWORKS": "127.0.0.0/8"},
        resync_seconds=0,
        first_redelivery_seconds=0.01,
    ) as runtime:
        await runtime.forwarder.listed()
        await runtime.queues.send("ChangesQueue", ['{"what": "is this"}'])
        await runtime.idle()
        assert await runtime.dead_letters() == {"changes-dead-letter": 1}
        for key in minio.keys(bucket):
            minio.delete(bucket, key)
        await runtime.resync()
        await runtime.idle()
        assert len(minio.objects(bucket)) == 2
        assert runtime.functions["resync"].invocations == 1


def refusal(*arguments: str, **environment: str) -> str:
    process = start("run", *arguments, **environment)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1, out
    assert "Traceback" not in out
    return out


def test_a_missing_kubeconfig_is_told_with_what_to_set(tmp_path: Path) -> None:
    out = refusal(HOME=str(tmp_path))
    assert "Landfall cannot run: the kubeconfig" in out
    assert "Set KUBECONFIG" in out


def test_an_unknown_context_is_told(cluster: KubernetesApi) -> None:
    out = refusal("--context", "nowhere", KUBECONFIG=str(cluster.kubeconfig))
    assert "nowhere" in out
    assert "--context" in out


def test_an_unreachable_cluster_is_told_with_its_address(cluster: KubernetesApi) -> None:
    url = f"https://127.0.0.1:{free_port()}"
    kubeconfig = cluster.write_kubeconfig(cluster.token, url=url)
    out = refusal(KUBECONFIG=str(kubeconfig))
    assert f"the Kubernetes API at {url} is unreachable" in out


def test_an_identity_that_the_cluster_does_not_know_is_told(cluster: KubernetesApi) -> None:
    out = refusal(KUBECONFIG=str(cluster.write_kubeconfig("made-up")))
    assert "answered 401" in out
    assert "made-up" not in out


def test_a_cluster_without_our_kinds_is_told_with_what_to_apply(tmp_path: Path) -> None:
    with_nothing = tmp_path / "kubeconfig"
    script = f"""
import asyncio, pathlib
from infra.local.embedded.kubernetes.api import KubernetesApi
async def main():
    api = KubernetesApi(pathlib.Path({str(tmp_path / "no-crds")!r}))
    await api.start()
    api.write_kubeconfig(pathlib.Path({str(with_nothing)!r}))
    print("up", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""
    server = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "up\n"
        out = refusal(KUBECONFIG=str(with_nothing))
        assert "kubectl apply -f infra/kubernetes/crds/" in out
        assert yaml.safe_load(with_nothing.read_text())["clusters"][0]["cluster"]["server"] in out
        assert with_nothing.stat().st_mode & 0o077 == 0
    finally:
        server.kill()
        server.communicate()
