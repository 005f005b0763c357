"""The in-memory servers for many objects: the same semantics, with indexes where a small world looks at everything."""

import heapq
import itertools
import re
from bisect import bisect_left, insort
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any, Final

from infra.local.embedded.kubernetes.schema import Kind
from tests.interleavings.kubernetes_api import Objects
from tests.interleavings.machine import Access, Machine, Step
from tests.interleavings.s3 import Bucket
from tests.interleavings.sqs import NAMES, VISIBILITY_SECONDS, Message, Queues, SqsClient

_AMONG: Final = re.compile(r"(\S+) in \(([^)]*)\)")

Object = dict[str, Any]
Key = tuple[str, str]
_Listed = list[Object]


class LargeMachine(Machine):
    """A machine whose calls take no time by themselves: who runs it says when each is carried out."""

    def carry_out(self, step: Step) -> Any:
        """Carry a call out, let its caller go on until all wait again, and return the answer."""
        self.pending.remove(step)
        if step.abandoned:
            return None
        answer: Any = None
        failure: BaseException | None = None
        self.cause = step.actor.chain
        try:
            answer = step.apply()
        except Exception as refused:
            failure = refused
        self._answer(step, answer, failure)
        self.run_ready()
        return answer


class LargeObjects(Objects):
    """Objects in order of their keys, and by their labels."""

    def __init__(self) -> None:
        super().__init__()
        self._keys: dict[Kind, list[Key]] = defaultdict(list)
        self._labelled: dict[tuple[Kind, str, str], set[Key]] = defaultdict(set)

    def list(self, kind: Kind, namespace: str) -> _Listed:
        objects = self._of(kind)
        return [objects[key] for key in self._keys[kind] if not namespace or key[0] == namespace]

    def selectable(self, kind: Kind, namespace: str, selector: str) -> _Listed:
        if among := _AMONG.match(selector):
            name, values = among[1], among[2].split(",")
        else:
            name, equals, value = selector.partition(",")[0].partition("=")
            if not equals or name.endswith("!"):
                return self.list(kind, namespace)
            values = [value.lstrip("=")]
        objects = self._of(kind)
        keys = sorted(key for value in values for key in self._labelled[kind, name, value.strip()])
        return [objects[key] for key in keys if not namespace or key[0] == namespace]

    def _save(self, kind: Kind, change: str, obj: Object) -> Object:
        key = (obj["metadata"].get("namespace") or "", obj["metadata"]["name"])
        before = self._of(kind).get(key)
        if before is None:
            insort(self._keys[kind], key)
        self._unlabel(kind, key, before)
        for label in (obj["metadata"].get("labels") or {}).items():
            self._labelled[kind, *label].add(key)
        return super()._save(kind, change, obj)

    def _remove(self, kind: Kind, obj: Object) -> Object:
        key = (obj["metadata"].get("namespace") or "", obj["metadata"]["name"])
        self._unlabel(kind, key, self._of(kind).get(key))
        keys = self._keys[kind]
        del keys[bisect_left(keys, key)]
        return super()._remove(kind, obj)

    def _unlabel(self, kind: Kind, key: Key, obj: Object | None) -> None:
        for label in ((obj or {"metadata": {}})["metadata"].get("labels") or {}).items():
            self._labelled[kind, *label].discard(key)


