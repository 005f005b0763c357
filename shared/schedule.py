"""Works to placements: which Destinations get which group of documents (docs/contract.md#scheduling). Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, Self

from shared.errors import InvalidObject
from shared.resources import MAX_LABEL, MAX_NAME, Destination, is_label_value, is_object_name
from shared.works import DRY_RUN_LABEL, WORK_LABEL, Work, WorkloadGroup

# Rising priority: what a Promise says outweighs what its workflows say.
_PRIORITY: Final = {"resource-workflow": 0, "promise-workflow": 1, "promise": 2}
# A label's key without its prefix (Kubernetes, "Labels and Selectors", syntax and character set).
_LABEL_NAME: Final = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class DestinationInfo:
    """The part of a Destination that decides what is scheduled to it; two are equal if they take the same.

    Attributes:
        name, namespace, uid: of its metadata.
        labels: of its metadata.
        being_deleted: whether it has a deletionTimestamp.
        strict_match_labels: of its spec.
        mode: of its spec's `filepath`, which decides the finalizers of its WorkPlacements.
    """

    name: str
    namespace: str = ""
    uid: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    being_deleted: bool = False
    strict_match_labels: bool = False
    mode: str = "nestedByMetadata"

    @classmethod
    def of(cls, obj: Mapping[str, Any]) -> Self:
        """Read a Destination as the Kubernetes API returned it.

        Raises:
            InvalidObject: it cannot be read, so nothing is scheduled to it.
        """
        read = Destination.parse(obj)
        metadata, spec = read.metadata, read.spec
        return cls(
            read.name,
            metadata.namespace,
            metadata.uid,
            metadata.labels,
            metadata.being_deleted,
            spec.strict_match_labels,
            spec.filepath.mode,
        )


@dataclass(frozen=True, slots=True)
class Placed:
    """A WorkPlacement that exists, as far as scheduling cares.

    Attributes:
        name: of the WorkPlacement.
        group: id of its workload group.
        destination: that it is at.
        leaving: whether it is being deleted.
        unwritten_at_none: whether its Destination does not exist and it was never written. It was created while the
            Destination was being deleted, after cleanup had listed the WorkPlacements, so it is deleted now.
    """

    name: str
    group: str
    destination: str
    leaving: bool = False
    unwritten_at_none: bool = False


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
class Refusal:
    """Why a group cannot be brought to a Destination, or to any.

    Attributes:
        group: its id; empty where that cannot be read.
        why: a sentence that says what to change.
    """

    group: str
    why: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """Where the groups of a Work go.

    Attributes:
        placements: to exist.
        dangling: names of WorkPlacements whose group the Work has no longer, or has at another Destination; they go.
        unscheduled: ids of groups that no Destination takes.
        misplaced: ids of groups with a misplaced placement.
        refused: what cannot be placed; all else can.
    """

    placements: tuple[Placement, ...]
    dangling: tuple[str, ...]
    unscheduled: tuple[str, ...]
    misplaced: tuple[str, ...]
    refused: tuple[Refusal, ...] = ()


def schedule(work: Work, placed: Sequence[Placed], destinations: Sequence[DestinationInfo]) -> Schedule:
    """Decide where a Work's groups go.

    A dependency goes to every candidate; a resource request to one, and stays there. What is at a Destination that is
    no candidate any more stays, misplaced. Where two runs that did not know of each other have brought a resource
    request to two candidates, it stays at one of them.

    Args:
        work: to be scheduled.
        placed: its WorkPlacements that exist.
        destinations: at least those that match a group's labels, and those that `placed` names.

    Raises:
        InvalidObject: no WorkPlacement of the Work could have its label.
    """
    if not is_label_value(work.name):
        words = f"metadata.name {work.name!r} is over {MAX_LABEL} characters, which the label {WORK_LABEL} cannot hold"
        raise InvalidObject(f"{words}: create the Work under a shorter name")
    refused = [Refusal(group.id, group.why) for group in work.spec.refused_groups]
    wanted: list[Placement] = []
    unscheduled: list[str] = []
    misplaced: list[str] = []
    dangling, by_group = _by_group(work, placed)
    for group in work.spec.workload_groups:
        if not is_label_value(group.id):
            words = f"workload group id {group.id[:100]!r} cannot be the value of a label"
            refused.append(
                Refusal(group.id, f"{words} (at most {MAX_LABEL} of letters, digits, '-', '_', '.'): rename it")
            )
            continue
        mine = by_group.get(group.id, [])
        found = candidates(group, destinations, dry_run=work.is_dry_run)
        if not work.is_resource_request:
            chosen = [d.name for d in found]
        elif mine:
            at = {p.destination for p in mine}
            matching = [d for d in found if d.name in at]
            chosen = [_kept(work, group, matching, mine).name] if matching else []
            spare = {d.name for d in matching}.difference(chosen)
            dangling += [p.name for p in mine if p.destination in spare]
            mine = [p for p in mine if p.destination not in spare]
        else:
            chosen = [choose(work, group, found).name] if found else []
        existing = {p.destination: p.name for p in mine}
        names = dict.fromkeys(chosen, False) | dict.fromkeys(existing.keys() - set(chosen), True)
        if not names:
            unscheduled.append(group.id)
        if any(names.values()):
            misplaced.append(group.id)
        wanted += [
            Placement(existing.get(name) or placement_name(work, name, group), group, name, is_misplaced)
            for name, is_misplaced in sorted(names.items())
        ]
    placements, without_name = _named(wanted, placed)
    refused += without_name
    return Schedule(tuple(placements), tuple(sorted(dangling)), tuple(unscheduled), tuple(misplaced), tuple(refused))


def _by_group(work: Work, placed: Sequence[Placed]) -> tuple[list[str], dict[str, list[Placed]]]:
    """Return the names of WorkPlacements that dangle, and the others by group.

    WorkPlacements of a group that cannot be read now stay as they are.
    """
    refused = {group.id for group in work.spec.refused_groups}
    groups = {group.id for group in work.spec.workload_groups} | refused
    dangling: list[str] = []
    by_group: dict[str, list[Placed]] = {}
    for one in placed:
        if one.unwritten_at_none or (one.group not in groups and "" not in refused):
            dangling.append(one.name)
        else:
            by_group.setdefault(one.group, []).append(one)
    return dangling, by_group


def _named(wanted: Sequence[Placement], placed: Sequence[Placed]) -> tuple[list[Placement], list[Refusal]]:
    """Return the placements that can have their names, and why the others cannot.

    Kratix's names are not unique: ids that begin with the same five characters give one name to two placements. An
    existing WorkPlacement keeps its name; otherwise the first group gets it.
    """
    holders = {one.name: (one.group, one.destination) for one in placed}
    kept: list[Placement] = []
    refused: list[Refusal] = []
    for placement in wanted:
        own = (placement.group.id, placement.destination)
        holder = holders.setdefault(placement.name, own)
        if holder != own:
            words = f"WorkPlacement {placement.name!r} is of workload group {holder[0]!r} at Destination {holder[1]!r}"
            why = f"{words}, and {own[0]!r} at {own[1]!r} would have the same name: rename the group or the Destination"
            refused.append(Refusal(placement.group.id, why))
        elif not is_object_name(placement.name):
            words = f"{placement.name[:300]!r} cannot be the name of a WorkPlacement"
            rule = f"a lowercase RFC 1123 subdomain of at most {MAX_NAME} characters"
            refused.append(Refusal(own[0], f"{words} ({rule}): rename the Work, the Destination or the workload group"))
        else:
            kept.append(placement)
    return kept, refused


def candidates(
    group: WorkloadGroup, destinations: Iterable[DestinationInfo], *, dry_run: bool
) -> list[DestinationInfo]:
    """Return the Destinations that may take a group, sorted by name."""
    wanted = wanted_labels(group, dry_run=dry_run)
    return sorted((d for d in destinations if _takes(d, wanted)), key=lambda d: d.name)


def wanted_labels(group: WorkloadGroup, *, dry_run: bool) -> dict[str, str]:
    """Return the labels that a Destination must have to take a group; empty where it needs none."""
    return {DRY_RUN_LABEL: "true"} if dry_run else selectors(group)


def label_selector(wanted: Mapping[str, str]) -> str | None:
    """Return the API server's label selector for these labels; None where no object can have them.

    A Work's selectors are not checked by its CRD. A value such as `a,b!=c` would select something else.
    """
    if not all(_is_label_key(key) and is_label_value(value) for key, value in wanted.items()):
        return None
    return ",".join(f"{key}={value}" for key, value in sorted(wanted.items()))


def selectors(group: WorkloadGroup) -> dict[str, str]:
    """Return the labels that a group asks for: those of all sources merged, the weightiest source winning."""
    merged: dict[str, str] = {}
    for selector in sorted(group.destination_selectors, key=lambda s: _PRIORITY.get(s.source, 0)):
        merged |= selector.match_labels
    return merged


def choose(work: Work, group: WorkloadGroup, found: Sequence[DestinationInfo]) -> DestinationInfo:
    """Return the Destination of a resource request's group: the highest of rendezvous hashes.

    The same Work and the same Destinations always give the same choice, requests spread evenly, and a Destination that
    comes or goes moves only what it takes or had (docs/contract.md#scheduling).
    """
    key = f"{work.metadata.namespace}/{work.name}/{group.id}"
    return max(found, key=lambda d: sha256(f"{key}\0{d.name}".encode()).digest())


def _kept(
    work: Work, group: WorkloadGroup, matching: Sequence[DestinationInfo], mine: Sequence[Placed]
) -> DestinationInfo:
    """Return the Destination that a resource request's group stays at, of several that match: all runs say the same.

    One that it is leaving already is not it: all others would go as well.
    """
    leaving = {p.destination for p in mine if p.leaving}
    return choose(work, group, [d for d in matching if d.name not in leaving] or matching)


def placement_name(work: Work, destination: str, group: WorkloadGroup) -> str:
    """Return the name of a new WorkPlacement."""
    return f"{work.name}.{destination}-{group.id[:5]}"


def _takes(destination: DestinationInfo, wanted: Mapping[str, str]) -> bool:
    labels = destination.labels
    if destination.being_deleted or not is_label_value(destination.name):
        return False
    if labels.get(DRY_RUN_LABEL) == "true" and wanted.get(DRY_RUN_LABEL) != "true":
        return False
    if not wanted:
        return not (destination.strict_match_labels and labels)
    return all(labels.get(key) == value for key, value in wanted.items())


def _is_label_key(key: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    return _LABEL_NAME.fullmatch(name) is not None and (not slash or is_object_name(prefix))
