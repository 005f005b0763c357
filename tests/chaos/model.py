"""What each State Store must, may and must not hold, judged by the journal: by docs/contract.md, not by our code.

Where the contract leaves something open, `_may_be_left` and `_may_be_gone` say what is allowed and why.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tests.chaos.journal import FOR_EVER, Incarnation, Journal, Put, Spec

# Spec section 2, letter by letter.
NAMESPACE = b"""\
apiVersion: v1
kind: Namespace
metadata:
  name: kratix-worker-system
spec: {}
status: {}
"""
CONFIG_MAP = b"""\
apiVersion: v1
data:
  canary: this confirms your infrastructure is reading from Kratix state stores
kind: ConfigMap
metadata:
  name: kratix-info
  namespace: kratix-worker-system
"""


def join(*parts: str) -> str:
    """Join and clean (docs/contract.md#paths): doubled slashes, `.` and a leading `/` mean nothing."""
    return "/".join(part for path in parts for part in path.split("/") if part not in {"", "."})


def within(path: str, directory: str) -> bool:
    """Whether a path is a directory or lies in it."""
    return directory in {"", path} or path.startswith(f"{directory}/")


_LONGEST_NAME = 255  # bytes, of the file systems that agents check documents out to


def invalid(path: str) -> bool:
    """Whether a path is refused: Git's own directory, or a name that no file system has; others are not tried."""
    return any(part == ".git" or len(part) > _LONGEST_NAME for part in path.split("/"))


def canaries(root: str, mode: str) -> dict[str, bytes]:
    """Return the canary documents of a Destination by path (docs/contract.md#paths)."""
    nested = mode == "nestedByMetadata"
    return {
        join(root, "dependencies" if nested else "", "kratix-canary-namespace.yaml"): NAMESPACE,
        join(root, "resources" if nested else "", "kratix-canary-configmap.yaml"): CONFIG_MAP,
    }


@dataclass(frozen=True)
class Stay:
    """A directory that was a Destination's own for a while.

    Attributes:
        sure: False where it follows from two objects that nobody had at once, but that one reader may have seen.
    """

    who: Incarnation
    spec: Spec
    where: str
    root: str
    since: float
    until: float
    sure: bool

    @cached_property
    def canaries(self) -> dict[str, bytes]:
        """The documents that may be written for it."""
        return canaries(self.root, self.spec.mode)


@dataclass(frozen=True)
class CleanUp:
    """The deletion of everything under a Destination's path, somewhen between its request and its last echo."""

    who: Incarnation
    stays: Sequence[Stay]
    began: float
    ended: float
    skipped: bool


@dataclass
class Contents:
    """What the stores must hold at the end.

    Attributes:
        required: by place, the canaries of live Destinations that are admitted, enabled and writable.
        refused: by place, the canary paths of those that are so, but disabled.
        allowances: how often each of these rules was needed.
    """

    journal: Journal
    required: Mapping[str, Mapping[str, bytes]]
    refused: Mapping[str, frozenset[str]]
    allowances: Counter[str] = field(default_factory=Counter)

    def differences(self, where: str, found: Mapping[str, bytes]) -> Iterator[str]:
        """Yield, as sentences, what a place holds otherwise than the objects and the journal say."""
        required = self.required.get(where, {})
        refused = self.refused.get(where, frozenset())
        known = {path for place, path in self.journal.puts if place == where}
        for path in sorted({*found, *required, *known}):
            content = found.get(path)
            if path in required:
                if content != required[path]:
                    yield f"{where}: {path} {_state(content)}; a live Destination has its canary there"
            elif path in refused:
                if content is not None:
                    yield f"{where}: {path} is there, though its Destination has initWorkloads disabled"
            else:
                wrong = self._nobodys(where, path, content)
                if wrong:
                    yield f"{where}: {path} {_state(content)}; {wrong}"

    def _nobodys(self, where: str, path: str, content: bytes | None) -> str:
        """Judge a path that no live Destination claims; return what is wrong, or nothing."""
        puts = self.journal.puts.get((where, path), [])
        last = puts[-1] if puts else None
        if content is None:
            kept = last is None or last.content is None or self._may_be_gone(where, path, last)
            return "" if kept else "someone else's file must be untouched"
        stays = [stay for stay in self._stays_by_path.get((where, path), []) if self._may_be_left(stay, path)]
        if last is not None and content == last.content:
            if stays or not self._must_be_gone(where, path, last):
                return ""
            return "it lay below a Destination that was deleted with cleanup: all"
        # A canary edited by hand may be what its Destination left behind when it went elsewhere.
        edited = {put.content for put in puts}
        left = next((stay for stay in stays if content == stay.canaries[path] or content in edited), None)
        if left is not None:
            self.allowances[_why_left(left)] += 1
            return ""
        was = self._stays_by_path.get((where, path))
        return f"the last there was {was[-1].who.name} ({was[-1].who.uid[:8]})" if was else "nothing explains it"

    def _may_be_left(self, stay: Stay, path: str) -> bool:
        """Whether a canary may still lie where a Destination once was.

        Allowed, since nothing in the contract deletes it: after the Destination's path, State Store, mode or the
        store's path changed (Kratix leaves what it wrote at the old place); after a deletion with cleanup: none;
        after one whose clean-up was skipped and told; while its store is missing, refuses us, or it has lost its path
        to an older one. Not allowed where a clean-up that covers the path came later.
        """
        if not stay.spec.init:
            return False
        who = stay.who
        if who.deletion and not who.deletion.finalizer and all(v.spec.cleanup == "all" for v in who.versions):
            return False  # nothing is written before the finalizer is there, so nothing was
        for cleanup in self._cleanups:
            later = cleanup.who is who or self.journal.settled(stay.until) < cleanup.began
            if later and self._certain(cleanup, stay.where, path):
                return False
        return True

    def _must_be_gone(self, where: str, path: str, put: Put) -> bool:
        return any(put.ended < c.began and self._certain(c, where, path) for c in self._cleanups)

    def _may_be_gone(self, where: str, path: str, put: Put) -> bool:
        """Whether something that came later, or at the same time, may delete a file of others."""
        for cleanup in self._cleanups:
            if cleanup.ended >= put.began and self._possible(cleanup, where, path):
                self.allowances["a file of others went with a clean-up above it"] += 1
                return True
        for stay in self._stays_by_path.get((where, path), []):
            # It is a canary that was left behind by another Destination: a later owner of its directory may remove
            # it (initWorkloads disabled), and so may one that undoes what it wrote while it was deleted.
            undone = stay.spec.cleanup == "all" and stay.who.deletion is not None and stay.who.uid != put.of
            if (undone or not stay.spec.init) and self.journal.settled(stay.until) >= put.began:
                self.allowances["a canary left behind went with a later owner of its directory"] += 1
                return True
        return False

    def _possible(self, cleanup: CleanUp, where: str, path: str) -> bool:
        stays = [stay for stay in cleanup.stays if stay.where == where and within(path, stay.root)]
        return any(not self._protected(cleanup, stay, path) for stay in stays)

    def _certain(self, cleanup: CleanUp, where: str, path: str) -> bool:
        """Whether a clean-up has deleted a path for certain."""
        if cleanup.skipped or cleanup.ended == FOR_EVER or len({(s.where, s.root) for s in cleanup.stays}) != 1:
            return False
        (stay,) = cleanup.stays[:1]
        if stay.where != where or not within(path, stay.root):
            return False
        return not any(
            self._protects(other, cleanup, stay, path) and other.since <= cleanup.ended and other.until >= cleanup.began
            for other in self._stays_by_place.get(where, [])
        )

    def _protected(self, cleanup: CleanUp, stay: Stay, path: str) -> bool:
        """Whether one other Destination had the path in its own directory all the while."""
        return any(
            self._protects(tenure, cleanup, stay, path, surely=True)
            and tenure.since <= cleanup.began
            and tenure.until >= cleanup.ended
            for tenure in self._tenures
        )

    def _protects(self, other: Stay, cleanup: CleanUp, stay: Stay, path: str, *, surely: bool = False) -> bool:
        """Whether a cleanup keeps another Destination's directory (docs/contract.md#deletion): one that lies inside, or
        the very same one where the other is the older, so that it never was the deleted one's (PathClash)."""
        if other.who is cleanup.who or other.where != stay.where or not within(path, other.root):
            return False
        if other.root == stay.root:
            older = other.who.created < cleanup.who.created
            return older or (not surely and other.who.created == cleanup.who.created)
        return within(other.root, stay.root)

    @cached_property
    def _stays(self) -> list[Stay]:
        return [stay for who in self.journal.destinations for stay in self._stays_of(who)]

    @cached_property
    def _stays_by_place(self) -> dict[str, list[Stay]]:
        found: dict[str, list[Stay]] = {}
        for stay in self._stays:
            found.setdefault(stay.where, []).append(stay)
        return found

    @cached_property
    def _stays_by_path(self) -> dict[tuple[str, str], list[Stay]]:
        found: dict[tuple[str, str], list[Stay]] = {}
        for stay in self._stays:
            for path in stay.canaries:
                found.setdefault((stay.where, path), []).append(stay)
        return found

    def _stays_of(self, who: Incarnation) -> Iterator[Stay]:
        for version in who.versions:
            spec = version.spec
            until = min(version.until, who.deletion.gone if who.deletion else FOR_EVER)
            for store in self.journal.stores.get(spec.store, []):
                if invalid(spec.path) or invalid(store.spec.path):
                    continue
                root = join(store.spec.path, spec.path or who.name)
                sure = max(version.since, store.since) <= min(until, store.until)
                # One reader lists Destinations and stores one after the other, so it may see an old and a new one.
                seen = version.since <= self.journal.settled(store.until) and store.since <= self.journal.settled(until)
                if sure or seen:
                    since = max(version.since, store.since)
                    last = max(since, min(until, store.until))
                    yield Stay(who, spec, store.spec.where, root, since, last, sure)

    @cached_property
    def _tenures(self) -> list[Stay]:
        """The sure stays, with those that follow one another without a gap as one."""
        merged: dict[tuple[str, str, str], list[Stay]] = {}
        for stay in self._stays:
            if not stay.sure:
                continue
            tenures = merged.setdefault((stay.who.uid, stay.where, stay.root), [])
            before = tenures[-1] if tenures else None
            if before is not None and stay.since <= before.until:
                until = max(before.until, stay.until)
                tenures[-1] = Stay(stay.who, stay.spec, stay.where, stay.root, before.since, until, sure=True)
            else:
                tenures.append(stay)
        return [tenure for tenures in merged.values() for tenure in tenures]

    @cached_property
    def _cleanups(self) -> list[CleanUp]:
        found = []
        for who in self.journal.destinations:
            deletion = who.deletion
            if deletion is None or not deletion.finalizer or who.versions[-1].spec.cleanup != "all":
                continue  # cleanup: none deletes nothing (docs/contract.md#deletion)
            last = who.versions[-1].spec
            stays = [
                s for s in self._stays_of(who) if self.journal.settled(s.until) >= deletion.requested and s.spec == last
            ]
            ended = self.journal.settled(deletion.gone)
            found.append(CleanUp(who, stays, deletion.requested, ended, deletion.skipped))
        return found + [move for who in self.journal.destinations for move in self._moves_of(who)]

    def _moves_of(self, who: Incarnation) -> Iterator[CleanUp]:
        """Yield what a Destination with cleanup: all may have deleted at the directories that it moved away from.

        It remembers them for as long as it lives, so that its deletion can come to them, too. None is certain: while
        cleanup was none, nothing was remembered.
        """
        if any(version.spec.cleanup == "all" for version in who.versions):
            ended = self.journal.settled(who.deletion.gone) if who.deletion else FOR_EVER
            for stay in self._stays_of(who):
                if stay.until not in (FOR_EVER, ended):
                    yield CleanUp(who, [stay], stay.since, ended, skipped=True)


def _why_left(stay: Stay) -> str:
    if stay.until == FOR_EVER:
        return "a canary stays while its Destination cannot be written"
    deletion = stay.who.deletion
    if deletion is None or stay.until < deletion.requested:
        return "a canary stays at an old path, as in Kratix"
    if deletion.skipped:
        return "a canary stays of a clean-up that was skipped, with an Event"
    return "a canary stays of a Destination deleted with cleanup: none"


def _state(content: bytes | None) -> str:
    return "is not there" if content is None else f"is there ({len(content)} bytes)"
