"""Every command of `landfall` on a real API server, a real bucket and a real repository, as it is printed.

See docs/console.md.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
import yaml

from infra.local.runtime import LocalRuntime
from tests.integration.conftest import environment
from tests.integration.console import Console
from tests.integration.documents import all_ready
from tests.integration.platform_team import API_VERSION, Platform
from tests.integration.test_documents import group
from tests.integration.test_first_ready import declare_bucket, declare_repository
from tests.servers.git import GitServer
from tests.servers.kubernetes import KubernetesApi
from tests.servers.repository import Repository
from tests.servers.s3 import Minio

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOCUMENT = "destinations/dev/dependencies/redis/5058f/namespace.yaml"


@dataclass
class Fleet:
    """Two Destinations, one on a bucket and one on Git, that both hold a Work's documents."""

    console: Console
    platform: Platform
    minio: Minio
    bucket: str
    repository: Repository
    runtime: LocalRuntime


@pytest_asyncio.fixture(loop_scope="module")
async def fleet(
    cluster: KubernetesApi, runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer
) -> AsyncIterator[Fleet]:
    bucket, repository = declare_bucket(platform, minio), git_server.create_repository()
    declare_repository(platform, git_server, repository)
    for kind in ("bucket", "git"):
        platform.destination(f"worker-{kind}", f"{kind}/default", path="dev", labels={"environment": "dev"})
    secret = b"apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\nstringData:\n  password: not to be seen\n"
    files = {"namespace.yaml": b"kind: Namespace\nmetadata:\n  name: redis\n", "secret.yaml": secret}
    platform.work("redis", group(files, environment="dev"), promise="redis")
    await all_ready(platform, 2)
    for kind in ("bucket", "git"):
        await platform.wait_ready(f"worker-{kind}")
    await runtime.idle()
    words = {bucket: "<bucket>", repository.https_url: "<repository>"}
    console = Console(cluster.kubeconfig, environment(git_server), words)
    yield Fleet(console, platform, minio, bucket, repository, runtime)


def change_by_hand(fleet: Fleet) -> None:
    """In both State Stores, edit one file, delete another, and add one that is not Landfall's."""
    canary, secret = "destinations/dev/resources/kratix-canary-configmap.yaml", DOCUMENT.replace("namespace", "secret")
    edited = b"kind: Namespace\nmetadata:\n  name: by-hand\n"
    fleet.minio.put(fleet.bucket, DOCUMENT, edited)
    fleet.minio.delete(fleet.bucket, canary)
    fleet.minio.put(fleet.bucket, secret, b"kind: Secret\nstringData:\n  password: another that must not be seen\n")
    fleet.minio.put(fleet.bucket, "destinations/dev/mine.yaml", b"mine: true\n")
    fleet.repository.commit_files({DOCUMENT: edited, canary: None, "destinations/dev/mine.yaml": b"mine: true\n"})


async def test_status_shows_the_fleet_and_filters_it(fleet: Fleet) -> None:
    fleet.platform.destination("lost", "bucket/missing")
    await fleet.platform.wait_reason("lost", "StateStoreNotFound")
    await fleet.console.shows("status", "status")
    await fleet.console.shows("status-of-a-store", "status", "--store", "gitstatestore/default")
    await fleet.console.shows("status-by-reason", "status", "--reason", "StateStoreNotFound", "-o", "yaml")
    await fleet.console.shows("status-by-label", "status", "-l", "environment=dev", "-o", "json")
    wrong = await fleet.console.shows("status-wrong-selector", "status", "-l", "a==b=,=", status=1)
    assert wrong.out == ""


