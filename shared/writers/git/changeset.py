"""A batch of edits carried out on a branch: plan, push, settle what is unknown, try again when others were first."""

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from dulwich.objects import ObjectID, ShaFile

from shared.errors import AccessDenied, StoreUnavailable, WriteRejected
from shared.plan import Edit, Existing, Outcome, Plan, Written, compute
from shared.resources import GitAuthor
from shared.writers.git import answers, commit
from shared.writers.git.endpoint import Endpoint
from shared.writers.git.repository import Moved, OutcomeUnknown, Refused, Repository, Snapshot
from shared.writers.git.session import ConnectionLost, Session
from shared.writers.git.trees import Built, MissingObject, build, digest

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
    """

    def __init__(
        self, endpoint: Endpoint, branch: str, author: GitAuthor, session: Session, cached: Snapshot | None
    ) -> None:
        self._endpoint = endpoint
        self._branch = branch
        self._author = author
        self._session = session
        self._repository: Repository | None = None
        self.snapshot = cached
        self._verified = False  # whether the snapshot was fetched in this very session
        self._unsettled: set[str] = set()  # edits of a push whose answer never arrived
        self.in_doubt = False  # whether such a push may still arrive

    def write(self, edits: Sequence[Edit]) -> dict[str, Outcome]:
        """Carry out the edits, and return what became of each.

        Raises:
            StateStoreError: nothing could be settled, for a reason that concerns the whole store.
            OutOfTime: the deadline passed before anything was settled.
        """
        races = 0
        while True:
            try:
                return self._retried(lambda: self._once(edits))
            except Moved:
                self.snapshot = None
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

        def fresh() -> dict[str, ObjectID]:
            try:
                return find(self._fresh().trees())
            except MissingObject:
                return find(self._fetch().trees())

        return self._retried(fresh)

    def blobs(self, files: Mapping[ObjectID, str]) -> dict[ObjectID, bytes]:
        """Return files' contents by their ids; `files` are their paths by their ids."""
        return self._retried(lambda: self._open().contents(files)) if files else {}

    def check(self) -> None:
        """Authenticate for a push, and see the branch or its absence."""
        self._retried(lambda: self._open().advertised())

    def _once(self, edits: Sequence[Edit]) -> dict[str, Outcome]:
        snapshot = self.snapshot or self._fetch()
        try:
            push = self._prepare(snapshot, edits)
        except MissingObject:
            if self._verified:
                raise
            snapshot = self._fetch()
            push = self._prepare(snapshot, edits)
        if isinstance(push, _Push):
            self._deliver(push)
            self.in_doubt = False  # the branch is past the commit that it was built on
            self.snapshot, plan = push.after, push.plan
        else:
            plan = push
            if not self._verified and (now := self._open().advertised()) != snapshot.tip:
                raise Moved(now)
        changed = {edit for edit, touched in plan.touched.items() if touched} | self._unsettled
        version = (self.snapshot or snapshot).parent
        text = "" if version is None else version.decode()
        done = {edit.id: Written(text, edit.id in changed) for edit in edits if edit.id not in plan.refused}
        return {**plan.refused, **done}

    def _prepare(self, snapshot: Snapshot, edits: Sequence[Edit]) -> _Push | Plan:
        """Return what is to be pushed, or the plan alone where nothing changes."""
        trees = snapshot.trees()
        plan = compute(edits, trees, digest)
        parent, tip = snapshot.parent, snapshot.tip
        if plan.puts or plan.deletes:
            built = build(trees, plan.puts, plan.deletes)
            if built.root != snapshot.root:
                labels = [edit.label for edit in edits if plan.touched.get(edit.id)]
                made = commit.make(built.root, parent, self._author, labels)
                objects = [made, *built.trees.values(), *built.blobs.values()]
                return _Push(snapshot, plan, made.id, objects, _after(snapshot, made.id, built))
        wanted = any(edit.files for edit in edits if edit.id not in plan.refused)
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
        for tries in itertools.count(1):
            try:
                self._open().push(push.base.tip, push.new, push.objects)
            except OutcomeUnknown as lost:
                # The same commit is sent again if it did not arrive: should both arrive, they are one.
                self._unsettled |= {edit for edit, touched in push.plan.touched.items() if touched}
                self.in_doubt = True
                error = lost.cause
            except Refused as refused:
                now = self._open().advertised()
                if now == push.new:
                    return
                error = self._judged(refused, moved=now != push.base.tip, now=now)
            except StoreUnavailable as before:
                if not self._unsettled:
                    raise
                error = before
            else:
                return
            if tries >= PUSH_TRIES or not self._session.pause(tries):
                raise error

    def _judged(self, refused: Refused, *, moved: bool, now: ObjectID | None) -> StoreUnavailable:
        """Return the error of a rejection that another try may get past; raise any other."""
        if answers.is_rule(refused.status) or "cannot create" in refused.remote:
            raise self._rejected(refused)
        if moved:
            raise Moved(now)
        if not answers.is_race(refused.status) and not answers.is_sick(refused.status):
            raise self._rejected(refused)
        said = f" ({refused.remote})" if refused.remote else ""
        return StoreUnavailable(f"{self._endpoint.remote} cannot update {self._branch}: {refused.status}{said}")

    def _rejected(self, refused: Refused) -> WriteRejected:
        said = f" ({refused.remote})" if refused.remote else ""
        return WriteRejected(
            f"{self._endpoint.remote} rejects the commit to {self._branch}: {refused.status}{said}: change the rule,"
            " or let these credentials pass it"
        )

    def _fresh(self) -> Snapshot:
        """Return the cached branch if it has not moved, or fetch it."""
        if self.snapshot is not None and not self._verified and self._open().advertised() == self.snapshot.tip:
            return self.snapshot
        return self._fetch()

    def _fetch(self) -> Snapshot:
        self.snapshot = None
        self.snapshot = self._open().fetch()
        self._verified = True
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
