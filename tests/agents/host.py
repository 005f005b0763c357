"""A host that fetches what is written and carries it out: commands of docs/agents.md, with its State Store's reader."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from infra.local.runtime import LocalRuntime
from tests.agents.documented import block
from tests.integration.platform_team import Platform
from tests.integration.test_documents import group
from tests.integration.test_first_ready import declare_bucket, declare_repository
from tests.servers.git import GitServer
from tests.servers.process import private_environment
from tests.servers.repository import Repository
from tests.servers.s3 import Minio

ANSIBLE = Path(__file__).parents[2] / ".venv-agents-{}.{}".format(*sys.version_info) / "bin"
SECONDS = 120  # that only something which never arrives takes


@dataclass(frozen=True)
class World:
    """The platform cluster with Landfall beside it, and the servers of its State Stores."""

    platform: Platform
    runtime: LocalRuntime
    minio: Minio
    git_server: GitServer


@pytest.fixture
def world(runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer) -> World:
    """The platform cluster, and the servers of its State Stores."""
    return World(platform, runtime, minio, git_server)


@dataclass
class Host:
    """A host, the Destination that it reads, and the platform cluster that fills it.

    Attributes:
        kind: of the State Store, `bucket` or `git`.
        agent: the heading of the agent's part of docs/agents.md.
        folder: where its commands run.
        programs: the folders of its programs.
    """

    world: World
    kind: str
    agent: str
    folder: Path
    programs: tuple[Path, ...]
    bucket: str
    repository: Repository
    path: str
    labels: dict[str, str]
    environment: dict[str, str]

    def commands(self, section: str) -> str:
        """Return the commands of a section of docs/agents.md, with this host's State Store."""
        wanted = {
            "https://git.example.com/platform/fleet.git": self.repository.https_url,
            "https://s3.eu-central-1.amazonaws.com": f"http://{self.world.minio.endpoint}",
            "STORE_PROVIDER=AWS": "STORE_PROVIDER=Minio",
            "store:kratix/": f"store:{self.bucket}/",
        }
        text = block(section, "bash", agent=self.agent)
        for old, new in wanted.items():
            text = text.replace(old, new)
        return text

    def run(self, commands: str) -> subprocess.CompletedProcess[str]:
        """Run commands as a timer does; return how they ended and what they printed."""
        path = ":".join([*map(str, self.programs), "/usr/local/bin:/usr/bin:/bin"])
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=self.folder,
            env=private_environment(**self.environment, HOME=str(self.folder), PATH=path),
            capture_output=True,
            text=True,
            check=False,
        )

    def tree(self) -> dict[str, bytes]:
        """Return what lies at the Destination, by the path below it."""
        prefix = f"destinations/{self.path}/"
        files = self.world.minio.objects(self.bucket) if self.kind == "bucket" else self.repository.tree()
        return {path.removeprefix(prefix): content for path, content in files.items() if path.startswith(prefix)}

    def work(self, name: str, files: Mapping[str, bytes]) -> None:
        """Create or change the Work of a resource request that selects the Destination by its labels."""
        self.world.platform.work(
            name, group(dict(files), **self.labels), promise="redis", resource=name, pipeline="instance-configure"
        )

    async def arrives(self, commands: str, true: Callable[[], bool], what: str) -> float:
        """Run commands again and again until something is true; return the seconds.

        Raises:
            AssertionError: it does not become true; with what the commands printed the last time.
        """
        began = time.monotonic()
        while True:
            done = await asyncio.to_thread(self.run, commands)
            if done.returncode == 0 and true():
                return time.monotonic() - began
            late = time.monotonic() - began > SECONDS
            assert not late, f"{what}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{sorted(self.tree())}"

    async def fails(self, commands: str, words: str) -> None:
        """Run commands again and again until they fail with such words."""
        began = time.monotonic()
        while True:
            done = await asyncio.to_thread(self.run, commands)
            if done.returncode and words in done.stdout + done.stderr:
                return
            late = time.monotonic() - began > SECONDS
            assert not late, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{sorted(self.tree())}"


async def declare(world: World, kind: str, agent: str, folder: Path, *programs: Path) -> Host:
    """Declare both State Stores and an agent's Destination of docs/agents.md; return a host that reads it.

    Args:
        world: the platform cluster and its servers.
        kind: of the Destination's State Store, `bucket` or `git`.
        agent: the heading of its part of the page.
        folder: where its commands run.
        programs: the folders of its programs.
    """
    platform, git_server = world.platform, world.git_server
    bucket, repository = declare_bucket(platform, world.minio), git_server.create_repository()
    declare_repository(platform, git_server, repository)
    documented: dict[str, Any] = yaml.safe_load(block("Destination", agent=agent))
    spec = {key: value for key, value in documented["spec"].items() if key != "stateStoreRef"}
    name, labels = documented["metadata"]["name"], documented["metadata"]["labels"]
    platform.destination(name, f"{kind}/default", labels=labels, **spec)
    await platform.wait_ready(name)
    arn = f"arn:aws:s3:::{bucket}"
    reader = world.minio.limited_credentials(
        {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": [arn]},
        {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [f"{arn}/destinations/{spec['path']}/*"]},
    )
    netrc = folder / ".netrc"
    netrc.touch(mode=0o600)
    machine = urlsplit(git_server.https_base).hostname
    netrc.write_text(f"machine {machine} login {git_server.username} password {git_server.password}\n")
    environment = {
        "AWS_ACCESS_KEY_ID": reader.access_key,
        "AWS_SECRET_ACCESS_KEY": reader.secret_key,
        "AWS_SESSION_TOKEN": reader.session_token or "",
        "GIT_SSL_CAINFO": str(git_server.ca),
    }
    # rclone is a wheel of ours.
    folders = (*programs, Path(sys.executable).parent)
    return Host(world, kind, agent, folder, folders, bucket, repository, spec["path"], labels, environment)
