"""The local runtime: forwarder, queues, event source mappings, functions and schedule, started and stopped as one."""

import asyncio
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from infra.local.event_source import EventSourceMapping
from infra.local.forwarder import Forwarder
from infra.local.kubernetes_access import ClusterAccess
from infra.local.queues import MemoryQueues, Queues, SqsQueues
from infra.local.sources import FIRST_REDELIVERY_SECONDS
from infra.local.template import ACCOUNT, REGION, Template
from infra.local.workers import FunctionFailed, FunctionPool, Log, caller_environment, function_environment

_GRACE_SECONDS: Final = 5.0
_CHANGES: Final = "ChangesQueue"


class LocalRuntime:
    """Plays Landfall's whole deployment on this machine, against one cluster.

    Used as `async with LocalRuntime(kubeconfig=…) as runtime:`; inside, everything runs.

    Attributes:
        functions: by folder name, each with its counts of invocations and failures.
        queues: what feeds them; `MemoryQueues` unless an SQS endpoint was given.
        forwarder: with its count of events.
        log: what the functions print.
    """

    def __init__(
        self,
        *,
        kubeconfig: Path | None = None,
        context: str | None = None,
        access: ClusterAccess | None = None,
        environment: Mapping[str, str] | None = None,
        of_function: Mapping[str, Mapping[str, str]] | None = None,
        resync_seconds: float | None = None,
        sqs_endpoint: str | None = None,
        concurrency: int = 1,
        first_redelivery_seconds: float = FIRST_REDELIVERY_SECONDS,
        log_path: Path | None = None,
        verbose: bool = False,
        tell: Callable[[str], None] | None = None,
        observe: Callable[[Mapping[str, Any]], None] | None = None,
        prepare: bool = True,
    ) -> None:
        """Say what to run; nothing starts yet.

        Args:
            kubeconfig: of the cluster; None for where kubectl would look.
            context: in the kubeconfig; None for its current one.
            access: the forwarder's way to the cluster, where it is not to read the kubeconfig itself.
            environment: variables for the functions, on top of this process's own and of the template's.
            of_function: variables of single functions, by folder name, on top of all others: an identity, say.
            resync_seconds: between two resyncs; None for what the template says, 0 for never.
            sqs_endpoint: of an SQS to use instead of queues in memory.
            concurrency: processes a function.
            first_redelivery_seconds: before a message that failed is delivered again the first time.
            log_path: where the functions' output goes; None for a file that goes when the runtime does.
            verbose: whether it goes to stderr too.
            tell: called with a sentence about what a person might want to know.
            observe: called with every watch event that is sent to the changes queue.
            prepare: whether to create the namespace of the Leases where it is missing.
        """
        self._template = Template.load()
        self._kubeconfig, self._context, self._access = kubeconfig, context, access
        self._variables, self._observe = dict(environment or {}), observe
        self._of_function = dict(of_function or {})
        self._resync_seconds = resync_seconds
        self._prepare = prepare
        self._concurrency = concurrency
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._mappings: list[EventSourceMapping] = []
        if log_path is None:
            folder = tempfile.TemporaryDirectory(prefix="landfall-runtime-")
            self._stack.callback(folder.cleanup)
            log_path = Path(folder.name) / "functions.log"
        self.log = Log(log_path, echo=verbose)
        self._tell = tell or (lambda sentence: self.log.write("runtime", sentence))
        base = function_environment(caller_environment(), self._variables)
        self.queues: Queues
        if sqs_endpoint:
            self.queues = SqsQueues(self._template.queues, sqs_endpoint, base)
        else:
            self.queues = MemoryQueues(self._template.queues, first_redelivery_seconds=first_redelivery_seconds)
        self.functions: dict[str, FunctionPool] = {}
        self.forwarder: Forwarder

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def invoke(self, function: str, event: object) -> Any:
        """Invoke a function directly, by its folder's name, and return its answer.

        Raises:
            FunctionFailed: it did not answer.
        """
        return await self.functions[function].invoke(event)

    async def resync(self) -> None:
        """Invoke what the schedule invokes, now.

        Raises:
            FunctionFailed: it did not answer.
        """
        for id_ in self._template.schedules:
            await self._by_id[id_].invoke(_scheduled_event())

    async def stop_schedules(self) -> None:
        """Let no schedule invoke anything from now on: a flow that a resync starts again never comes to rest."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def dead_letters(self) -> dict[str, int]:
        """Return how many messages lie in each dead-letter queue that has any."""
        waiting = await self.queues.waiting()
        return {name: count for name, count in waiting.items() if name.endswith("dead-letter") and count}

    async def idle(self, seconds: float = 0.5) -> None:
        """Wait until no message has been anywhere, and nothing has run, for so long; dead letters do not count."""
        quiet_since = None
        while True:
            waiting = await self.queues.waiting()
            busy = any(mapping.busy for mapping in self._mappings)
            now = asyncio.get_running_loop().time()
            if busy or any(count for name, count in waiting.items() if not name.endswith("dead-letter")):
                quiet_since = None
            elif quiet_since is None:
                quiet_since = now
            elif now - quiet_since >= seconds:
                return
            await asyncio.sleep(0.05)

    async def _start(self) -> None:
        self._stack.callback(self.log.close)
        self._stack.push_async_callback(self.queues.stop)
        await self.queues.start()
        self._by_id = {
            id_: FunctionPool(function, self._environment(id_), self.log, self._concurrency)
            for id_, function in self._template.functions.items()
        }
        self.functions = {pool.function.name: pool for pool in self._by_id.values()}
        for pool in self._by_id.values():
            self._stack.push_async_callback(pool.stop)
        warming = asyncio.gather(*(pool.prewarm() for pool in self._by_id.values()))
        try:
            access = self._access or await ClusterAccess.from_kubeconfig(self._kubeconfig, self._context)
            if self._access is None:
                self._stack.push_async_callback(access.close)
            self.forwarder = Forwarder(access, self._send_changes, self._tell, self._observe)
            await self.forwarder.check()
            if self._prepare:
                await access.ensure_namespace(self._variables.get("LANDFALL_LEASE_NAMESPACE", "landfall"))
        except BaseException:
            warming.cancel()
            await asyncio.gather(warming, return_exceptions=True)
            raise
        await warming
        self._stack.push_async_callback(self._stop_flow)
        for declared in self._template.mappings:
            source, pool = self.queues.source(declared.queue), self._by_id[declared.function]
            mapping = EventSourceMapping(declared, source, pool, concurrency=self._concurrency)
            mapping.start()
            self._mappings.append(mapping)
        self._tasks = [asyncio.create_task(self._schedule(*item)) for item in self._template.schedules.items()]
        self.forwarder.start()

    async def _stop_flow(self) -> None:
        await self.forwarder.stop()
        await self.stop_schedules()
        await asyncio.gather(*(mapping.stop(_GRACE_SECONDS) for mapping in self._mappings))

    async def _send_changes(self, bodies: Sequence[str]) -> None:
        await self.queues.send(_CHANGES, bodies)

    async def _schedule(self, id_: str, declared_seconds: float) -> None:
        seconds = declared_seconds if self._resync_seconds is None else self._resync_seconds
        while seconds > 0:
            await asyncio.sleep(seconds)
            try:
                await self._by_id[id_].invoke(_scheduled_event())
            except FunctionFailed as failure:
                self._tell(f"the schedule's invocation failed: {failure}")

    def _environment(self, id_: str) -> dict[str, str]:
        function = self._template.functions[id_]
        variables = {name: value for name, value in function.environment.items() if value}
        variables |= {name: self.queues.urls[queue] for name, queue in function.queue_urls.items()}
        variables["LANDFALL_SQS_ENDPOINT_URL"] = self.queues.endpoint
        direct = [*filter(None, caller_environment().get("NO_PROXY", "").split(",")), "127.0.0.1", "localhost"]
        variables["NO_PROXY"] = variables["no_proxy"] = ",".join(direct)  # our own queues are never behind a proxy
        variables["AWS_LAMBDA_FUNCTION_NAME"] = f"landfall-{function.name}"
        variables["_HANDLER"] = function.handler
        if self._kubeconfig is not None:
            variables["LANDFALL_KUBECONFIG"] = str(self._kubeconfig)
        if self._context is not None:
            variables["LANDFALL_KUBECONFIG_CONTEXT"] = self._context
        # What the caller has set himself goes before what the template's defaults say.
        own = {n: v for n, v in caller_environment().items() if n.startswith(("LANDFALL_", "POWERTOOLS_LOG_"))}
        single = self._of_function.get(function.name, {})
        return function_environment(caller_environment(), {**variables, **own, **self._variables, **single})


def _scheduled_event() -> dict[str, Any]:
    """Return what EventBridge Scheduler gives a function by default."""
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Scheduled Event",
        "source": "aws.scheduler",
        "account": ACCOUNT,
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "region": REGION,
        "resources": [f"arn:aws:scheduler:{REGION}:{ACCOUNT}:schedule/default/landfall-resync"],
        "detail": "{}",
    }
