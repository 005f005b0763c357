"""What every writer of a State Store can do."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Self

from shared.deadline import Deadline
from shared.plan import Edit, Outcome
from shared.writers.preview import Preview


class Writer(ABC):
    """Writes to one State Store with one set of credentials; kept open while its container is warm.

    A writer compares before it writes: an edit that changes nothing costs no write, and an edit whose outcome is
    unknown (a cut connection, a time-out) is settled by looking again.

    Attributes:
        in_doubt: whether a call of the last write that was cut off may still take effect in the State Store.
    """

    in_doubt: bool = False

    @abstractmethod
    async def write(self, edits: Sequence[Edit], deadline: Deadline) -> dict[str, Outcome]:
        """Carry out a batch of edits, and return what became of each by its id.

        A refused edit fails alone. All paths are relative to the store's root: a bucket's, or the branch's.

        Raises:
            StateStoreError: nothing of the batch could be settled, for a reason that concerns the whole store.
            OutOfTime: the deadline passed before anything was settled.
        """

    @abstractmethod
    async def preview(self, edits: Sequence[Edit], directories: Collection[str], deadline: Deadline) -> Preview:
        """Return what `write` would do with a batch of edits now, and what lies in some directories.

        Raises:
            StateStoreError: the store could not be read, or a directory holds more than is looked at.
            OutOfTime: the deadline passed before.
        """

    @abstractmethod
    async def read_many(self, wanted: Collection[str], deadline: Deadline) -> dict[str, bytes]:
        """Return the contents of those files that are there, by path.

        Raises:
            StateStoreError: the store could not be read, or a file is over the settings' limit.
            OutOfTime: the deadline passed before.
        """

    async def read(self, path: str, deadline: Deadline) -> bytes | None:
        """Return a file's content, or None where there is no such file.

        Raises:
            StateStoreError, OutOfTime: as `read_many`.
        """
        return (await self.read_many([path], deadline)).get(path)

    @abstractmethod
    async def check(self, root: str, deadline: Deadline) -> None:
        """Prove that writing below a directory is permitted, and leave nothing behind.

        See docs/contract.md#state-store-conditions.

        Raises:
            StateStoreError: it is not, or could not be proved.
        """

    async def close(self) -> None:
        """Give back connections."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
