"""One WorkPlacement of a Work: its desired state, its owner, its create, update and delete.

See docs/contract.md#scheduling.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from shared.deadline import Deadline
from shared.errors import InvalidObject, KubernetesConflict, KubernetesUnavailable
from shared.kube import Cluster, Object, key_of, uid_of
from shared.reconcile.directories import directory_label
from shared.resources import API_VERSION, GROUP
from shared.schedule import Placement
from shared.works import (
    DESTINATION_LABEL,
    DIRECTORY_LABEL,
    GROUP_LABEL,
    MISPLACED_LABEL,
    PIPELINE_LABEL,
    REPO_FINALIZER,
    STATE_FILE_FINALIZER,
    WORK_GENERATION_ANNOTATION,
    WORK_LABEL,
    Work,
    WorkPlacement,
)

_ATTEMPTS: Final = 5  # at a WorkPlacement that others keep changing
_OF_GROUP: Final = 5  # characters of a group's id that are in a WorkPlacement's name, at most
_KEPT: Final = ("name", "namespace", "uid", "resourceVersion", "deletionTimestamp")
_LABELS: Final = (
    WORK_LABEL, GROUP_LABEL, DESTINATION_LABEL, PIPELINE_LABEL, MISPLACED_LABEL, DIRECTORY_LABEL
)  # fmt: skip


def owner_of(placement: Object) -> tuple[str, str]:
    """Return uid and name of the Work that owns a WorkPlacement.

    Without an owner reference the uid is empty and the name is the label's; both are empty without that label.
    """
    metadata = placement["metadata"]
    for owner in metadata.get("ownerReferences") or ():
        if owner.get("kind") == "Work" and str(owner.get("apiVersion")).startswith(f"{GROUP}/"):
            return str(owner.get("uid")), str(owner.get("name"))
    return "", str((metadata.get("labels") or {}).get(WORK_LABEL) or "")


def belongs_to(placement: Object, work: Object) -> bool:
    """Whether a Work owns a WorkPlacement: by uid, so that an earlier Work of the same name does not count."""
    uid, name = owner_of(placement)
    return uid == uid_of(work) if uid else name == work["metadata"]["name"]


def compact(placement: Object) -> Object:
    """Return what scheduling needs of a WorkPlacement's metadata, for a caller that keeps those of all Works.

    Labels repeat: a value that many WorkPlacements have takes its memory once.
    """
    metadata = placement["metadata"]
    kept = {name: metadata[name] for name in _KEPT if name in metadata}
    labels = metadata.get("labels") or {}
    kept["labels"] = {sys.intern(name): sys.intern(value) for name, value in labels.items() if name in _LABELS}
    generation = (metadata.get("annotations") or {}).get(WORK_GENERATION_ANNOTATION)
    if generation is not None:
        kept["annotations"] = {WORK_GENERATION_ANNOTATION: generation}
    uid, name = owner_of(placement)
    if uid:
        owner = {"apiVersion": API_VERSION, "kind": "Work", "name": sys.intern(name), "uid": sys.intern(uid)}
        kept["ownerReferences"] = [owner]
    return {"kind": "WorkPlacement", "metadata": kept}


def meant_by(name: str) -> Iterator[tuple[str, str]]:
    """Yield the names of Works and Destinations that the name of a WorkPlacement can be made of.

    The name is all that an event says of one that is gone. Names may have dots and dashes, so there can be several.
    """
    for at, letter in enumerate(name):
        if letter == ".":
            rest = name[at + 1 :]
            for length in range(1, _OF_GROUP + 1):
                destination, group = rest[: -length - 1], rest[-length:]
                if rest[-length - 1 : -length] == "-" and destination and group:
                    yield name[:at], destination


def wanted(work: Work, placement: Placement, mode: str) -> Object:
    """Return a WorkPlacement as it is to be.

    Args:
        work: that it belongs to.
        placement: of the schedule.
        mode: of its Destination's `filepath`; empty where the Destination does not exist.
    """
    metadata = work.metadata
    labels = {
        WORK_LABEL: work.name,
        GROUP_LABEL: placement.group.id,
        DESTINATION_LABEL: placement.destination,
        PIPELINE_LABEL: metadata.labels.get(PIPELINE_LABEL, ""),
        **({MISPLACED_LABEL: "true"} if placement.misplaced else {}),
    }
    spec: dict[str, Any] = {
        "targetDestinationName": placement.destination,
        "promiseName": work.spec.promise_name,
        "id": placement.group.id,
        "generation": metadata.generation,
    }
    if work.spec.resource_name:
        spec["resourceName"] = work.spec.resource_name
    if mode == "nestedByMetadata":
        named = {"name": placement.name, "namespace": metadata.namespace, "labels": labels}
        digest = directory_label(WorkPlacement.parse({"metadata": named, "spec": spec}))
        labels |= {DIRECTORY_LABEL: digest} if digest else {}
    return {
        "apiVersion": API_VERSION,
        "kind": "WorkPlacement",
        "metadata": {
            "name": placement.name,
            "namespace": metadata.namespace,
            "labels": labels,
            "annotations": {WORK_GENERATION_ANNOTATION: str(metadata.generation)},
            "finalizers": [REPO_FINALIZER, *([STATE_FILE_FINALIZER] if mode == "none" else [])],
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": "Work",
                    "name": work.name,
                    "uid": metadata.uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": {**spec, "workloads": [dict(workload) for workload in placement.group.workloads]},
    }


async def apply(
    want: Object, known: Object | None, work: Object, cluster: Cluster, deadline: Deadline
) -> Object | None:
    """Create a WorkPlacement or bring it up to date; return it if it is not what it was.

    Args:
        want: it as it is to be.
        known: its metadata as it was listed; None where it was not there.
        work: that it belongs to.
        cluster: that it is in.
        deadline: of the calls.

    Raises:
        InvalidObject: the name is another Work's; the sentence names both.
        KubernetesError: the API refused or could not be reached.
    """
    namespace, name = key_of(want)
    for _ in range(_ATTEMPTS):
        if known is not None and not belongs_to(known, work):
            raise InvalidObject(_taken(want, known, work))
        try:
            if known is None:
                return await cluster.create(want, deadline)
            return await _bring_up_to_date(want, known, cluster, deadline)
        except KubernetesConflict:  # another run, or a status, came between: look again
            known = await cluster.get("WorkPlacement", namespace, name, deadline, metadata_only=True)
    raise KubernetesUnavailable(f"others keep changing WorkPlacement {name}; it is tried again later")


async def remove(found: Object, work: Object, cluster: Cluster, deadline: Deadline, *, dangling: bool) -> None:
    """Delete a WorkPlacement that is still as it was found, and still the Work's.

    Args:
        found: its metadata as it was listed.
        work: as it was read after that.
        cluster: that they are in.
        deadline: of the calls.
        dangling: whether it is deleted because the Work does not ask for it. Then one that was made from a newer
            generation than this Work stays.

    Raises:
        KubernetesError: the API refused or could not be reached.
    """
    namespace, name = key_of(found)
    now: Object | None = found
    for _ in range(_ATTEMPTS):
        if now is None or uid_of(now) != uid_of(found) or not belongs_to(now, work):
            return
        if now["metadata"].get("deletionTimestamp"):
            return
        if dangling and (generation_of(now) > (work["metadata"].get("generation") or 0) or not _same(now, found)):
            return
        preconditions = {"uid": uid_of(now), "resourceVersion": str(now["metadata"]["resourceVersion"])}
        try:
            await cluster.delete("WorkPlacement", namespace, name, deadline, preconditions)
        except KubernetesConflict:
            now = await cluster.get("WorkPlacement", namespace, name, deadline, metadata_only=True)
        else:
            return
    raise KubernetesUnavailable(f"others keep changing WorkPlacement {name}; its deletion is tried again later")


def generation_of(placement: Object) -> int:
    """Return the generation of its Work that a WorkPlacement has the documents of; 0 where it does not say."""
    generation = (placement["metadata"].get("annotations") or {}).get(WORK_GENERATION_ANNOTATION, "")
    return int(generation) if generation.isdigit() else 0


def was_written(placement: Mapping[str, Any]) -> bool:
    """Whether a WorkPlacement's status says that its documents were in the State Store at some time."""
    status = placement.get("status") or {}
    written = any(
        c.get("type") == "WriteSucceeded" and c.get("status") == "True" for c in status.get("conditions") or ()
    )
    return bool(status.get("versionID")) or written


