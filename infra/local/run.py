"""`make run`: the runtime against a real cluster, until it is interrupted."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from infra.local.describe import condition_line, named
from infra.local.kubernetes_access import ClusterUnusable
from infra.local.progress import Progress
from infra.local.runtime import LocalRuntime
from infra.local.template import ROOT
from infra.local.workers import FunctionFailed

_LOOK_SECONDS: Final = 5.0
_LOOPBACK: Final = "127.0.0.0/8,::1/128"


class _Told:
    """Prints each new verdict once."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._last: dict[str, str] = {}

    def observe(self, event: Mapping[str, Any]) -> None:
        """Look at a watch event."""
        obj = event["object"]
        if obj["kind"] == "Secret":
            return
        name = named(obj)
        line = "deleted" if event["type"] == "DELETED" else condition_line(obj)
        if self._last.get(name) != line:
            self._last[name] = line
            self._progress.step(name, line)


async def run_runtime(
    *, kubeconfig: Path | None, context: str | None, resync_seconds: float | None, verbose: bool
) -> int:
    """Run until cancelled, and return the exit status where it cannot even start."""
    progress = Progress()
    if kubeconfig is None and os.environ.get("KUBECONFIG"):
        kubeconfig = Path(os.environ["KUBECONFIG"])
    environment = {}
    if not os.environ.get("LANDFALL_ALLOWED_NETWORKS"):
        environment["LANDFALL_ALLOWED_NETWORKS"] = _LOOPBACK  # a person's own stores may be on this machine
    log = ROOT / ".landfall" / "run.log"
    log.parent.mkdir(exist_ok=True)
    runtime = LocalRuntime(
        kubeconfig=kubeconfig,
        context=context,
        environment=environment,
        resync_seconds=resync_seconds,
        log_path=log,
        verbose=verbose,
        tell=lambda sentence: progress.step("!", sentence),
        observe=_Told(progress).observe,
    )
    try:
        with progress.waiting("starting the functions"):
            await runtime.__aenter__()
    except (ClusterUnusable, FunctionFailed, ValueError, OSError) as error:
        progress.failure(f"Landfall cannot run: {error}")
        return 1
    try:
        progress.step("Running", f"{', '.join(runtime.functions)}; their log: {runtime.log.path}")
        progress.step("Watching", f"{runtime.forwarder.server}; Ctrl-C ends it")
        await _tell_of_dead_letters(runtime, progress)
    finally:
        progress.step("Stopping")
        await runtime.__aexit__(None, None, None)
    return 0


async def _tell_of_dead_letters(runtime: LocalRuntime, progress: Progress) -> None:
    told: dict[str, int] = {}
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        found = await runtime.dead_letters()
        for queue, count in found.items():
            if count != told.get(queue):
                progress.step("!", f"{count} messages were put aside in {queue}: see {runtime.log.path}")
        told = found
