"""Docker's API, served by podman: from Debian's packages, and with images and containers that are nobody else's."""

import asyncio
import contextlib
import os
import platform
import shutil
import socket
import tempfile
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from infra.local.emulation.commands import CannotInvoke, run
from infra.local.emulation.lambda_python import cache

_PACKAGES: Final = ("podman", "runc")
_START_SECONDS: Final = 20.0
_RUN: Final = Path("/run/landfall")  # gone after a reboot, as podman wants it
_DRIVERS: Final = ("overlay", "vfs")  # a container's own disk is often an overlay, and takes no second one
# The limits that podman would set may be higher than the machine's; crun, its first choice, refuses machines with both
# versions of cgroups; and systemd, which would make the cgroups, is not in every container.
_CONTAINERS_CONF: Final = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
tmp_dir = "{run}/libpod"
"""
_STORAGE_CONF: Final = """\
[storage]
driver = "{driver}"
graphroot = "{store}"
runroot = "{run}/{driver}"
"""


async def install(say: Callable[[str, str], None]) -> None:
    """Install podman where it is missing.

    Args:
        say: told what is done.

    Raises:
        CannotInvoke: it can neither run nor be installed here.
    """
    if platform.system() != "Linux":
        raise CannotInvoke("no Docker engine answers: start Docker, or use make demo, which needs no container")
    if os.geteuid() != 0:
        raise CannotInvoke(
            "no Docker engine answers, and podman can take its place for root alone: start Docker, run this as root, or"
            " use make rie, which needs no container"
        )
    missing = [package for package in _PACKAGES if shutil.which(package) is None]
    if not missing:
        return
    by_hand = f"apt-get install --no-install-recommends {' '.join(missing)}"
    if shutil.which("apt-get") is None:
        raise CannotInvoke(f"install what Debian calls {' and '.join(missing)}, or start Docker")
    say("Installing", by_hand)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    patient = ("-q", "-y", "-o", "DPkg::Lock::Timeout=300")
    await run("apt-get", *patient, "update", environment=environment)  # where it fails, the lists may do as they are
    done = await run("apt-get", *patient, "install", "--no-install-recommends", *missing, environment=environment)
    if done.status:
        raise CannotInvoke(f"apt-get failed; run: {by_hand}\n{done.words}")


@asynccontextmanager
async def serve() -> AsyncIterator[tuple[Mapping[str, str], str]]:
    """Serve the API while inside: yield the environment in which `podman`, and Docker's clients, use it, and its name.

    Raises:
        CannotInvoke: podman does not work here.
    """
    folder = _folder()
    with tempfile.TemporaryDirectory(prefix="docker-", dir=_RUN) as place:
        path = f"{place}/docker.sock"
        environment = {
            **os.environ,
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            "DOCKER_HOST": f"unix://{path}",
        }
        name = await _choose_driver(folder, environment)
        log = folder / "service.log"
        with log.open("wb") as output:
            command = ("podman", "system", "service", "--time=0", f"unix://{path}")
            service = await asyncio.create_subprocess_exec(
                *command, env=environment, stdin=DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        try:
            await _answers(path, service, log)
            yield environment, name
        finally:
            if service.returncode is None:
                service.terminate()
            await service.wait()
            # podman mounts its store onto itself and leaves it so; nobody could delete the cache then.
            await run("umount", folder / "overlay" / "overlay", environment=environment)


def _folder() -> Path:
    folder = cache() / "emulation" / "podman"
    folder.mkdir(parents=True, exist_ok=True)
    _RUN.mkdir(mode=0o700, exist_ok=True)
    (folder / "containers.conf").write_text(_CONTAINERS_CONF.format(run=_RUN))
    return folder


async def _choose_driver(folder: Path, environment: Mapping[str, str]) -> str:
    """Write down the first driver that works, and return podman's name and version."""
    refused = ""
    for driver in _DRIVERS:
        text = _STORAGE_CONF.format(driver=driver, store=folder / driver, run=_RUN)
        (folder / "storage.conf").write_text(text)
        done = await run("podman", "info", "--format", "podman {{.Version.Version}}", environment=environment)
        if not done.status:
            return done.out.strip()
        refused = done.words
    raise CannotInvoke(f"podman does not work here:\n{refused}")


async def _answers(path: str, service: Process, log: Path) -> None:
    for _ in range(int(_START_SECONDS / 0.05)):
        if service.returncode is not None:
            break
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)
            return
        await asyncio.sleep(0.05)
    raise CannotInvoke(f"podman does not serve Docker's API: see {log}")
