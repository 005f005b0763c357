"""A writer that keeps its files in a dictionary: for tests of what stands on writers, without a mock."""

import hashlib
from collections.abc import Collection, Sequence

from shared.deadline import Deadline
from shared.plan import Edit, Listing, Outcome, Written, compute
from shared.writers.base import Writer
from shared.writers.preview import Preview, preview_of


def digest(content: bytes) -> str:
    """Return the digest by which contents are compared."""
    return hashlib.sha256(content).hexdigest()


class MemoryWriter(Writer):
    """A State Store in memory.

    Attributes:
        files: what it holds, by path.
        writes: how many batches changed anything.
        failure: raised by every call while it is set.
    """

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = {} if files is None else files
        self.writes = 0
        self.failure: Exception | None = None

    async def write(self, edits: Sequence[Edit], deadline: Deadline) -> dict[str, Outcome]:
        """Carry out a batch of edits."""
        self._answer(deadline)
        plan = compute(edits, Listing({path: digest(content) for path, content in self.files.items()}), digest)
        for path in plan.deletes:
            del self.files[path]
        self.files.update(plan.puts)
        self.writes += bool(plan.puts or plan.deletes)
        version = digest(repr(sorted(self.files.items())).encode())
        done = {
            edit.id: Written(version=version, changed=bool(plan.touched[edit.id]))
            for edit in edits
            if edit.id not in plan.refused
        }
        return {**plan.refused, **done}

    async def preview(self, edits: Sequence[Edit], directories: Collection[str], deadline: Deadline) -> Preview:
        """Return what `write` would do now."""
        self._answer(deadline)
        existing = Listing({path: digest(content) for path, content in self.files.items()})
        return preview_of(edits, existing, digest, directories)

    async def read_many(self, wanted: Collection[str], deadline: Deadline) -> dict[str, bytes]:
        """Return the contents of those files that are there, by path."""
        self._answer(deadline)
        return {path: self.files[path] for path in wanted if path in self.files}

    async def check(self, root: str, deadline: Deadline) -> None:
        """Prove that writing is permitted."""
        del root
        self._answer(deadline)

    def _answer(self, deadline: Deadline) -> None:
        deadline.bound(1)
        if self.failure is not None:
            raise self.failure
