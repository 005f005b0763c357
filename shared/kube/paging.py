"""The `limit` of list calls: it bounds the number of objects only, so it follows from the bytes of the last page."""

from dataclasses import dataclass
from typing import Final, Self

PAGE: Final = 500  # objects a page at most; the API server's own clients use the same
PAGE_BYTES: Final = 8 * 1024 * 1024  # a page is meant to have no more
_GROWTH: Final = 8  # times the last limit at most: the next objects may be larger than the last ones

# The first limit of kinds that hold documents: an object in etcd has up to 1.5 MiB, and five of those fit into a page.
OF_DOCUMENTS: Final = {"Work": 5, "WorkPlacement": 5}


@dataclass
class PageSize:
    """The `limit` of the next page of one list.

    Attributes:
        limit: objects.
        most: objects; more exceeded the bound of a response.
        bytes: of the last page.
    """

    limit: int
    most: int
    bytes: int = 0

    @classmethod
    def first(cls, kind: str, *, metadata_only: bool, most: int | None = None) -> Self:
        """Return the first page's, with so many objects at most."""
        first = PAGE if metadata_only else OF_DOCUMENTS.get(kind, PAGE)
        return cls(min(first, most or PAGE), PAGE)

    def measure(self, size: int) -> None:
        """Learn the bytes of a page."""
        self.bytes = size

    def learn(self, count: int) -> None:
        """Learn the objects of that page, and set the limit for the next."""
        if count:
            fitting = PAGE_BYTES * count // max(1, self.bytes)
            self.limit = max(1, min(fitting, self.limit * _GROWTH, self.most))

    def reduce(self) -> None:
        """Ask for fewer: a page of so many was too large to be read."""
        self.limit = self.most = max(1, self.limit // _GROWTH)
