"""`make sam-local` and `make rie`: functions invoked with the events of events/, and what became of the world then."""

import asyncio
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from infra.local.emulation.commands import CannotInvoke, InvocationFailed, run
from infra.local.emulation.engine import container_engine
from infra.local.emulation.lambda_python import architecture, emulator, interpreter, runtime_client
from infra.local.emulation.rie import Emulator
from infra.local.emulation.sam import KUBECONFIG_IN_FUNCTION, Sam
from infra.local.emulation.situations import SITUATIONS, Situation
from infra.local.emulation.stage import KUBECONFIG, Host, Stage
from infra.local.progress import Progress
from infra.local.template import ROOT, Template

Invoke = Callable[[str, Path], Awaitable[Any]]


async def sam_local(*, sam: Path, python: str, keep: bool) -> int:
    """Invoke every function with `sam local invoke` against embedded servers, and return the exit status.

    Args:
        sam: the command.
        python: of the functions' version.
        keep: whether to leave the servers running afterwards, for one's own `sam local invoke`.
    """

    async def work(progress: Progress) -> list[str]:
        folder = ROOT / ".landfall" / "sam"
        folder.mkdir(parents=True, exist_ok=True)
        async with container_engine(progress.step) as engine:
            own = await interpreter(python)
            image = await engine.base_image(own, progress.step)
            host = await engine.host(image)
            command = Sam(sam, folder, engine, image)
            with progress.waiting("sam build"):
                await command.build(own)
            progress.step("Built", f"{command.template.relative_to(ROOT)}, with sam build")
            async with _servers(folder / "servers", host, command) as stage:
                progress.step("Servers", f"a Kubernetes API, S3 and SQS, embedded, on {host.name}")

                async def invoke(function: str, event: Path) -> Any:
                    progress.heading("$ sam " + " ".join(command.arguments(function, event)))
                    return await command.invoke(function, event)

                complaints = await go_through(SITUATIONS, stage, invoke, progress)
            if keep and not complaints:
                async with _servers(folder / "servers", host, command):
                    progress.heading("Servers as at the beginning stay up until Ctrl-C; the commands above work with")
                    if docker_host := engine.environment.get("DOCKER_HOST"):
                        progress.lines(f"export DOCKER_HOST={docker_host}")
                    progress.lines(f"export PATH={sam.parent}:$PATH")
                    await asyncio.Event().wait()
            return complaints

    return await _report(work)


@asynccontextmanager
async def _servers(folder: Path, host: Host, command: Sam) -> AsyncIterator[Stage]:
    """Start servers in an empty folder, and tell functions of them."""
    shutil.rmtree(folder, ignore_errors=True)
    async with Stage(folder, host) as stage:
        command.give(stage.environment(KUBECONFIG_IN_FUNCTION), folder / KUBECONFIG)
        yield stage


async def under_emulator(
    *, sam: Path, python: str, function: str | None, event: Path | None, variables: Path | None
) -> int:
    """Invoke functions under the runtime interface emulator, and return the exit status.

    Args:
        sam: the command, which brings the emulator along.
        python: of the functions' version.
        function: name of its folder; None for all, one after the other.
        event: a file, for that function; None for the one of `SITUATIONS`.
        variables: a file as of `sam local invoke --env-vars`, with the servers to talk to; None for embedded ones.
    """

    async def work(progress: Progress) -> list[str]:
        situations = _chosen(function, event)
        own = await interpreter(python)
        machine = Emulator(emulator(sam), own, await runtime_client(own))
        folder = ROOT / ".landfall" / "rie"
        for situation in situations:
            await _build(situation.function, folder / situation.function, own)
        progress.step("Built", f"{folder.relative_to(ROOT)}/*, as sam build would")

        def invoking(environment: dict[str, dict[str, str]]) -> Invoke:
            async def invoke(id_: str, path: Path) -> Any:
                known = Template.load().functions[id_]
                progress.heading(f"{known.name} < {_short(path)}")
                given = {**environment.get("Parameters", {}), **environment.get(id_, {})}
                return await machine.invoke(known, folder / known.name, _text(path), given)

            return invoke

        if variables is not None:
            return await _invoke_alone(situations[-1], invoking(json.loads(_text(variables))), progress)
        with tempfile.TemporaryDirectory(prefix="landfall-rie-") as place:
            async with Stage(Path(place)) as stage:
                invoke = invoking(stage.environment(f"{place}/{KUBECONFIG}"))
                return await go_through(situations, stage, invoke, progress)

    return await _report(work)


async def go_through(situations: Sequence[Situation], stage: Stage, invoke: Invoke, progress: Progress) -> list[str]:
    """Bring situations about one after the other, and show what becomes of each.

    Args:
        situations: in their order.
        stage: where they take place.
        invoke: gets a function's logical id and the event's file.
        progress: is told.

    Returns:
        Complaints about what is not as it should be.
    """
    ids = {function.name: id_ for id_, function in stage.template.functions.items()}
    complaints: list[str] = []
    for situation in situations:
        situation.prepare(stage)
        began = progress.seconds
        try:
            answer = await invoke(ids[situation.function], situation.path)
        except InvocationFailed as failure:
            return [*complaints, str(failure)]
        progress.lines(f"{json.dumps(answer)}  (after {progress.seconds - began:.1f} s)")
        became = situation.outcome(stage)
        wrong = situation.complaints(answer, became)
        progress.lines("\n".join(f"  {line}" for line in became), style="red" if wrong else "green")
        complaints += wrong
    return complaints


def _chosen(function: str | None, event: Path | None) -> list[Situation]:
    """Return the situations up to that of a function: each stands on what those before it have done."""
    names = [situation.function for situation in SITUATIONS]
    if function is None:
        if event is not None:
            raise CannotInvoke("an event is one function's: name it, too (FUNCTION=write-canary EVENT=…)")
        return list(SITUATIONS)
    if function not in names:
        raise CannotInvoke(f"there is no function {function}: name one of {', '.join(names)}")
    *before, last = SITUATIONS[: names.index(function) + 1]
    if event is not None:
        last = dataclasses.replace(last, path=event.resolve(), becomes=None)
    return [*before, last]


async def _invoke_alone(situation: Situation, invoke: Invoke, progress: Progress) -> list[str]:
    id_ = next(id_ for id_, known in Template.load().functions.items() if known.name == situation.function)
    try:
        progress.lines(json.dumps(await invoke(id_, situation.path)))
    except InvocationFailed as failure:
        return [str(failure)]
    return []


async def _build(function: str, artifact: Path, python: Path) -> None:
    arguments = ("infra/artifacts.py", "--architecture", architecture(), "--function", function, artifact)
    done = await run(python, *arguments, environment=os.environ, cwd=ROOT)
    if done.status:
        raise CannotInvoke(f"the artifact of {function} cannot be built:\n{done.words}")


def _text(path: Path) -> str:
    return path.read_text()


def _short(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


async def _report(work: Callable[[Progress], Coroutine[Any, Any, list[str]]]) -> int:
    progress = Progress()
    try:
        complaints = await work(progress)
    except (CannotInvoke, RuntimeError, OSError, ValueError) as error:
        complaints = [str(error)]
    progress.heading("Result")
    if complaints:
        progress.failure("\n".join(f"- {complaint}" for complaint in complaints))
        return 1
    progress.lines(f"Every function did what it should. That took {progress.seconds:.1f} s.", style="green")
    return 0
