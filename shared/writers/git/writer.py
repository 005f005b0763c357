"""The asynchronous surface of the Git writer: each operation is a thread with a deadline."""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Self, TypeVar

from dulwich.refs import Ref, check_ref_format

from shared import budget
from shared.deadline import Deadline
from shared.errors import StateStoreNotReady, StoreUnavailable
from shared.plan import Edit, Outcome
from shared.resources import GitStateStore, Secret
from shared.settings import Settings
from shared.writers.base import Writer
from shared.writers.git.branch import Snapshot
from shared.writers.git.changeset import Changeset
from shared.writers.git.endpoint import GitEndpoint, open_endpoint
from shared.writers.git.session import Session
from shared.writers.preview import Preview

T = TypeVar("T")

THREADS: Final = 4  # operations at once on one writer; callers group by State Store, so one is the rule
# Trees kept while the container is warm: those of the last commit and those that our commits since then replaced.
# Above either bound all are forgotten and the next operation fetches; so it is where others need the memory.
MAX_CACHED_TREES: Final = 200_000
MAX_CACHED_BYTES: Final = 32 * 1024 * 1024
ABORT_SECONDS: Final = 2.0  # that a thread has to return after its sockets were shut down


class GitWriter(Writer):
    """Writes to one branch of one repository.

    Nothing is on disk. Between operations it keeps the trees of the last commit that it saw, and no connection.
    """

    def __init__(self, endpoint: GitEndpoint, store: GitStateStore, settings: Settings) -> None:
        self._endpoint = endpoint
        self._branch = store.spec.branch
        self._author = store.spec.git_author
        self._settings = settings
        self._budget = budget.of(settings.memory_bytes)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="git-writer")

    @classmethod
    def open(cls, store: GitStateStore, secret: Secret | None, settings: Settings) -> Self:
        """Return the writer for a GitStateStore; nothing is sent yet.

        Raises:
            StateStoreNotReady: a missing secret or key of it, a bad URL or branch, an unknown authMethod.
        """
        branch = store.spec.branch
        # git-check-ref-format(1) with --branch refuses more than the format of a ref does.
        other = branch.startswith(("refs/", "-")) or branch in {"HEAD", "@"}
        ref = Ref(b"refs/heads/" + branch.encode("utf-8", "replace"))
        if other or not branch.isprintable() or not check_ref_format(ref):
            raise StateStoreNotReady(
                f"spec.branch {branch[:80]!r} is not a valid Git branch name: write its name alone, such as main"
            )
        return cls(open_endpoint(store, secret, settings), store, settings)

    async def write(self, edits: Sequence[Edit], deadline: Deadline) -> dict[str, Outcome]:
        """Carry out a batch of edits as one commit at most, or a few where the server refuses some of them.

        Returns:
            What became of each by its id.

        Raises:
            AccessDenied, StoreNotFound, WriteRejected, TooLarge, StoreUnavailable, StateStoreNotReady: nothing of the
                batch could be settled, for a reason that concerns the whole store.
            OutOfTime: the deadline passed before anything was settled.
        """
        if not edits:
            return {}
        deadline.bound(self._settings.store_timeout_seconds)
        self.in_doubt = True  # until the thread has come back, however this ends

        def write(changeset: Changeset) -> dict[str, Outcome]:
            try:
                return changeset.write(edits)
            finally:
                self.in_doubt = changeset.in_doubt

        return await self._run(write, deadline)

    async def preview(self, edits: Sequence[Edit], directories: Collection[str], deadline: Deadline) -> Preview:
        """Return what `write` would do now; nothing is pushed.

        Raises:
            StateStoreError: the repository could not be read, or a directory holds more than is looked at.
            OutOfTime: the deadline has passed.
        """
        return await self._run(lambda changeset: changeset.preview(edits, directories), deadline)

    async def read_many(self, wanted: Collection[str], deadline: Deadline) -> dict[str, bytes]:
        """Return the contents of those files of the branch that are there, by path; they come in one pack.

        Raises:
            StateStoreError: the repository could not be read, or a file is over the settings' limit.
            OutOfTime: the deadline has passed.
        """

        def read(changeset: Changeset) -> dict[str, bytes]:
            found = changeset.find_files(wanted)
            contents = changeset.blobs({sha: path for path, sha in found.items()})
            return {path: contents[sha] for path, sha in found.items()}

        return await self._run(read, deadline) if wanted else {}

    async def check(self, root: str, deadline: Deadline) -> None:
        """Prove that pushing is permitted, and leave nothing behind: the server's answer to git-receive-pack.

        Raises:
            StateStoreError: it is not, or could not be proved.
            OutOfTime: the deadline has passed.
        """
        del root  # Git's permissions are those of the repository
        await self._run(lambda changeset: changeset.check(), deadline)

    async def close(self) -> None:
        """Give back threads and trees."""
        self._budget.forget(self)
        self._threads.shutdown(wait=False)

    async def _run(self, operation: Callable[[Changeset], T], deadline: Deadline) -> T:
        """Run an operation in a thread; at the deadline, or when cancelled, its sockets are shut down under it."""
        deadline.bound(self._settings.store_timeout_seconds)
        session = Session(self._settings, deadline)

        def run() -> T:
            with session:
                changeset = Changeset(
                    self._endpoint,
                    self._branch,
                    self._author,
                    session,
                    self._kept(session),
                    lambda snapshot: self._keep(snapshot, session),
                )
                try:
                    return operation(changeset)
                finally:
                    changeset.close()

        thread = asyncio.get_running_loop().run_in_executor(self._threads, run)
        try:
            done, _ = await asyncio.wait([thread], timeout=deadline.remaining)
            if not done:
                session.abort()
                await asyncio.wait([thread], timeout=ABORT_SECONDS)
        except asyncio.CancelledError:
            session.abort()
            with contextlib.suppress(BaseException):
                thread.cancel()
            raise
        if thread.done():
            return thread.result()
        thread.add_done_callback(_take)
        raise StoreUnavailable(f"{self._endpoint.remote} did not finish within the deadline")

    def _kept(self, session: Session) -> Snapshot | None:
        """Return what was kept of the last operation; its memory is the session's from now on."""
        taken = self._budget.take(self)
        if taken is None:
            return None
        snapshot, room = taken
        session.hold(room)
        return snapshot if isinstance(snapshot, Snapshot) else None

    def _keep(self, snapshot: Snapshot, session: Session) -> None:
        if len(snapshot.raw) <= MAX_CACHED_TREES and snapshot.size <= MAX_CACHED_BYTES:
            session.give_back()
            self._budget.keep(self, snapshot, snapshot.size)


def _take(thread: "asyncio.Future[Any]") -> None:
    """Read the result that nobody waits for any more, so that asyncio does not complain of it."""
    if not thread.cancelled():
        thread.exception()
