"""A branch as it was seen, and what a push of it can come to."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from dulwich.objects import ObjectID

from shared.errors import StoreUnavailable
from shared.writers.git.trees import Trees

TREE_BYTES: Final = 250  # that a kept tree takes besides its content


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A branch as it was when it was looked at.

    Attributes:
        tip: the branch's commit; None where the branch does not exist.
        parent: the commit to build on: the tip, or the default branch's; None in an empty repository.
        root: id of that commit's tree.
        raw: its trees by id.
        blobs: contents that came along, by id, where they were asked for.
    """

    tip: ObjectID | None
    parent: ObjectID | None
    root: ObjectID | None
    raw: dict[bytes, bytes] = field(repr=False)
    blobs: dict[ObjectID, bytes] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> int:
        """Bytes that its trees take."""
        return sum(map(len, self.raw.values())) + TREE_BYTES * len(self.raw)

    def trees(self, check: Callable[[], object]) -> Trees:
        """Return the trees as an `Existing`; `check` is called now and then, and raises what ends a long walk."""
        return Trees(self.root, self.raw, check)


class Moved(Exception):
    """The branch is not where the change was built: fetch again and build again.

    Attributes:
        now: where it is; None where it is gone.
    """

    def __init__(self, now: ObjectID | None) -> None:
        super().__init__("the branch has moved")
        self.now = now


class Refused(Exception):
    """The server answered the push with no; whether others can help it is for the caller to find out.

    Attributes:
        status: the server's word about the branch, or about the pack.
        remote: what it said beside.
        unpacking: whether it is about the pack: report-status' line `unpack` (gitprotocol-pack(5), Report Status).
    """

    def __init__(self, status: str, remote: str, *, unpacking: bool = False) -> None:
        super().__init__(f"{status} ({remote})" if remote else status)
        self.status, self.remote, self.unpacking = status, remote, unpacking


class OutcomeUnknown(Exception):
    """The connection was lost after the push was on its way; only the branch can tell.

    Attributes:
        cause: what happened, in words for a person.
    """

    def __init__(self, cause: StoreUnavailable) -> None:
        super().__init__(str(cause))
        self.cause = cause
