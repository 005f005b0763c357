"""Every handler out of its built artifact: Python's own library and the artifact, and nothing else to import."""

import base64
import gzip
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.artifacts import GIT, functions, sizes
from tests.functions.conftest import ROOT, Deployment
from tests.functions.interpreter import Done, run_handler
from tests.functions.test_handlers import FILES, NOTHING_RETURNED, declare
from tests.servers.git import GitServer
from tests.servers.s3 import Minio
from tests.servers.ssh import SshServer

Event = Callable[[str], dict[str, Any]]

MAX_ZIPPED = 35_000_000
MAX_UNPACKED = 250_000_000  # Lambda's quota
FUNCTIONS = functions()
WITHOUT_GIT = ["on-destination-change", "on-work-change", "resync", "status-report"]


@pytest.fixture
def run(python: str, artifacts: Path) -> Callable[..., Done]:
    """Return what runs a handler out of its artifact: without site-packages, PYTHONPATH or the current folder."""

    def run(module: str, *events: dict[str, Any], **more: str) -> Done:
        own = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "LANDFALL_"))}
        environment = {"PATH": os.defpath, **own, **more}
        path = [artifacts / module.replace("_", "-")]
        return run_handler([python, "-I", "-S", "-B"], path, module, events, environment)

    return run


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_artifact_is_small(artifacts: Path, name: str) -> None:
    zipped, unpacked = sizes(artifacts / name)
    assert zipped < MAX_ZIPPED
    assert unpacked < MAX_UNPACKED


@pytest.mark.parametrize("name", WITHOUT_GIT)
def test_a_function_that_writes_to_no_store_carries_no_git(artifacts: Path, name: str) -> None:
    assert [found.name for pattern in GIT for found in (artifacts / name).glob(pattern)] == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_everything_that_a_handler_loads_is_in_its_artifact_and_compiled(
    run: Callable[..., Done], python: str, artifacts: Path, name: str
) -> None:
    done = run(name.replace("-", "_"))
    artifact = artifacts / name
    standard = Path(python).resolve().parents[1]
    files = {module: Path(file) for module, (file, _) in done.loaded.items() if file and Path(file).is_absolute()}
    assert [m for m, file in files.items() if not file.is_relative_to(artifact) and standard not in file.parents] == []
    sources = [m for m, file in files.items() if file.is_relative_to(artifact) and file.suffix == ".py"]
    assert len(sources) > 300
    assert [m for m in sources if not Path(str(done.loaded[m][1])).is_file()] == []
    assert {Path(str(done.loaded[m][1])).read_bytes()[4] for m in sources} == {1}, "unchecked hashes (PEP 552)"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_all_of_our_own_modules_can_be_loaded_from_an_artifact(python: str, artifacts: Path, name: str) -> None:
    modules = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "shared").rglob("*.py")]
    names = [".".join(path.parts).removesuffix(".__init__") for path in modules]
    if name in WITHOUT_GIT:
        names = [module for module in names if not module.startswith("shared.writers.git")]
    program = f"import importlib, sys; sys.path.insert(0, sys.argv[1]); [importlib.import_module(m) for m in {names}]"
    command = [python, "-I", "-S", "-B", "-c", program, str(artifacts / name)]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_change_becomes_ready_out_of_the_artifacts(
    run: Callable[..., Done], deployment: Deployment, minio: Minio, event: Event
) -> None:
    bucket = declare(deployment, minio)
    assert run("on_destination_change", event(FILES["on_destination_change"])).answers == [NOTHING_RETURNED]
    assert [message["name"] for message in deployment.received("canary")] == ["worker-1"]
    assert run("write_canary", event(FILES["write_canary"])).answers == [NOTHING_RETURNED]
    assert len(minio.keys(bucket)) == 4
    assert "True" in {verdict["status"] for verdict in deployment.received("status")}
    assert run("status_report", event(FILES["status_report"])).answers == [NOTHING_RETURNED]
    assert deployment.platform.ready("worker-1")[0] == "True"
    assert run("resync", event(FILES["resync"])).answers == [None]
    assert [message["kind"] for message in deployment.received("canary")] == ["BucketStateStore", "Destination"]


def test_a_work_is_placed_and_written_out_of_the_artifacts(
    run: Callable[..., Done], deployment: Deployment, minio: Minio, event: Event
) -> None:
    bucket = declare(deployment, minio, filepath={"mode": "none"})
    workload = {"filepath": "a.yaml", "content": base64.b64encode(gzip.compress(b"a: 1\n")).decode()}
    deployment.platform.work("redis", {"id": "5058f1af", "workloads": [workload]}, promise="redis")
    deployment.platform.work_finalizers("redis", ["kratix.io/work-cleanup"])
    assert run("on_work_change", event(FILES["on_work_change"])).answers == [NOTHING_RETURNED]
    assert run("write_documents", event(FILES["write_documents"])).answers == [NOTHING_RETURNED]
    assert minio.keys(bucket) == [
        "destinations/dev/.kratix/default-redis.worker-1-5058f.yaml",
        "destinations/dev/a.yaml",
    ]


def test_a_repository_is_written_and_cleaned_up_out_of_the_artifacts_over_https_and_ssh(
    run: Callable[..., Done], deployment: Deployment, git_server: GitServer, ssh_git: SshServer, event: Event
) -> None:
    repository = git_server.create_repository()
    platform = deployment.platform
    password = {"username": git_server.username, "password": git_server.password}
    platform.secret("https", **password, **{"ca.crt": git_server.ca.read_text()})
    platform.secret("ssh", sshPrivateKey=ssh_git.private_key, knownHosts=ssh_git.known_hosts)
    stores = {
        "https": {"url": repository.https_url, "authMethod": "basicAuth", "secretRef": {"name": "https"}},
        "ssh": {"url": repository.ssh_url, "authMethod": "ssh", "secretRef": {"name": "ssh"}},
    }
    for destination, (name, spec) in zip(("worker-1", "worker-2"), stores.items(), strict=True):
        platform.git_store(name, path=name, **spec)
        platform.destination(destination, f"git/{name}", path=destination, cleanup="all")
        platform.finalizers(destination, ["kratix.io/destination-cleanup"])
    assert run("write_canary", event(FILES["write_canary"])).answers == [NOTHING_RETURNED]
    written = [path for path in repository.paths() if path.startswith(("https/worker-1/", "ssh/worker-2/"))]
    assert len(written) == 4
    platform.delete("destinations", "worker-1")
    assert run("cleanup", event(FILES["cleanup"])).answers == [NOTHING_RETURNED]
    assert [path for path in repository.paths() if path in written] == [p for p in written if p.startswith("ssh/")]
