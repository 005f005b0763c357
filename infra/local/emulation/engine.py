"""What runs containers: the Docker engine that answers, or else podman in its place."""

import contextlib
import hashlib
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.local.emulation import base_image, podman
from infra.local.emulation.commands import CannotInvoke, Done, run
from infra.local.emulation.lambda_python import VERSION, runtime_client
from infra.local.emulation.stage import Host

Say = Callable[[str, str], None]

_STAND_IN: Final = "localhost/landfall/lambda-python"  # a name that no registry has
_GATEWAY: Final = "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}"
_BRIDGE: Final = "{{range .IPAM.Config}}{{.Gateway}} {{end}}"
# Docker Desktop's containers are in a virtual machine, from which this name leads here.
_FROM_A_MACHINE: Final = Host(name="host.docker.internal")


@dataclass(frozen=True)
class Engine:
    """A container engine that answers.

    Attributes:
        command: `docker` or `podman`, which take the same arguments.
        environment: of that command, and of SAM, so that both find it.
        name: for people.
    """

    command: str
    environment: Mapping[str, str]
    name: str

    async def base_image(self, python: Path, say: Say) -> str | None:
        """Return the name of a stand-in for Lambda's Python image; None with Docker, by which SAM pulls the real one.

        Args:
            python: of the functions' version; the stand-in is made of it.
            say: told what is done.

        Raises:
            CannotInvoke: none can be made.
        """
        if self.command == "docker":
            say("Base image", f"Lambda's own for Python {VERSION}, which SAM pulls")
            return None
        client = await runtime_client(python)
        name = f"{_STAND_IN}-{_fingerprint(python, client)}:{VERSION}"
        if (await self._run("image", "inspect", name)).status:
            await self._import(name, python, client)
            say("Base image", f"{name}, made of {python}")
        else:
            say("Base image", f"{name}, made by an earlier run")
        return name

    async def host(self, image: str | None) -> Host:
        """Return where servers of this machine have to listen for containers to reach them.

        Args:
            image: that `base_image` returned.

        Raises:
            CannotInvoke: no container can be started.
        """
        address = await self._bridge() if image is None else await self._gateway(image)
        return Host(address, address, f"{address}/32") if can_listen(address) else _FROM_A_MACHINE

    async def _bridge(self) -> str:
        found = (await self._run("network", "inspect", "--format", _BRIDGE, "bridge")).out.split()
        return found[0] if found else ""

    async def _gateway(self, image: str) -> str:
        """Start a container, since podman's bridge is there only after the first one, and since it may not start."""
        program = "import awslambdaric, time; time.sleep(60)"
        entrypoint = f"/var/lang/bin/python{VERSION}"
        started = await self._run("run", "--detach", "--entrypoint", entrypoint, image, "-c", program)
        if started.status:
            raise CannotInvoke(f"{self.name} cannot run a container:\n{started.words}")
        container = started.out.split()[-1]
        address = (await self._run("inspect", "--format", _GATEWAY, container)).out.strip()
        await self._run("rm", "--force", container)
        return address

    async def _import(self, name: str, python: Path, client: Path) -> None:
        old = (await self._run("images", "--quiet", "--filter", f"reference={_STAND_IN}-*")).out.split()
        if old:
            await self._run("rmi", "--force", *old)
        with tempfile.TemporaryDirectory() as folder:
            archive = f"{folder}/image.tar"
            made = await run(python, "-P", base_image.__file__, client, archive, environment=os.environ)
            if made.status:
                raise CannotInvoke(f"no base image can be made of {python}:\n{made.words}")
            changes = [part for setting in base_image.SETTINGS for part in ("--change", setting)]
            done = await self._run("import", *changes, archive, name)
        if done.status:
            raise CannotInvoke(f"{self.name} does not take the base image:\n{done.words}")

    async def _run(self, *arguments: str | Path) -> Done:
        return await run(self.command, *arguments, environment=self.environment)


@asynccontextmanager
async def container_engine(say: Say) -> AsyncIterator[Engine]:
    """Find a Docker engine, or start podman in its place and end it afterwards.

    Args:
        say: told what is done.

    Raises:
        CannotInvoke: there is none, and none can be had.
    """
    version = ""
    with contextlib.suppress(FileNotFoundError):
        version = (
            await run("docker", "version", "--format", "{{.Server.Version}}", environment=os.environ)
        ).out.strip()
    if version:
        say("Container engine", f"Docker {version}")
        yield Engine("docker", os.environ, f"Docker {version}")
        return
    await podman.install(say)
    async with podman.serve() as (environment, name):
        say("Container engine", f"{name}, as no Docker engine answers")
        yield Engine("podman", environment, name)


def can_listen(address: str) -> bool:
    """Return whether an address is one of this machine's."""
    with contextlib.suppress(OSError), socket.socket() as probe:
        probe.bind((address, 0))
        return bool(address)
    return False


def _fingerprint(python: Path, client: Path) -> str:
    """Return what changes whenever a stand-in would become another one."""
    parts = f"{client} {python.stat().st_mtime_ns}".encode() + Path(base_image.__file__).read_bytes()
    return hashlib.sha256(parts).hexdigest()[:12]