async def test_status_watches_until_it_is_interrupted(fleet: Fleet, cluster: KubernetesApi) -> None:
    # A shell that starts tests in the background has them ignore SIGINT.
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program += "; from infra.cli.main import main; main()"
    command = [sys.executable, "-c", program, "--kubeconfig", str(cluster.kubeconfig), "status", "-w", "-o", "json"]
    process = await asyncio.to_thread(
        subprocess.Popen, command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        seen: list[str] = []

        def until(line: str) -> None:
            for read in process.stdout or ():
                seen.append(read.strip())
                if seen[-1] == line:
                    return

        await asyncio.to_thread(until, '"total": 2,')
        fleet.platform.destination("third", "bucket/default")
        await asyncio.to_thread(until, '"total": 3,')
        process.send_signal(signal.SIGINT)
        _, errors = await asyncio.to_thread(process.communicate)
        assert process.returncode == 130, errors
        assert "Traceback" not in errors
        assert seen[-1] == '"total": 3,'
    finally:
        process.kill()


async def test_a_hand_in_the_state_stores_is_seen_and_reconcile_mends_it(fleet: Fleet) -> None:
    assert (await fleet.console.run("diff")).status == 0
    change_by_hand(fleet)
    await fleet.console.shows("tree", "tree", "destination/worker-bucket")
    await fleet.console.shows("tree-of-a-store", "tree", "gitstatestore/default", "-o", "yaml")
    shown = await fleet.console.shows("diff", "diff", status=1)
    assert "seen" not in shown.out
    as_data = await fleet.console.run("diff", "destination/worker-bucket", "-o", "json")
    assert as_data.status == 1
    assert [change["action"] for change in json.loads(as_data.out)[0]["changes"]] == ["put", "change", "change"]
    assert "seen" not in as_data.out
    await fleet.console.shows("reconcile", "reconcile", "destination/worker-bucket", "--wait")
    await fleet.console.shows("reconcile-a-store", "reconcile", "gitstatestore/default", "--wait")
    await fleet.platform.until(
        lambda: (
            b"redis" in (fleet.minio.get(fleet.bucket, DOCUMENT) or b"")
            and b"redis" in fleet.repository.tree()[DOCUMENT]
        ),
        "both mended",
    )
    await fleet.runtime.idle()
    await fleet.console.shows("diff-nothing", "diff")
    assert fleet.minio.get(fleet.bucket, "destinations/dev/mine.yaml") == b"mine: true\n"


async def test_manifests_are_previewed_and_nothing_is_applied(fleet: Fleet, tmp_path: Path) -> None:
    def destination(**spec: object) -> str:
        obj = {"apiVersion": API_VERSION, "kind": "Destination", "metadata": {"name": "worker-bucket"}, "spec": spec}
        return yaml.safe_dump(obj)

    before = fleet.platform.get("worker-bucket"), fleet.minio.objects(fleet.bucket)
    ref = {"kind": "BucketStateStore", "name": "default"}
    await fleet.console.shows("diff-moved", "diff", "-f", "-", status=1, stdin=destination(path="deve", cleanup="all"))
    refused = destination(path="../dev", stateStoreRef=ref)
    await fleet.console.shows("diff-refused", "diff", "-f", "-", status=2, stdin=refused)
    same = await fleet.console.run("diff", "-f", "-", stdin=destination(path="dev", stateStoreRef=ref))
    assert (same.status, same.out) == (0, "")
    work = tmp_path / "work.yaml"
    made = await fleet.console.run(
        "work",
        "create",
        "new",
        "--from",
        str(_folder(tmp_path)),
        "--promise",
        "p",
        "--to",
        "environment=dev",
        "--dry-run",
    )
    work.write_text(made.out)
    assert (await fleet.console.run("diff", "destination/worker-git", "-f", str(work), "-o", "json")).status == 1
    assert (fleet.platform.get("worker-bucket"), fleet.minio.objects(fleet.bucket)) == before
    assert fleet.platform.object("works", "new") is None


async def test_explain_says_what_a_reason_means_and_what_to_do(fleet: Fleet) -> None:
    fleet.platform.secret("default", accessKeyID="wrong", secretAccessKey="wrong")
    await fleet.platform.wait_reason("worker-bucket", "StateStoreNotReady")
    shown = await fleet.console.run("explain", "destination/worker-bucket")
    assert shown.status == 0
    masked = fleet.console.masked(shown.out)
    for words in ("Ready False  StateStoreNotReady", "bucketstatestore/default", "Meaning", "To do", "Events"):
        assert words in masked, masked
    data = json.loads((await fleet.console.run("explain", "bucketstatestore/default", "-o", "json")).out)
    assert data["ready"]["status"] == "False"
    assert data["whatToDo"]
    await fleet.console.shows("explain", "explain", "gitstatestore/default")


async def test_pause_and_resume_say_so_and_the_functions_follow(fleet: Fleet) -> None:
    await fleet.console.shows("pause", "pause", "bucketstatestore/default")
    await fleet.platform.until(lambda: fleet.platform.ready("worker-bucket")[1] == "Paused", "paused")
    await fleet.console.shows("reconcile-paused", "reconcile", "destination/worker-bucket", status=1)
    fleet.platform.destination("worker-bucket", "bucket/default", path="moved")
    await fleet.platform.until(
        lambda: (
            (fleet.platform.get("worker-bucket") or {})["status"]["conditions"][0].get("observedGeneration")
            == (fleet.platform.get("worker-bucket") or {})["metadata"]["generation"]
        ),
        "the pause observed of the new generation",
    )
    await fleet.runtime.idle()
    await fleet.console.shows("diff-paused", "diff", "destination/worker-bucket")
    assert not fleet.minio.keys(fleet.bucket, "destinations/moved/")
    await fleet.console.shows("resume", "resume", "bucketstatestore/default")
    await fleet.platform.wait_ready("worker-bucket")
    await fleet.platform.until(
        lambda: bool(fleet.minio.keys(fleet.bucket, "destinations/moved/dependencies/redis/")), "written"
    )


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    (folder / "deep").mkdir(parents=True, exist_ok=True)
    (folder / "one.yaml").write_text("one: 1\n")
    (folder / "deep" / "two.yaml").write_text("two: 2\n")
    return folder


async def test_a_work_is_made_from_a_folder_shown_and_unpacked(fleet: Fleet, tmp_path: Path) -> None:
    folder = str(_folder(tmp_path))
    given = ("work", "create", "mine", "--from", folder, "--promise", "mine", "--to", "environment=dev")
    console = Console(fleet.console.kubeconfig, fleet.console.environment, {str(tmp_path): "."})
    await console.shows("work-create", *given)
    await console.shows("work-exists", *given, status=1)
    await console.shows("work-replace", *given, "--replace")
    await all_ready(fleet.platform, 4)
    await fleet.runtime.idle()
    await console.shows("work-show", "work", "show", "mine")
    data = json.loads((await console.run("work", "show", "mine", "-o", "json")).out)
    assert [document["path"] for document in data["documents"]] == ["deep/two.yaml", "one.yaml"]
    assert (await console.run("work", "show", "mine", "--extract", str(tmp_path / "out"))).status == 0
    assert (tmp_path / "out" / "deep" / "two.yaml").read_text() == "two: 2\n"
    tree = fleet.repository.tree()
    assert tree["destinations/dev/dependencies/mine/5058f/deep/two.yaml"] == b"two: 2\n"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        pytest.param(["tree", "destination/none"], 1, "destination/none not found", id="no-such-object"),
        pytest.param(["tree", "pod/a"], 1, "'pod' is not a kind", id="no-such-kind"),
        pytest.param(["diff", "destination/none"], 2, "not found", id="an-error-of-diff-is-2"),
        pytest.param(["diff", "-f", "missing.yaml"], 2, "missing.yaml cannot be read", id="no-such-file"),
        pytest.param(["tree"], 2, "Missing argument", id="usage"),
        pytest.param(["--context", "none", "status"], 1, "cannot be used", id="no-such-context"),
    ],
)
async def test_errors_go_to_stderr_with_kubectls_exit_status(
    cluster: KubernetesApi, platform: Platform, arguments: list[str], status: int, words: str
) -> None:
    del platform
    done = await Console(cluster.kubeconfig, {}).run(*arguments)
    assert (done.status, done.out) == (status, "")
    assert words in done.err
    assert "Traceback" not in done.err