def _same(now: Object, found: Object) -> bool:
    """Whether a WorkPlacement is still of the group and at the Destination that it was found with."""
    parts = [[(obj["metadata"].get("labels") or {}).get(label) for label in _PLACE] for obj in (now, found)]
    return parts[0] == parts[1]


_PLACE: Final = (GROUP_LABEL, DESTINATION_LABEL)


def _taken(want: Object, known: Object, work: Object) -> str:
    uid, owner = owner_of(known)
    name, own = want["metadata"]["name"], work["metadata"]["name"]
    if owner == own:
        return f"WorkPlacement {name!r} belongs to an earlier Work {own!r} (uid {uid}): delete that WorkPlacement"
    whose = f"belongs to Work {owner!r}" if owner else "belongs to no Work"
    words = f"WorkPlacement {name!r} {whose}, and Work {own!r} needs the name for Destination"
    return f"{words} {want['spec']['targetDestinationName']!r}: rename one of them"


async def _bring_up_to_date(want: Object, known: Object, cluster: Cluster, deadline: Deadline) -> Object | None:
    if known["metadata"].get("deletionTimestamp") or generation_of(known) > generation_of(want):
        return None  # it is being deleted, or was made from a newer Work than ours
    metadata: dict[str, Any] = {}
    for part in ("labels", "annotations"):
        now, wants = known["metadata"].get(part) or {}, want["metadata"][part]
        metadata[part] = {name: value for name, value in wants.items() if now.get(name) != value}
    if MISPLACED_LABEL in (known["metadata"].get("labels") or {}) and MISPLACED_LABEL not in want["metadata"]["labels"]:
        metadata["labels"][MISPLACED_LABEL] = None
    if not any(metadata.values()):
        return None
    patch = {"metadata": metadata, **({"spec": want["spec"]} if metadata["annotations"] else {})}
    return await cluster.patch({**known, "kind": "WorkPlacement"}, patch, deadline)