class LargeQueues(Queues):
    """Queues of which each is looked at alone, and whose events come from the cluster with a delay.

    Attributes:
        forwarding_seconds: from a change in the cluster until its event can be received.
        sends: messages that were sent, by queue.
    """

    def __init__(self, machine: Machine, forwarding_seconds: float) -> None:
        super().__init__(machine)
        self.forwarding_seconds = forwarding_seconds
        self.sends: dict[str, int] = defaultdict(int)
        self._by_id: dict[str, Message] = {}
        self._ready: dict[str, deque[Message]] = {name: deque() for name in NAMES}
        self._later: list[tuple[float, int, Message]] = []
        self._order = itertools.count()

    def send(self, queue: str, body: str, chain: int, delay: float = 0) -> None:
        self.sent += 1
        self.sends[queue] += 1
        delay += self.forwarding_seconds if queue == "changes" else 0
        message = Message(f"m{self.sent}", queue, body, chain, self.machine.now + delay)
        self._by_id[message.id] = message
        self._put(message)

    def take(self, queue: str, most: int) -> list[Message]:
        """Return what can be received from a queue now; it has to be received, or it is lost."""
        self.ripen()
        found: list[Message] = []
        ready = self._ready[queue]
        while ready and len(found) < most:
            message = ready.popleft()
            if message.id not in self._by_id:
                continue
            if message.receives >= self.most_receives:
                self.dead.append(self._by_id.pop(message.id))
            else:
                found.append(message)
        return found

    def ripen(self) -> None:
        """Let what was hidden until now be received."""
        while self._later and self._later[0][0] <= self.machine.now + 1e-6:
            at, _, message = heapq.heappop(self._later)
            if message.id in self._by_id and message.visible_at == at:
                self._ready[message.queue].append(message)

    def waits(self, queue: str) -> int:
        """Return how many messages can be received from a queue now, at most."""
        self.ripen()
        return len(self._ready[queue])

    def receive(self, message: Message, seconds: float | None = None) -> dict[str, Any]:
        handed = super().receive(message, seconds or VISIBILITY_SECONDS[message.queue])
        self._put(message)
        return handed

    def delete(self, receipt: str) -> None:
        self._by_id.pop(receipt.partition("#")[0], None)

    def hide(self, receipt: str, seconds: float) -> None:
        message = self._by_id.get(receipt.partition("#")[0])
        if message is not None and f"{message.id}#{message.receives}" == receipt:
            message.visible_at = self.machine.now + seconds
            self._put(message)

    @property
    def left(self) -> int:
        """How many messages are not settled."""
        return len(self._by_id)

    @property
    def next_visible(self) -> float | None:
        self.ripen()
        while self._later and (
            self._later[0][2].id not in self._by_id or self._later[0][2].visible_at != self._later[0][0]
        ):
            heapq.heappop(self._later)
        return self._later[0][0] if self._later else None

    def _put(self, message: Message) -> None:
        heapq.heappush(self._later, (message.visible_at, next(self._order), message))


class LargeSqsClient(SqsClient):
    """The client of such queues."""

    _queues: LargeQueues

    async def receive_message(
        self, *, QueueUrl: str, MaxNumberOfMessages: int, VisibilityTimeout: int, **_: Any
    ) -> Any:
        def apply() -> Any:
            found = self._queues.take(QueueUrl, MaxNumberOfMessages)
            return {"Messages": [self._queues.receive(message, VisibilityTimeout) for message in found]}

        return await self._call("receive", QueueUrl, apply)


class _SortedFiles(dict[str, bytes]):
    def __init__(self) -> None:
        super().__init__()
        self.ordered: list[str] = []

    def __setitem__(self, key: str, value: bytes) -> None:
        if key not in self:
            insort(self.ordered, key)
        super().__setitem__(key, value)

    def pop(self, key: str, *default: Any) -> Any:
        if key in self:
            del self.ordered[bisect_left(self.ordered, key)]
        return super().pop(key, *default)


class LargeBucket(Bucket):
    """A bucket whose keys are in order."""

    def __init__(self, machine: Machine, name: str) -> None:
        super().__init__(machine, name)
        self.files: _SortedFiles = _SortedFiles()

    def keys(self, prefix: str) -> list[str]:
        ordered: Sequence[str] = self.files.ordered
        at = bisect_left(ordered, prefix)
        return list(itertools.takewhile(lambda key: key.startswith(prefix), itertools.islice(ordered, at, None)))


def server_of(access: Access) -> str:
    """Return the name of the server that a call goes to: k8s, sqs, s3 or git."""
    return access.key.partition(":")[0]
