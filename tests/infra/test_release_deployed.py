"""A release is deployed from its own files alone: copied to a bucket, made a stack in moto, and its functions run.

Nothing of the tree is read: the template, the zips and the CRDs are the release's, and each function runs out of the
very zip that its stack names, on an interpreter that finds nothing else. The API server and the bucket are real.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.artifacts import RUNTIME
from tests.functions.interpreter import find_python, run_handler
from tests.infra.conftest import SAM
from tests.infra.stack import Stack, create
from tests.infra.test_forwarder_manifests import kubectl
from tests.integration.platform_team import Platform
from tests.integration.test_first_ready import canaries, declare_bucket
from tests.servers.kubernetes import KubernetesApi, kubernetes_api
from tests.servers.process import private_environment
from tests.servers.s3 import Minio
from tests.servers.sqs import AwsServer, aws_server

pytestmark = pytest.mark.timeout(900)  # the release is made first

NAME, BUCKET, PREFIX = "released", "artifacts", "some/where/"
ROUNDS = 12  # of looking into every queue; three functions follow one another


@dataclass(frozen=True)
class Release:
    """A release on somebody's machine, and what was deployed of it.

    Attributes:
        folder: with the release's files.
        stack: made of its template.
        api: the cluster that it serves, with the release's CRDs and RBAC.
    """

    folder: Path
    stack: Stack
    api: KubernetesApi


@pytest.fixture(scope="module")
def release(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    folder = tmp_path_factory.mktemp("downloads") / "landfall"
    shutil.copytree(dist, folder)
    with kubernetes_api() as api, aws_server() as server:
        api.apply_crds(folder / "crds.yaml")
        kubectl("apply", "-f", folder / "rbac.yaml", KUBECONFIG=str(api.kubeconfig))  # and the namespace of the Leases
        upload(folder, server)
        stack = create(
            server,
            yaml.safe_load((folder / "template.yaml").read_text()),
            NAME,
            ArtifactBucket=BUCKET,
            ArtifactPrefix=PREFIX,
            ClusterName="production",
            Kubeconfig=str(api.kubeconfig),
            AllowedNetworks="127.0.0.0/8, ::1/128",
        )
        yield Release(folder, stack, api)


def upload(folder: Path, server: AwsServer) -> None:
    """Copy the zips to a bucket, with the guide's commands."""
    commands = (
        f"aws s3 mb s3://{BUCKET}\n"
        f"aws s3 cp . s3://{BUCKET}/{PREFIX} --recursive --exclude '*' --include '*.zip' --only-show-errors"
    )
    environment = private_environment(**server.environment())
    environment["PATH"] = f"{SAM}{os.pathsep}{environment['PATH']}"
    subprocess.run(["bash", "-euc", commands], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)


def code(release: Release, configuration: dict[str, Any], target: Path) -> Path:
    """Return a folder with a function's code: of the one zip that has the checksum which Lambda tells."""
    told = base64.b64decode(configuration["CodeSha256"])
    (zipped,) = (path for path in release.folder.glob("*.zip") if hashlib.sha256(path.read_bytes()).digest() == told)
    with zipfile.ZipFile(zipped) as archive:
        archive.extractall(target)
    return target


def test_every_function_of_the_stack_is_a_zip_of_its_own_architecture(release: Release) -> None:
    sums = {
        base64.b64encode(hashlib.sha256(path.read_bytes()).digest()).decode(): path.name
        for path in release.folder.glob("*.zip")
    }
    for name, configuration in release.stack.functions().items():
        assert sums[configuration["CodeSha256"]].startswith(f"{name}-x86_64-")
        assert configuration["Architectures"] == ["x86_64"]


def test_a_destination_becomes_ready_by_the_deployed_code(release: Release, minio: Minio, tmp_path: Path) -> None:
    platform, stack = Platform(release.api), release.stack
    bucket = declare_bucket(platform, minio)
    platform.destination("worker", "bucket/default")
    # As the forwarder of the cluster tells it.
    (found,) = (obj for obj in [platform.get("worker")] if obj)
    told = {"cluster": "production", "type": "ADDED", "object": {key: found[key] for key in found if key != "spec"}}
    sqs = stack.client("sqs")
    sqs.send_message(QueueUrl=stack.outputs()["ChangesQueueUrl"], MessageBody=json.dumps(told))
    functions = {configuration["FunctionArn"]: name for name, configuration in stack.functions().items()}
    run = set()
    for _ in range(ROUNDS):
        for mapping in stack.client("lambda").list_event_source_mappings()["EventSourceMappings"]:
            name, url = functions[mapping["FunctionArn"]], stack.queue(mapping["EventSourceArn"])
            messages = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
            if messages:
                run.add(name)
                invoke(release, name, [record(message, mapping["EventSourceArn"]) for message in messages], tmp_path)
            for message in messages:
                sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        if platform.ready("worker")[0] == "True":
            break
    assert platform.ready("worker")[:2] == ("True", "TestDocumentsWritten")
    assert minio.objects(bucket) == canaries("destinations/worker")
    assert {"on-destination-change", "write-canary", "status-report"} <= run
    platform.clear()


def invoke(release: Release, name: str, records: list[dict[str, Any]], unpacked: Path) -> None:
    """Run a function's handler as it was deployed, and check that it hands no message back."""
    configuration = release.stack.functions()[name]
    folder = unpacked / name
    if not folder.exists():
        code(release, configuration, folder)
    server = release.stack.server
    environment = {
        "PATH": os.defpath,
        **server.environment(),
        **release.stack.assume(configuration["Role"], name).environment(),
        **configuration["Environment"]["Variables"],
    }
    module = configuration["Handler"].removesuffix(".lambda_handler")
    python = [find_python(RUNTIME), "-I", "-S", "-B"]
    done = run_handler(python, [folder], module, [{"Records": records}], environment)
    assert done.answers == [{"batchItemFailures": []}]
    ours = {file for module, (file, _) in done.loaded.items() if module.partition(".")[0] == "shared" and file}
    assert ours
    assert all(Path(file).is_relative_to(folder) for file in ours)


def record(message: dict[str, Any], arn: str) -> dict[str, Any]:
    """Return a message as Lambda hands it to a function."""
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1795348800000"},
        "messageAttributes": {},
        "md5OfBody": message["MD5OfBody"],
        "eventSource": "aws:sqs",
        "eventSourceARN": arn,
        "awsRegion": "us-east-1",
    }
