"""A batch of edits carried out on a branch: plan, push, settle what is unknown, try again when others were first."""

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, TypeVar

from dulwich.objects import ObjectID, ShaFile

from shared.errors import AccessDenied, LandfallError, OutOfTime, StateStoreError, StoreUnavailable, WriteRejected
from shared.observability import measure
from shared.plan import Edit, Existing, Outcome, Plan, Written, compute
from shared.resources import GitAuthor
from shared.writers.git import answers, commit
from shared.writers.git.branch import Moved, OutcomeUnknown, Refused, Snapshot
from shared.writers.git.endpoint import GitEndpoint
from shared.writers.git.isolation import Declined, are_alike, isolate
from shared.writers.git.repository import Repository
from shared.writers.git.session import ConnectionLost, Session
from shared.writers.git.trees import Built, MissingObject, Trees, build, digest
from shared.writers.git.words import PUSH
from shared.writers.preview import Preview, preview_of
from shared.writers.words import Meaning, find

T = TypeVar("T")

NETWORK_TRIES: Final = 3  # of one operation, while connections break
PUSH_TRIES: Final = 8  # of one commit, while its outcome is unknown, or the branch is locked and yet does not move


@dataclass(frozen=True, slots=True)
class _Push:
    """A change on its way: kept as it is until the server has settled it, so that it can never be made twice."""

    base: Snapshot
    plan: Plan
    new: ObjectID
    objects: Sequence[ShaFile]
    after: Snapshot


