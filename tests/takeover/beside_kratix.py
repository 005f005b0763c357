"""A bucket and a Git State Store, handed over and back beside a Kratix that runs on (docs/migration.md)."""

import asyncio
import re
import shlex
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from infra.local.runtime import LocalRuntime
from tests.benchmarks.controllers import kratix_manager
from tests.integration.conftest import environment
from tests.integration.documents import placements
from tests.integration.platform_team import GROUP, Platform
from tests.servers.certificates import Authority
from tests.servers.git import GitServer
from tests.servers.kubernetes import KubernetesApi
from tests.servers.process import ServerProcess
from tests.servers.s3 import Minio
from tests.takeover.recording import Recorder, recorder
from tests.takeover.world import STORES, Stream, World, applied, kratix_identity, watched, work

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]
LOGS = Path(".landfall/takeover")
TAKEOVER = "infra/kubernetes/takeover"
PAGE = Path("docs/migration.md").read_text()
CONDITIONS = {
    "Destination": "Ready",
    "BucketStateStore": "Ready",
    "GitStateStore": "Ready",
    "WorkPlacement": "WriteSucceeded",
}


@pytest.fixture(scope="module")
def kubectl(cluster: KubernetesApi) -> Callable[..., str]:
    program = shutil.which("kubectl")
    assert program, "kubectl is not installed: install it, people hand over with it"

    def run(*arguments: str) -> str:
        command = [program, f"--kubeconfig={cluster.kubeconfig}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, f"{shlex.join(arguments)}: {done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="module")
def kratix(cluster: KubernetesApi, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("kratix")
    LOGS.mkdir(parents=True, exist_ok=True)
    with kratix_manager(kratix_identity(cluster), Authority(folder), LOGS / "kratix.log") as process:
        yield process


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def recording(minio: Minio, git_server: GitServer) -> AsyncIterator[Recorder]:
    async with recorder(minio.url, git_server.access_log) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runtime(cluster: KubernetesApi, git_server: GitServer, kratix: ServerProcess) -> AsyncIterator[LocalRuntime]:
    variables = {"LANDFALL_STATE_STORES": "managed", "LANDFALL_HANDOVER_SECONDS": "3"}
    async with LocalRuntime(
        kubeconfig=cluster.kubeconfig,
        environment={**environment(git_server), **variables},
        resync_seconds=0,
        log_path=LOGS / "functions.log",
    ) as running:
        yield running


@pytest.fixture
def world(platform: Platform, minio: Minio, git_server: GitServer, recording: Recorder) -> World:
    return World(platform, minio, git_server, recording)


async def test_a_bucket_and_a_repository_go_over_and_back_under_a_stream_of_changes(
    world: World, kratix: ServerProcess, runtime: LocalRuntime, kubectl: Callable[..., str]
) -> None:
    platform, recording = world.platform, world.recorder
    with applied(kubectl, TAKEOVER):
        world.declare()
        every = [f"{tag}-{mode}" for tag in STORES for mode in ("nest", "none", "aggr")]
        for name in every:
            await platform.wait_ready(name, 90)
        stream = Stream(platform, 2)
        async with watched(platform.api) as seen:
            began = recording.mark()
            async with stream.flowing():
                await asyncio.sleep(10)
            await platform.until(world.same, "all three the same before", 90, world.differences)
            assert not recording.since(began, by="landfall", to=world.names(*STORES)), "nothing was Landfall's"

            for turn in range(2):
                async with stream.flowing():
                    for store in ("bucketstatestore", "default"), ("gitstatestore", "fleet"):
                        await over(kubectl, *store)
                    served = recording.mark()
                    await asyncio.sleep(20)
                await platform.until(world.same, f"all the same while handed over, {turn}", 120, world.differences)
                assert not recording.since(served, by="kratix", to=world.names("buck", "gitt"))
                assert recording.since(served, by="landfall", to=world.names("buck"))
                assert recording.since(served, by="landfall", to=world.names("gitt"))
                assert recording.since(served, by="kratix", to=world.names("kept"))

                async with stream.flowing():
                    for store in ("bucketstatestore", "default"), ("gitstatestore", "fleet"):
                        await back(kubectl, *store)
                    returned = recording.mark()
                    await asyncio.sleep(20)
                await platform.until(world.same, f"all the same after going back, {turn}", 120, world.differences)
                assert not recording.since(returned, by="landfall", to=world.names(*STORES))
            assert not recording.since(began, by="landfall", to=world.names("kept"))
            assert seen.lost(CONDITIONS) == {}


async def test_how_loud_kratix_is_with_a_hundred_objects_handed_over(
    world: World, kratix: ServerProcess, runtime: LocalRuntime, kubectl: Callable[..., str]
) -> None:
    """The figures of docs/migration.md: lines in three minutes after a hand-over, by level."""
    platform, recording = world.platform, world.recorder
    with applied(kubectl, TAKEOVER):
        world.declare_stores()
        names = [f"d{number:02}" for number in range(50)]
        for name in names:
            platform.destination(name, "bucket/default", labels={"environment": "dev"}, path=name)
        platform.api.call("POST", f"{GROUP}/namespaces/default/works", work("wide", 1))
        for name in names:
            await platform.wait_ready(name, 90)
        await platform.until(lambda: len(placements(platform)) == len(names), "a WorkPlacement at each", 60)
        await over(kubectl, "bucketstatestore", "default")
        served, told = recording.mark(), []
        at = kratix.log.stat().st_size
        for _ in range(3):
            await asyncio.sleep(60)
            lines = kratix.log.read_bytes()[at:].decode().splitlines()
            at = kratix.log.stat().st_size
            told.append({level: sum(f'"level":"{level}"' in line for line in lines) for level in ("error", "info")})
        (LOGS / "lines-a-minute.txt").write_text("".join(f"{minute}\n" for minute in told))
        assert told[-1]["error"] < len(names), told
        assert not recording.since(served, by="kratix", to=world.names("buck"))


async def over(kubectl: Callable[..., str], kind: str, name: str) -> None:
    """Hand a State Store over as docs/migration.md says, and wait until it is Landfall's."""
    await _as_told(kubectl, "Hand a State Store over", kind, name)


async def back(kubectl: Callable[..., str], kind: str, name: str) -> None:
    """Hand a State Store back as docs/migration.md says, and wait until Kratix serves it."""
    await _as_told(kubectl, "Hand it back", kind, name)


async def _as_told(kubectl: Callable[..., str], heading: str, kind: str, name: str) -> None:
    """Run a section's commands, which are about BucketStateStore `default` and its Secret, for this State Store."""
    section = PAGE.partition(f"### {heading}\n")[2].partition("\n### ")[0]
    told = "\n".join(re.findall(r"^```console\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))
    secret = {"bucketstatestore": "bucket-access", "gitstatestore": "git-access"}[kind]
    told = re.sub(r"\bbucketstatestore([ /])default\b", rf"{kind}\1{name}", told).replace("aws-credentials", secret)
    commands = [shlex.split(line) for line in told.splitlines() if line]
    assert [command[1] for command in commands[:3]] == ["annotate", "wait", "wait"], section

    def run() -> None:
        for command in commands:
            kubectl(*command[1:])

    await asyncio.to_thread(run)
