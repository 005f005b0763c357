"""A fleet at a glance: how many Destinations are Ready, why the others are not, State Stores, what fails."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from infra.cli.fleet import Fleet, destination_name, ready_of, store_name
from shared.errors import InvalidObject
from shared.kube import Key, Object, key_of
from shared.works import destination_of

_SELECTOR: Final = re.compile(r"([^=!]+)(=|!=|==)(.*)")
_FAILING: Final = "Failing"


@dataclass(frozen=True, slots=True)
class Row:
    """One object and what its Ready says.

    Attributes:
        name: as in output: kind and name.
        store: of a Destination, its State Store.
        since: when its Ready last changed, or its creation where it has none.
    """

    name: str
    status: str
    reason: str
    message: str
    since: datetime
    store: str = ""
    path: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    leaving: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON and YAML."""
        found: dict[str, Any] = {
            "name": self.name,
            "ready": self.status,
            "reason": self.reason,
            "message": self.message,
            "since": self.since.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        if self.store:
            found["stateStore"] = self.store
        if self.leaving:
            found["beingDeleted"] = True
        return found


@dataclass(frozen=True)
class Filters:
    """Which Destinations are looked at.

    Attributes:
        store: kind and name of their State Store, or its name alone; empty means any.
        selector: of labels, in kubectl's words: `a=b,c!=d,e`.
        reason: of their Ready; empty means any.
        text: that their name contains.
    """

    store: str = ""
    selector: str = ""
    reason: str = ""
    text: str = ""

    def matcher(self) -> Callable[[Row], bool]:
        """Return what decides about a Destination.

        Raises:
            InvalidObject: the selector cannot be read.
        """
        labels = _labels(self.selector)

        def matches(row: Row) -> bool:
            if self.store and self.store.lower() not in {row.store, row.store.partition("/")[2]}:
                return False
            if self.reason and self.reason.lower() != row.reason.lower():
                return False
            return self.text.lower() in row.name.lower() and all(one(row.labels) for one in labels)

        return matches


def _labels(selector: str) -> list[Callable[[Mapping[str, str]], bool]]:
    found: list[Callable[[Mapping[str, str]], bool]] = []
    for part in filter(None, (one.strip() for one in selector.split(","))):
        match = _SELECTOR.fullmatch(part)
        if match is None and "=" in part:
            raise InvalidObject(f"selector {part!r} cannot be read: write label=value, label!=value or label")
        found.append(_requirement(part, match))
    return found


def _requirement(part: str, match: re.Match[str] | None) -> Callable[[Mapping[str, str]], bool]:
    if match is None:
        name, absent = part.removeprefix("!").strip(), part.startswith("!")
        return lambda labels: (name in labels) != absent
    name, operator, value = (one.strip() for one in match.groups())
    if operator == "!=":
        return lambda labels: labels.get(name) != value
    return lambda labels: labels.get(name) == value.removeprefix("=")


@dataclass(frozen=True)
class Overview:
    """What there is to see at a glance.

    Attributes:
        destinations: that match the filters, the longest not Ready first, then by name.
        stores: all State Stores, by name.
        by_store: how many of the Destinations each State Store has.
        failing: WorkPlacements that fail, with the Destination of each.
    """

    destinations: Sequence[Row]
    stores: Sequence[Row]
    by_store: Mapping[str, int]
    failing: Sequence[tuple[str, str]]

    @property
    def reasons(self) -> list[tuple[str, str, int]]:
        """Ready's status and reason with how many Destinations have them, the most frequent first."""
        counted = Counter((row.status, row.reason) for row in self.destinations)
        return [(status, reason, count) for (status, reason), count in sorted(counted.items(), key=_by_count)]

    @property
    def not_ready(self) -> list[Row]:
        """The Destinations that are not Ready, the oldest first."""
        return [row for row in self.destinations if row.status != "True"]

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON and YAML."""
        return {
            "destinations": {
                "total": len(self.destinations),
                "ready": len(self.destinations) - len(self.not_ready),
                "reasons": [{"ready": s, "reason": r, "count": count} for s, r, count in self.reasons],
                "notReady": [row.as_dict() for row in self.not_ready],
            },
            "stateStores": [{**row.as_dict(), "destinations": self.by_store.get(row.name, 0)} for row in self.stores],
            "failingWorkPlacements": [{"name": name, "destination": at} for name, at in self.failing],
        }


def _by_count(item: tuple[tuple[str, str], int]) -> tuple[bool, int, tuple[str, str]]:
    (status, reason), count = item
    return status == "True", -count, (status, reason)


def overview(fleet: Fleet, placements: Iterable[Object], filters: Filters) -> Overview:
    """Return what there is to see.

    Args:
        fleet: with all Destinations and State Stores.
        placements: WorkPlacements as tables have them (`Cluster.pages` with `columns`).
        filters: which Destinations are looked at; State Stores are all shown.

    Raises:
        InvalidObject: the filters' selector cannot be read.
    """
    matches = filters.matcher()
    rows = [row for key, obj in fleet.destinations.items() if matches(row := destination_row(key, obj, fleet))]
    rows.sort(key=lambda row: (row.status == "True", row.since if row.status != "True" else _LONG_AGO, row.name))
    stores = sorted((_row(store_name(key), obj) for key, obj in fleet.stores.items()), key=lambda row: row.name)
    names = {row.name for row in rows}
    failing = sorted(
        ("/".join(key_of(obj)), destination_of(obj))
        for obj in placements
        if obj.get("cells", {}).get("status") == _FAILING and f"destination/{destination_of(obj)}" in names
    )
    return Overview(rows, stores, Counter(row.store for row in rows), failing)


_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)


def destination_row(key: Key, obj: Object, fleet: Fleet) -> Row:
    """Return a Destination's row."""
    path = str((obj.get("spec") or {}).get("path") or key[1])
    return _row(destination_name(key), obj, store_name(fleet.store_key(obj)), path)


def _row(name: str, obj: Object, store: str = "", path: str = "") -> Row:
    ready, metadata = ready_of(obj), obj["metadata"]
    since = str(ready.get("lastTransitionTime") or metadata.get("creationTimestamp") or "1970-01-01T00:00:00Z")
    return Row(
        name,
        str(ready.get("status")),
        str(ready.get("reason") or ""),
        str(ready.get("message") or ""),
        datetime.fromisoformat(since),
        store,
        path,
        metadata.get("labels") or {},
        bool(metadata.get("deletionTimestamp")),
    )


def age(since: datetime, now: datetime) -> str:
    """Return an age as kubectl prints it: the two largest units where they matter."""
    seconds = max(0, int((now - since).total_seconds()))
    if seconds < 120:  # noqa: PLR2004 -- kubectl's own bounds (k8s.io/apimachinery, duration.HumanDuration)
        return f"{seconds}s"
    minutes = seconds // 60
    if minutes < 10:  # noqa: PLR2004
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if minutes < 180:  # noqa: PLR2004
        return f"{minutes}m"
    hours = minutes // 60
    if hours < 48:  # noqa: PLR2004
        return f"{hours}h"
    return f"{hours // 24}d"
