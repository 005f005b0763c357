"""The command line of the local runtime: `python -m infra.local demo` and `python -m infra.local run`."""

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

_INTERRUPTED = 130


def main() -> int:
    """Read the arguments, do what they say, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m infra.local", description="Landfall on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="two Destinations become Ready on embedded servers")
    demo.add_argument("--keep", action="store_true", help="leave it running until Ctrl-C, and say how to reach it")
    run = commands.add_parser("run", help="run against the cluster of KUBECONFIG until Ctrl-C")
    run.add_argument("--kubeconfig", type=Path, help="instead of KUBECONFIG or ~/.kube/config")
    run.add_argument("--context", help="of the kubeconfig, instead of its current one")
    run.add_argument("--resync-seconds", type=float, help="between two looks at everything (0: never)")
    sam_local = commands.add_parser("sam-local", help="invoke every function with `sam local invoke`")
    sam_local.add_argument("--keep", action="store_true", help="leave the servers running until Ctrl-C")
    rie = commands.add_parser("rie", help="invoke functions under the runtime interface emulator, without a container")
    rie.add_argument("--function", help="this one, after those whose work it needs; all without it")
    rie.add_argument("--event", type=Path, help="file with another event for it")
    rie.add_argument("--env-vars", type=Path, help="file as of `sam local invoke --env-vars`: the servers to talk to")
    for command in (sam_local, rie):
        command.add_argument("--sam", type=Path, required=True, help="the command")
        command.add_argument("--python", required=True, help="of the functions' version")
    for command in (demo, run):
        command.add_argument("--verbose", action="store_true", help="print the functions' logs")
    arguments = parser.parse_args()

    # Late: an error in the arguments is told at once.
    if arguments.command == "demo":
        from infra.local.demo import run_demo  # noqa: PLC0415

        return _run(run_demo(keep=arguments.keep, verbose=arguments.verbose), 0 if arguments.keep else _INTERRUPTED)
    if arguments.command in {"sam-local", "rie"}:
        return _run(_emulation(arguments), 0 if getattr(arguments, "keep", False) else _INTERRUPTED)
    from infra.local.run import run_runtime  # noqa: PLC0415

    running = run_runtime(
        kubeconfig=arguments.kubeconfig,
        context=arguments.context,
        resync_seconds=arguments.resync_seconds,
        verbose=arguments.verbose,
    )
    return _run(running, 0)


def _emulation(arguments: argparse.Namespace) -> Coroutine[Any, Any, int]:
    from infra.local.emulation import invoking  # noqa: PLC0415

    sam, python = arguments.sam.absolute(), arguments.python
    if arguments.command == "sam-local":
        return invoking.sam_local(sam=sam, python=python, keep=arguments.keep)
    return invoking.under_emulator(
        sam=sam, python=python, function=arguments.function, event=arguments.event, variables=arguments.env_vars
    )


def _run(work: Coroutine[Any, Any, int], interrupted: int) -> int:
    """Run to the end or until the first SIGINT or SIGTERM; later ones do not disturb the shutdown."""

    async def guarded() -> int:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, lambda: None if task.cancelling() else task.cancel())
        with contextlib.suppress(asyncio.CancelledError):
            return await task
        return interrupted

    return asyncio.run(guarded())


if __name__ == "__main__":
    sys.exit(main())
