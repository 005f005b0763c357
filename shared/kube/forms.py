"""The forms in which the API server answers a list: whole objects, their metadata, or a table of them."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final, Self

from shared.kube.answers import Kind, Object

METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
PARTIAL_LIST: Final[Kind] = ("meta.k8s.io/v1", "PartialObjectMetadataList")
_TABLE: Final = "application/json;as=Table;g=meta.k8s.io;v=v1"
_TABLE_KIND: Final[Kind] = ("meta.k8s.io/v1", "Table")


@dataclass(frozen=True)
class Form:
    """What a list call asks for.

    Attributes:
        accept: the call's header.
        kinds: of answers that are one; any other is refused.
    """

    accept: str
    kinds: Collection[Kind]

    @classmethod
    def of(cls, whole: Kind, *, metadata_only: bool, columns: bool) -> Self:
        """Return the form of a list whose plain kind is `whole`.

        An API server without partial metadata answers with the whole list, which has all of it; a list in place of a
        table is refused, because it has no cells.
        """
        if columns:
            return cls(_TABLE, [_TABLE_KIND])
        return cls(METADATA_LIST, [whole, PARTIAL_LIST]) if metadata_only else cls("application/json", [whole])

    def items(self, page: Object) -> list[Object]:
        """Return the objects of a page."""
        return list(_rows(page)) if self.accept == _TABLE else page.get("items") or []


def _rows(table: Object) -> Iterator[Object]:
    """Yield the objects of a `Table`, with their cells and the time of their status instead of their managed fields."""
    names = [column["name"].lower() for column in table.get("columnDefinitions") or ()]
    for row in table.get("rows") or ():
        fields = row["object"]["metadata"].pop("managedFields", None) or ()
        changed = [field.get("time") or "" for field in fields if field.get("subresource") == "status"]
        cells = dict(zip(names, row["cells"], strict=True))
        yield {**row["object"], "cells": cells, "status_changed": max(changed, default="")}
