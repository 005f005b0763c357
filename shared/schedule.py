"""Works to placements: which Destinations get which group of documents (spec section 7). Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from shared.resources import Destination
from shared.works import DRY_RUN_LABEL, Work, WorkloadGroup

# Rising priority: what a Promise says outweighs what its workflows say.
_PRIORITY: Final = {"resource-workflow": 0, "promise-workflow": 1, "promise": 2}


@dataclass(frozen=True, slots=True)
class Placed:
    """A WorkPlacement that exists, as far as scheduling cares.

    Attributes:
        name: of the WorkPlacement.
        group: id of its workload group.
        destination: that it is at.
        leaving: whether it is being deleted.
    """

    name: str
    group: str
    destination: str
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """A WorkPlacement that is to exist.

    Attributes:
        name: of the WorkPlacement.
        group: whose documents it has.
        destination: that it goes to, or stays at.
        misplaced: whether that Destination does not match the selectors, or does so no longer.
    """

    name: str
    group: WorkloadGroup
    destination: str
    misplaced: bool


@dataclass(frozen=True, slots=True)
class Schedule:
    """Where the groups of a Work go.

    Attributes:
        placements: to exist.
        dangling: names of WorkPlacements whose group the Work has no longer, or has at another Destination; they go.
        unscheduled: ids of groups that no Destination takes.
        misplaced: ids of groups with a misplaced placement.
    """

    placements: tuple[Placement, ...]
    dangling: tuple[str, ...]
    unscheduled: tuple[str, ...]
    misplaced: tuple[str, ...]


def schedule(work: Work, placed: Sequence[Placed], destinations: Sequence[Destination]) -> Schedule:
    """Decide where a Work's groups go.

    A dependency goes to every candidate; a resource request to one, and stays there. What is at a Destination that is
    no candidate any more stays, misplaced. Where two runs that did not know of each other have brought a resource
    request to two candidates, it stays at one of them.

    Args:
        work: to be scheduled.
        placed: its WorkPlacements that exist.
        destinations: all there are.
    """
    placements: list[Placement] = []
    unscheduled: list[str] = []
    misplaced: list[str] = []
    groups = {group.id for group in work.spec.workload_groups}
    dangling = [p.name for p in placed if p.group not in groups]
    for group in work.spec.workload_groups:
        mine = [p for p in placed if p.group == group.id]
        found = candidates(group, destinations, dry_run=work.is_dry_run)
        if not work.is_resource_request:
            chosen = [d.name for d in found]
        elif mine:
            matching = [d for d in found if any(p.destination == d.name for p in mine)]
            chosen = [_kept(work, group, matching, mine).name] if matching else []
            spare = {d.name for d in matching}.difference(chosen)
            dangling += [p.name for p in mine if p.destination in spare]
            mine = [p for p in mine if p.destination not in spare]
        else:
            chosen = [choose(work, group, found).name] if found else []
        names = dict.fromkeys(chosen, False) | {p.destination: True for p in mine if p.destination not in chosen}
        if not names:
            unscheduled.append(group.id)
        if any(names.values()):
            misplaced.append(group.id)
        existing = {p.destination: p.name for p in mine}
        placements += [
            Placement(existing.get(name) or placement_name(work, name, group), group, name, is_misplaced)
            for name, is_misplaced in sorted(names.items())
        ]
    return Schedule(tuple(placements), tuple(sorted(dangling)), tuple(unscheduled), tuple(misplaced))


def candidates(group: WorkloadGroup, destinations: Iterable[Destination], *, dry_run: bool) -> list[Destination]:
    """Return the Destinations that may take a group, sorted by name."""
    wanted = {DRY_RUN_LABEL: "true"} if dry_run else selectors(group)
    return sorted((d for d in destinations if _takes(d, wanted)), key=lambda d: d.name)


def selectors(group: WorkloadGroup) -> dict[str, str]:
    """Return the labels that a group asks for: those of all sources merged, the weightiest source winning."""
    merged: dict[str, str] = {}
    for selector in sorted(group.destination_selectors, key=lambda s: _PRIORITY.get(s.source, 0)):
        merged |= selector.match_labels
    return merged


def choose(work: Work, group: WorkloadGroup, found: Sequence[Destination]) -> Destination:
    """Return the Destination of a resource request's group: the highest of rendezvous hashes.

    The same Work and the same Destinations always give the same choice, requests spread evenly, and a Destination that
    comes or goes moves only what it takes or had (spec section 7, Beyond).
    """
    key = f"{work.metadata.namespace}/{work.name}/{group.id}"
    return max(found, key=lambda d: sha256(f"{key}\0{d.name}".encode()).digest())


def _kept(work: Work, group: WorkloadGroup, matching: Sequence[Destination], mine: Sequence[Placed]) -> Destination:
    """Return the Destination that a resource request's group stays at, of several that match: all runs say the same.

    One that it is leaving already is not it: all others would go as well.
    """
    leaving = {p.destination for p in mine if p.leaving}
    return choose(work, group, [d for d in matching if d.name not in leaving] or matching)


def placement_name(work: Work, destination: str, group: WorkloadGroup) -> str:
    """Return the name of a new WorkPlacement."""
    return f"{work.name}.{destination}-{group.id[:5]}"


def _takes(destination: Destination, wanted: Mapping[str, str]) -> bool:
    labels = destination.metadata.labels
    if destination.metadata.being_deleted:
        return False
    if labels.get(DRY_RUN_LABEL) == "true" and wanted.get(DRY_RUN_LABEL) != "true":
        return False
    if not wanted:
        return not (destination.spec.strict_match_labels and labels)
    return all(labels.get(key) == value for key, value in wanted.items())
