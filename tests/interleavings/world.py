"""One deployment: a cluster, its State Stores, the queues, the functions, and what Kubernetes and Lambda do there."""

import importlib
import inspect
import itertools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from infra.forwarder.changes import KINDS, Changes
from infra.local.embedded.kubernetes.schema import Kind
from infra.local.embedded.kubernetes.tables import metadata_only
from shared.deadline import Deadline
from shared.errors import LandfallError, first
from shared.reconcile.connections import Connections
from shared.settings import Settings
from tests.interleavings import seams
from tests.interleavings.git_remote import Remote
from tests.interleavings.kubernetes_api import BY_NAME, Objects
from tests.interleavings.machine import START, Access, Actor, Machine
from tests.interleavings.s3 import Bucket
from tests.interleavings.sqs import Message, Queues

Object = dict[str, Any]

_ROOT: Final = Path(__file__).parents[2]
# By queue: the function, and its time-out in the template in seconds.
FUNCTIONS: Final[Mapping[str, tuple[str, int]]] = {
    "changes": ("on-destination-change", 60),
    "canary": ("write-canary", 120),
    "cleanup": ("cleanup", 120),
    "works": ("on-work-change", 120),
    "documents": ("write-documents", 120),
    "status": ("status-report", 60),
}
_RESYNC: Final = ("resync", 60)
_FORWARDED: Final = {kind.kind: kind for kind in KINDS}


@dataclass(frozen=True)
class Function:
    """A function's handler, taken apart: how it reads a record, and its use case."""

    decode: Callable[[Mapping[str, Any]], Any]
    use_case: Callable[[Mapping[str, Any], Connections, Deadline], Any]


@cache
def function(name: str) -> Function:
    """Return what a function's handler hands to the runtime."""
    folder = str(_ROOT / "functions" / name)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    handler = inspect.unwrap(importlib.import_module(name.replace("-", "_")).lambda_handler)
    found: list[Function] = []
    own = handler.__globals__
    kept = {key: own[key] for key in ("serve_queue", "serve_events", "serve_schedule") if key in own}
    own |= {
        "serve_queue": lambda _, __, decode, use: found.append(Function(lambda r: decode(r["body"]), use)),
        "serve_events": lambda _, __, decode, use: found.append(Function(lambda r: decode({"Records": [r]}, ""), use)),
        "serve_schedule": lambda _, __, use: found.append(Function(lambda r: r, use)),
    }
    try:
        handler({}, None)
    finally:
        own |= kept
    return found[0]


@cache
def settings_of(queue: str) -> Settings:
    """Return the settings of the function that a queue invokes; a queue's URL is its name."""
    names = ("canary", "cleanup", "status", "works", "documents")
    urls = {f"{name}_queue_url": name for name in names}
    return Settings(own_queue_url=queue, bucket_concurrency=2, **urls)


@dataclass(eq=False)
class Invocation:
    """A function at work.

    Attributes:
        messages: that it was invoked for.
        done: whether Lambda has its answer.
    """

    queue: str
    actor: Actor
    connections: Connections
    messages: Sequence[Message] = ()
    done: bool = False