class Changeset:
    """One batch on one branch, in one session.

    Args:
        cached: the branch as this writer last saw it; None where it has not, or has forgotten.
        keep: takes the branch for the writer's next operation.
    """

    def __init__(  # noqa: PLR0917 -- what a writer has
        self,
        endpoint: GitEndpoint,
        branch: str,
        author: GitAuthor,
        session: Session,
        cached: Snapshot | None,
        keep: Callable[[Snapshot], None],
    ) -> None:
        self._endpoint = endpoint
        self._branch = branch
        self._author = author
        self._session = session
        self._repository: Repository | None = None
        self.snapshot = cached
        self._keep = keep
        self._verified = False  # whether the snapshot was fetched in this very session
        self.in_doubt = False  # whether a push whose answer never arrived may still arrive
        self._current = False  # whether the snapshot is known to be the branch's, as of this very session
        self._changed: set[str] = set()  # edits that this session has landed, or may have: an answer never arrived
        self._landed: set[str] = set()

    def write(self, edits: Sequence[Edit]) -> dict[str, Outcome]:
        """Carry out the edits, and return what became of each.

        Where the server refuses what some of them hold, these alone fail (`isolate`); those that change nothing do not.

        Raises:
            WriteRejected: the server refuses all of them with the same words.
            StateStoreError: nothing could be settled, for a reason that concerns the whole store.
            OutOfTime: the deadline passed before anything was settled.
        """
        settled: dict[str, LandfallError] = {}
        try:
            while len(settled) < len(edits):
                try:
                    return {**self._settle(edits, settled.keys()), **settled}
                except Declined as declined:
                    isolate(declined, lambda items: self._land(edits, items), settled)
        except (StateStoreError, OutOfTime) as error:
            if not settled and not self._landed:
                raise
            return {edit.id: self._so_far(edit, settled, error) for edit in edits}
        if are_alike(settled.values()):
            raise next(iter(settled.values()))
        return dict(settled)

    def _so_far(self, edit: Edit, settled: Mapping[str, LandfallError], error: LandfallError) -> Outcome:
        if edit.id in self._landed:
            return Written(self._version(), changed=True)
        # Not `OutOfTime`: the batch was tried, and its messages are not to be delivered again for this one alone.
        return settled.get(edit.id) or (StoreUnavailable(str(error)) if isinstance(error, OutOfTime) else error)

    def _land(self, edits: Sequence[Edit], items: Sequence[str]) -> None:
        """Push some of the edits alone."""
        outcomes = self._settle(edits, {edit.id for edit in edits} - set(items))
        self._landed |= {item for item in items if isinstance(outcomes.get(item), Written)}

    def _settle(self, edits: Sequence[Edit], without: AbstractSet[str]) -> dict[str, Outcome]:
        """Carry out the edits except some, however often others are first, and return what became of each.

        Raises:
            Declined: the server refuses what they hold.
        """
        races = 0
        while True:
            try:
                return self._retried(lambda: self._once(edits, without))
            except Moved:
                self.snapshot, self._current = None, False
                self.in_doubt = False  # what was pushed onto the old commit is refused by now
                races += 1
                if not self._session.pause(races):
                    raise StoreUnavailable(
                        f"others changed {self._branch} on {self._endpoint.remote} {races} times while this was"
                        " written; it is tried again later"
                    ) from None

    def find_files(self, wanted: Collection[str]) -> dict[str, ObjectID]:
        """Return the ids of those files of the branch, as it is now, that are there, by path."""

        def find(existing: Existing) -> dict[str, ObjectID]:
            found = {path: existing.look(path) for path in wanted}
            return {
                path: ObjectID(f.digest.encode()) for path, f in found.items() if f is not None and f.type == "file"
            }

        return self._looked(find)

    def preview(self, edits: Sequence[Edit], directories: Collection[str]) -> Preview:
        """Return what `write` would do with the branch as it is now, and what lies in the directories."""
        return self._looked(lambda trees: preview_of(edits, trees, digest, directories))

    def _looked(self, look: Callable[[Trees], T]) -> T:
        """Return what is found in the branch's trees, as it is now; they are fetched again where some are missing."""

        def fresh() -> T:
            try:
                return look(self._fresh().trees(self._session.timeout))
            except MissingObject:
                return look(self._fetch().trees(self._session.timeout))

        return self._retried(fresh)

    def blobs(self, files: Mapping[ObjectID, str]) -> dict[ObjectID, bytes]:
        """Return files' contents by their ids; `files` are their paths by their ids."""
        if not files:
            return {}
        self.close()  # contents need memory of their own
        self._session.give_back()
        return self._retried(lambda: self._open().contents(files))

    def close(self) -> None:
        """Hand the branch over for the next operation."""
        snapshot, self.snapshot, self._current = self.snapshot, None, False
        if snapshot is not None:
            self._keep(snapshot)

    def check(self) -> None:
        """Authenticate for a push, and see the branch or its absence."""
        self._retried(lambda: self._open().advertised())

    def _once(self, edits: Sequence[Edit], without: AbstractSet[str]) -> dict[str, Outcome]:
        snapshot = self.snapshot or self._fetch()
        try:
            push = self._prepare(snapshot, edits, without)
        except MissingObject:
            if self._verified:
                raise
            del snapshot  # before another takes the memory
            snapshot = self._fetch()
            push = self._prepare(snapshot, edits, without)
        if isinstance(push, _Push):
            plan = push.plan
            try:
                self._deliver(push)
            except WriteRejected as error:
                if changing := [edit.id for edit in edits if plan.touched.get(edit.id)]:
                    raise Declined(error, changing) from None
                raise
            self.snapshot, self._current = push.after, True
            self._changed |= {edit for edit, touched in plan.touched.items() if touched}
            self.in_doubt = False  # the branch is past the commit that it was built on
        else:
            plan = push
            if not self._current and (now := self._open().advertised()) != snapshot.tip:
                raise Moved(now)
        version = self._version()
        wanted = (edit.id for edit in edits if edit.id not in plan.refused and edit.id not in without)
        return {**plan.refused, **{edit: Written(version, edit in self._changed) for edit in wanted}}

    def _version(self) -> str:
        return "" if self.snapshot is None or self.snapshot.parent is None else self.snapshot.parent.decode()

    def _prepare(self, snapshot: Snapshot, edits: Sequence[Edit], without: AbstractSet[str]) -> _Push | Plan:
        """Return what is to be pushed, or the plan alone where nothing changes."""
        trees = snapshot.trees(self._session.timeout)
        plan = compute(edits, trees, digest).without(without)
        parent, tip = snapshot.parent, snapshot.tip
        if plan.puts or plan.deletes:
            built = build(trees, plan.puts, plan.deletes)
            if built.root != snapshot.root:
                labels = [edit.label for edit in edits if plan.touched.get(edit.id)]
                made = commit.make(built.root, parent, self._author, labels)
                objects = [made, *built.trees.values(), *built.blobs.values()]
                return _Push(snapshot, plan, made.id, objects, _after(snapshot, made.id, built))
        wanted = any(edit.files for edit in edits if edit.id not in plan.refused and edit.id not in without)
        if parent is not None and tip is None and wanted:
            # Everything is in the default branch already, but those who read this one need it to exist.
            return _Push(snapshot, plan, parent, [], Snapshot(parent, parent, snapshot.root, snapshot.raw))
        return plan

    def _deliver(self, push: _Push) -> None:
        """Push until the server has said yes or no, or the branch has moved.

        Raises:
            Moved: others were first; build again.
            WriteRejected: a rule of the server says no.
            StoreUnavailable: the server is in trouble.
        """
        error: StoreUnavailable
        unsettled = False
        for tries in itertools.count(1):
            try:
                self._send(push)
            except OutcomeUnknown as lost:
                # The same commit is sent again if it did not arrive: should both arrive, they are one.
                self._changed |= {edit for edit, touched in push.plan.touched.items() if touched}
                unsettled = self.in_doubt = True
                error = lost.cause
            except Refused as refused:
                now = self._open().advertised()
                if now == push.new:
                    return
                error = self._judged(refused, moved=now != push.base.tip, now=now)
            except StoreUnavailable as before:
                if not unsettled:
                    raise
                error = before
            else:
                return
            if tries >= PUSH_TRIES or not self._session.pause(tries):
                raise error

    def _send(self, push: _Push) -> None:
        try:
            self._open().push(push.base.tip, push.new, push.objects)
        except Moved:
            if self._verified:  # a cache that was out of date is no race
                measure("CommitConflicts", 1)
            raise

    def _judged(self, refused: Refused, *, moved: bool, now: ObjectID | None) -> StoreUnavailable:
        """Return the error of a rejection that another try may get past; raise any other.

        Raises:
            WriteRejected, QuotaExceeded, AccessDenied: the server says no, and will again.
            Moved: others were first.
        """
        row = find(PUSH, f"{refused.status} {refused.remote}")
        if row is not None and row.meaning is not Meaning.RULE and not moved:
            error = row.meaning.error(f"{self._endpoint.remote} {row.advice}: {refused}")
            if isinstance(error, StoreUnavailable):
                return error
            raise error
        if row is not None and not moved:
            raise self._rejected(refused)
        if answers.is_rule(refused.status) or "cannot create" in refused.remote:
            raise self._rejected(refused)
        if moved:
            measure("CommitConflicts", 1)
            raise Moved(now)
        if refused.unpacking:
            if answers.is_full(f"{refused.status} {refused.remote}"):
                raise StoreUnavailable(f"{self._endpoint.remote} has no room for the commit: {refused}")
            raise self._rejected(refused)
        if not answers.is_race(refused.status) and not answers.is_sick(refused.status):
            raise self._rejected(refused)
        return StoreUnavailable(f"{self._endpoint.remote} cannot update {self._branch}: {refused}")

    def _rejected(self, refused: Refused) -> WriteRejected:
        return WriteRejected(
            f"{self._endpoint.remote} rejects the commit to {self._branch}: {refused}: change what is written, change"
            " the rule, or let these credentials pass it"
        )

    def _fresh(self) -> Snapshot:
        """Return the cached branch if it has not moved, or fetch it."""
        if self.snapshot is not None and not self._verified and self._open().advertised() == self.snapshot.tip:
            return self.snapshot
        return self._fetch()

    def _fetch(self) -> Snapshot:
        self.snapshot, self._current = None, False
        self.snapshot = self._open().fetch()
        self._verified = self._current = True
        return self.snapshot

    def _open(self) -> Repository:
        if self._repository is None:
            self._repository = Repository(self._endpoint, self._branch, self._session)
        return self._repository

    def _retried(self, operation: Callable[[], T]) -> T:
        """Try again a few times while only the network is wrong, and once with new credentials."""
        renewed = False
        tries = 0
        while True:
            try:
                return operation()
            except ConnectionLost:
                tries += 1
                if tries >= NETWORK_TRIES or not self._session.pause(tries):
                    raise
            except AccessDenied:
                self._repository = None
                if renewed or not self._endpoint.forget():
                    raise
                renewed = True


def _after(base: Snapshot, tip: ObjectID, built: Built) -> Snapshot:
    """Return the branch as it is once the push has succeeded, without a fetch."""
    # What was replaced stays, since the same tree often lies elsewhere too; the writer bounds it all.
    raw = base.raw | {sha: tree.as_raw_string() for sha, tree in built.trees.items()}
    return Snapshot(tip, tip, built.root, raw)
