"""What was asked of the cluster and of the stores, and when: the facts that the model judges the end by.

Moments are `time.monotonic()`. A call has no one moment: what it began lives from before the call, and what it ended
lives until after it, so that two neighbours overlap and no moment is without an owner.
"""

import bisect
import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

FOR_EVER = math.inf
Store = tuple[str, str]  # kind and name

# How long a request that a dead process has sent may still be on its way (the proxies' latency, a server's own work).
AFTERMATH_SECONDS = 4.0


@dataclass(frozen=True)
class Spec:
    """What of a Destination's spec decides about files; `path` as it is written, the name where it is left out."""

    store: Store
    path: str
    mode: str = "nestedByMetadata"
    cleanup: str = "none"
    init: bool = True


@dataclass
class Version(Generic[T]):
    """A spec and how long it was the object's."""

    spec: T
    since: float
    until: float = FOR_EVER


@dataclass
class Deletion:
    """A deletion that was asked for.

    Attributes:
        finalizer: whether the finalizer was there, so that the object waits for its clean-up.
        gone: when the object was seen to be gone, at the latest.
        skipped: whether an Event says that its files were left behind (docs/contract.md#deletion).
    """

    requested: float
    finalizer: bool
    gone: float = FOR_EVER
    skipped: bool = False


@dataclass
class Incarnation:
    """One life of a Destination: another uid is another one.

    Attributes:
        created: the creationTimestamp, whole seconds in UTC, which sort as text.
    """

    uid: str
    name: str
    created: str
    versions: list[Version[Spec]]
    deletion: Deletion | None = None


@dataclass(frozen=True)
class Place:
    """A State Store's spec as far as it says where files go.

    Attributes:
        where: which bucket or branch, whatever its spelling.
    """

    where: str
    path: str


@dataclass(frozen=True)
class Put:
    """What somebody else did to one file; None is its removal.

    Attributes:
        of: the uid of the Destination that left it behind when it was deleted with cleanup: none.
    """

    began: float
    ended: float
    content: bytes | None
    of: str = ""


@dataclass
class Journal:
    """All facts of a run.

    Attributes:
        destinations: every incarnation, in the order of creation.
        stores: by kind and name, all versions; between a deletion and a re-creation there is none.
        puts: by place and path, what others did there.
        watched, begun: moments at which the functions that touch stores were looked at, and when the oldest of what
            they were at work on then had begun; both rise.
        operations, faults: counts to print.
        diary: when which fault began or ended, for whoever looks into a difference.
    """

    destinations: list[Incarnation] = field(default_factory=list)
    stores: dict[Store, list[Version[Place]]] = field(default_factory=dict)
    puts: dict[tuple[str, str], list[Put]] = field(default_factory=dict)
    watched: list[float] = field(default_factory=list)
    begun: list[float] = field(default_factory=list)
    operations: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    diary: list[tuple[float, str]] = field(default_factory=list)

    def live(self, name: str) -> Incarnation | None:
        """Return the incarnation that has a name now and is not being deleted."""
        found = self.latest(name)
        return found if found is not None and found.deletion is None else None

    def latest(self, name: str) -> Incarnation | None:
        """Return the incarnation that had a name last."""
        return next((each for each in reversed(self.destinations) if each.name == name), None)

    def change(self, versions: list[Version[T]], spec: T, began: float) -> None:
        """Record that an object has another spec from a call on that began then and ends now."""
        if versions and versions[-1].until == FOR_EVER:
            versions[-1].until = time.monotonic()
        versions.append(Version(spec, began))

    def put(self, where: str, path: str, content: bytes | None, began: float, of: str = "") -> None:
        """Record what a call that began then and ends now did to a file."""
        self.puts.setdefault((where, path), []).append(Put(began, time.monotonic(), content, of))

    def strangers(self, where: str) -> Iterator[tuple[str, bytes]]:
        """Yield the files of others that were not taken away by others."""
        for (place, path), puts in self.puts.items():
            if place == where and (content := puts[-1].content) is not None:
                yield path, content

    def fault(self, what: str) -> None:
        """Record a fault that begins now."""
        self.faults[what] += 1
        self.diary.append((time.monotonic(), what))

    def settled(self, moment: float) -> float:
        """Return when every invocation that began before a moment, and may have read what was then, had ended."""
        if moment == FOR_EVER:
            return FOR_EVER
        at = bisect.bisect_left(self.begun, moment)
        return (self.watched[at] if at < len(self.watched) else FOR_EVER) + AFTERMATH_SECONDS