@dataclass
class World:
    """Everything, with the time at which it is.

    Attributes:
        garbage: objects whose owner is gone, for Kubernetes' garbage collector: kind, namespace, name, uid and cause.
    """

    machine: Machine
    store: Objects
    queues: Queues
    buckets: dict[str, Bucket]
    remotes: dict[str, Remote]
    changes: Changes
    uids: "itertools.count[int]"
    invocations: list[Invocation] = field(default_factory=list)
    garbage: list[tuple[str, str, str, str, int]] = field(default_factory=list)
    _warm: dict[str, list[Connections]] = field(default_factory=dict)
    _invoked: int = 0
    _told: set[tuple[str, str]] = field(default_factory=set)

    @classmethod
    def new(cls) -> "World":
        """Return a world with namespaces and nothing else; it is the process's current one."""
        machine = Machine(START)
        world = cls(machine, Objects(), Queues(machine), {}, {}, Changes(), itertools.count(1))
        world.enter(0)
        for name in ("default", "landfall"):
            world.store.create(BY_NAME["Namespace"], "", {"metadata": {"name": name}})
        return world

    def fork(self, seed: int = 0) -> "World":
        """Return a world that begins where this one is, which must be at rest; it is the process's current one."""
        machine = Machine(self.machine.now)
        changes = Changes(dict(self.changes._looks), dict(self.changes._secrets))
        at = next(self.uids)
        self.uids = itertools.count(at)
        world = World(
            machine,
            self.store.fork(),
            self.queues.fork(machine),
            {name: bucket.fork(machine) for name, bucket in self.buckets.items()},
            {url: remote.fork(machine) for url, remote in self.remotes.items()},
            changes,
            itertools.count(at),
        )
        world.enter(seed)
        return world

    def enter(self, seed: int) -> None:
        """Let the process's clocks and clients be this world's."""
        self.store.on_change = self._changed
        seams.enter(self.machine, self.buckets, self.remotes, self.uids, seed)
        seams.on_unexpected(self.machine.surprises.append)

    # What happens.

    def deliver(self, messages: Sequence[Message], chain: int) -> Invocation:
        """Let Lambda invoke the function of a queue with messages of it."""
        queue = messages[0].queue
        name, seconds = FUNCTIONS[queue]
        records = []
        for message in messages:
            handed = self.queues.receive(message)
            records.append(
                {
                    "messageId": handed["MessageId"],
                    "receiptHandle": handed["ReceiptHandle"],
                    "body": handed["Body"],
                    "attributes": handed["Attributes"],
                    "eventSource": "aws:sqs",
                }
            )
        invocation = self._invocation(queue, name, seconds, chain)
        invocation.messages = messages
        self.machine.start(self._serve(invocation, function(name), records, seconds), invocation.actor)
        return invocation

    def tick(self, chain: int) -> None:
        """Let the schedule invoke resync."""
        name, seconds = _RESYNC
        invocation = self._invocation("resync", name, seconds, chain)
        records = [{"messageId": "tick", "receiptHandle": "", "body": {}}]
        self.machine.start(self._serve(invocation, function(name), records, seconds), invocation.actor)

    def kill(self, invocation: Invocation) -> None:
        """End an invocation, and its container with it, where it is."""
        self.machine.kill(invocation.actor)
        self.invocations.remove(invocation)

    def collect_garbage(self) -> None:
        """Let Kubernetes delete one object whose owner is gone."""
        kind, namespace, name, uid, chain = self.garbage.pop(0)
        self.machine.cause = chain
        obj = self.store.find(kind, namespace, name)
        if obj is not None and obj["metadata"]["uid"] == uid:
            self.store.delete(BY_NAME[kind], namespace, name, {})

    def close(self) -> None:
        """End the schedule."""
        self.machine.close()

    # What people do with kubectl; each is one call.

    def create(self, kind: str, obj: Object, namespace: str = "") -> Object:
        """Create an object."""
        return self.store.create(BY_NAME[kind], namespace, obj)

    def patch(self, kind: str, namespace: str, name: str, change: Callable[[Object], None]) -> Object:
        """Change an object, whatever it is now."""
        obj = json.loads(json.dumps(self.store.get(BY_NAME[kind], namespace, name)))
        change(obj)
        obj["metadata"].pop("resourceVersion")
        return self.store.update(BY_NAME[kind], namespace, obj)

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Ask for an object's deletion."""
        self.store.delete(BY_NAME[kind], namespace, name, {})

    # Behind it.

    def _changed(self, kind: Kind, type_: str, obj: Object) -> None:
        chain = self.machine.cause
        metadata = obj["metadata"]
        owners = metadata.get("ownerReferences") or ()
        this = (kind.kind, metadata.get("namespace", ""), metadata["name"], metadata["uid"], chain)
        if type_ == "ADDED" and owners:
            living = {o["metadata"]["uid"] for o in self.store.all(owners[0]["kind"])}
            if owners[0]["uid"] not in living:
                self.garbage.append(this)
        if type_ == "DELETED" and kind.kind == "Work":
            for dependent in self.store.all("WorkPlacement"):
                theirs = dependent["metadata"]
                if any(o["uid"] == metadata["uid"] for o in theirs.get("ownerReferences") or ()):
                    dependant = ("WorkPlacement", theirs["namespace"], theirs["name"], theirs["uid"], chain)
                    self.garbage.append(dependant)
        if kind.kind == "WorkPlacement" and owners and metadata.get("deletionTimestamp") and type_ == "MODIFIED":
            self._watch_deletion(obj)
        forwarded = _FORWARDED.get(kind.kind)
        if forwarded is None:
            return
        seen = metadata_only(obj) if forwarded.metadata_only else obj
        event = self.changes.see(forwarded, type_, seen)
        if event is not None:
            self.queues.send("changes", event.text(), chain)

    def _watch_deletion(self, placement: Object) -> None:
        """Tell if a WorkPlacement is deleted that its Work and its Destination still ask for.

        Only functions delete those that a Work owns. That it comes back later does not make it right: its documents are
        away meanwhile.
        """
        spec, metadata = placement["spec"], placement["metadata"]
        (owner,) = metadata["ownerReferences"]
        name = (metadata["namespace"], metadata["uid"])
        work = self.store.find("Work", metadata["namespace"], owner["name"])
        target = self.store.find("Destination", "", spec["targetDestinationName"])
        if work is None or target is None or work["metadata"]["uid"] != owner["uid"]:
            return
        if work["metadata"].get("deletionTimestamp") or target["metadata"].get("deletionTimestamp"):
            return
        groups = {group["id"] for group in work["spec"].get("workloadGroups") or ()}
        if spec["id"] in groups and name not in self._told:
            self._told.add(name)
            self.machine.surprises.append(f"WorkPlacement {metadata['name']} was deleted, though its Work asks for it")

    def _invocation(self, queue: str, name: str, seconds: int, chain: int) -> Invocation:
        warm = self._warm.setdefault(queue, [])
        connections = warm.pop() if warm else None
        if connections is None:
            connections = seams.connections(self.machine, self.store, self.queues, settings_of(queue))
        self._invoked += 1
        invocation = Invocation(queue, Actor(chain, name, self._invoked), connections)
        self.invocations.append(invocation)
        self.machine.call_at(self.machine.now + seconds, self._time_out, invocation, context=Context())
        return invocation

    def _time_out(self, invocation: Invocation) -> None:
        if not invocation.done and not invocation.actor.dead:
            self.kill(invocation)

    async def _serve(
        self, invocation: Invocation, function: Function, records: Sequence[Mapping[str, Any]], seconds: int
    ) -> None:
        connections = invocation.connections
        deadline = Deadline.after(seconds - connections.settings.reserve_seconds)
        messages: dict[str, Any] = {}
        failures: dict[str, Exception] = {}
        for record in records:
            try:
                messages[record["messageId"]] = function.decode(record)
            except Exception as refusal:
                failures[record["messageId"]] = refusal
        try:
            if messages:
                failures |= await function.use_case(messages, connections, deadline)
        except Exception as error:
            cause = first(error)
            if not isinstance(cause, LandfallError):
                self.machine.surprises.append(f"{invocation.actor.name}: {cause!r}")
            failures |= dict.fromkeys(messages, cause)
        if invocation.queue != "resync":
            back: Any = getattr(connections.queues, "nack", None) or connections.queues.hand_back
            await back([record for record in records if record["messageId"] in failures], deadline)
            done = [record["receiptHandle"] for record in records if record["messageId"] not in failures]
            await self.machine.call(
                f"settle {len(done)} of {invocation.queue}",
                Access(f"sqs:{invocation.queue}", writes=True, commutes=True),
                lambda: self.queues.settle(done),
            )
        invocation.done = True
        self.invocations.remove(invocation)
        self._warm[invocation.queue].append(connections)
