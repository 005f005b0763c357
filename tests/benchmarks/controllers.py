"""The two that are compared, each started, warmed up by one Destination and idle before a clock runs.

Both run on the same API server, never at once, as fresh processes for each round: what is timed is what a warm
deployment does, and neither profits from the rounds before.
"""

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from infra.local.kubernetes_access import ClusterAccess
from infra.local.runtime import LocalRuntime
from tests.benchmarks.harness import NotRun
from tests.benchmarks.servers import Servers
from tests.servers import web
from tests.servers.process import ServerProcess, free_port, private_environment, running

SETTLE_SECONDS: Final = 1.0
_WEBHOOKS_PORT: Final = 9443  # fixed in Kratix's main
_KRATIX_CRDS: Final = Path("config") / "crd" / "bases"
_OF_OURS_TOO: Final = {"bucketstatestores", "gitstatestores", "destinations", "works", "workplacements"}


class Running(Protocol):
    """A controller that runs."""

    async def idle(self) -> None:
        """Wait until it has nothing to do."""

    def peaks(self) -> dict[str, float]:
        """Return its peak memory by now, a figure a process: resident, in MB of 10^6 bytes."""

    def cpu_seconds(self) -> float:
        """Return the CPU time of all its processes that live, user and system."""


class Controller(Protocol):
    """Something that makes Destinations and WorkPlacements Ready."""

    name: str

    def running(self, servers: Servers) -> AbstractAsyncContextManager[Running]:
        """Start it, and stop it at the end; NotRun where it is not there."""


@dataclass
class _Landfall:
    runtime: LocalRuntime

    async def idle(self) -> None:
        await self.runtime.idle(SETTLE_SECONDS)

    def peaks(self) -> dict[str, float]:
        peaks = {}
        for name, pool in self.runtime.functions.items():
            found = [peak_mb(worker.pid) for worker in pool._workers if worker.pid is not None]
            if found:
                peaks[f"{name.replace('-', '_')}_peak_mb"] = max(found)
        return peaks

    def cpu_seconds(self) -> float:
        workers = (worker for pool in self.runtime.functions.values() for worker in pool._workers)
        return sum(cpu_seconds(worker.pid) for worker in workers if worker.pid is not None)


class Landfall:
    """The whole of ours as `make run` starts it: forwarder, queues, and a process a function.

    Settings are the defaults of template.yaml, but that State Stores on this machine are allowed.
    """

    name = "ours"

    def __init__(self, *, kubeconfig: Path | None = None, concurrency: int = 1, **environment: str) -> None:
        """Say what differs: the functions' kubeconfig (a relay's, say), and variables of their environment."""
        self._kubeconfig, self._concurrency, self._environment = kubeconfig, concurrency, environment

    @contextlib.asynccontextmanager
    async def running(self, servers: Servers) -> AsyncIterator[_Landfall]:
        """Start it."""
        api = servers.kubernetes
        access = await ClusterAccess.from_kubeconfig(api.kubeconfig, None)
        environment = {
            "LANDFALL_ALLOWED_NETWORKS": "127.0.0.0/8,::1/128",
            "LANDFALL_CA_BUNDLE": str(servers.git.ca),
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_REGION": "us-east-1",
            **self._environment,
        }
        log = servers.folder / "functions.log"
        log.unlink(missing_ok=True)
        try:
            async with LocalRuntime(
                kubeconfig=self._kubeconfig or api.kubeconfig,
                access=access,
                environment=environment,
                resync_seconds=0,
                concurrency=self._concurrency,
                log_path=log,
            ) as runtime:
                yield _Landfall(runtime)
        finally:
            await access.close()


@dataclass
class _Kratix:
    process: ServerProcess

    async def idle(self) -> None:
        # It does not tell; what it does after Ready is done well within this.
        await asyncio.sleep(SETTLE_SECONDS)

    def peaks(self) -> dict[str, float]:
        return {"kratix_peak_mb": peak_mb(self.process.pid)}

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.process.pid)


class Kratix:
    """Kratix's manager as its Deployment starts it, without the Deployment's CPU limit of a tenth of a core.

    Its webhooks listen, but no cluster is told to call them. CRDs of the kinds that are ours too are ours.
    """

    name = "kratix"

    @contextlib.asynccontextmanager
    async def running(self, servers: Servers) -> AsyncIterator[_Kratix]:
        """Start the manager that KRATIX_BIN names."""
        binary, crds = _binary()
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", _WEBHOOKS_PORT))
            except OSError:
                raise NotRun(
                    f"port {_WEBHOOKS_PORT} is taken, and Kratix insists on it: end what listens there"
                ) from None
        api = servers.kubernetes
        for crd in sorted(crds.glob("*.yaml")):
            if crd.stem.rpartition("_")[2] not in _OF_OURS_TOO:
                await asyncio.to_thread(api.apply_crds, crd)
        with tempfile.TemporaryDirectory(prefix="landfall-kratix-") as folder:
            directory = Path(folder)
            certificates = directory / "k8s-webhook-server" / "serving-certs"  # controller-runtime's own default place
            certificates.mkdir(parents=True)
            own = servers.authority.issue("webhooks")
            shutil.copyfile(own.certificate, certificates / "tls.crt")
            shutil.copyfile(own.key, certificates / "tls.key")
            probes = free_port()
            command: list[object] = [binary, f"--health-probe-bind-address=127.0.0.1:{probes}"]
            command += ["--metrics-bind-address=0", "--pprof-bind-address=0"]
            # It clones into TMPDIR.
            environment = private_environment(KUBECONFIG=str(api.kubeconfig), TMPDIR=folder, HOME=folder)

            def ready() -> bool:
                return web.request("GET", f"http://127.0.0.1:{probes}/readyz", timeout=5).status == 200

            starting = running("kratix", command, directory=directory, ready=ready, env=environment)
            with contextlib.ExitStack() as stack:
                process = await asyncio.to_thread(stack.enter_context, starting)
                try:
                    yield _Kratix(process)
                finally:
                    shutil.copyfile(process.log, servers.folder / "kratix.log")


def _binary() -> tuple[Path, Path]:
    told = os.environ.get("KRATIX_BIN", "")
    if not told:
        raise NotRun(
            "KRATIX_BIN is not set: build Kratix's manager (make build, in its repository) and set it to its path"
        )
    binary = Path(told)
    crds = Path(os.environ.get("KRATIX_CRDS") or binary.resolve().parents[1] / _KRATIX_CRDS)
    if not binary.is_file():
        raise NotRun(f"KRATIX_BIN is {told}, where there is no file: set it to the binary's path")
    if not crds.is_dir():
        raise NotRun(f"Kratix's CRDs are not at {crds}: set KRATIX_CRDS to config/crd/bases of its repository")
    return binary, crds


def peak_mb(pid: int) -> float:
    """Return the most memory that a process ever had resident, in MB of 10^6 bytes (VmHWM, proc(5))."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"/proc/{pid}/status has no VmHWM")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, user and system (proc(5), utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
