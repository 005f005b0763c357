"""Which WorkPlacements share a directory at a Destination (docs/decisions/0002-shared-directories.md)."""

from collections.abc import Collection, Iterable
from hashlib import sha256
from typing import Final

from shared import documents
from shared.deadline import Deadline
from shared.errors import InvalidObject
from shared.kube import Cluster, Key, Object, key_of, together
from shared.reconcile.placing import Target
from shared.resources import is_label_value
from shared.works import DESTINATION_LABEL, DIRECTORY_LABEL, WorkPlacement

_AT_ONCE: Final = 100  # values of one selector: 3 KiB of a URL


async def sharing(
    targets: Iterable[Target], known: Collection[Key], cluster: Cluster, deadline: Deadline
) -> dict[Key, Object]:
    """Return the WorkPlacements, whole, that share a directory with one that is to be written in mode nestedByMetadata.

    Those that we made are found by their label, and nothing but metadata is read of them where there are none. Those
    made by others have no such label, and are read whole, page by page, at the Destinations that are meant.

    Args:
        targets: with what is to be written.
        known: WorkPlacements that need not be returned.
        cluster: that they are in.
        deadline: of the calls.

    Raises:
        KubernetesError: they could not be read, so that nothing of these Destinations may be written.
    """
    nested = [target for target in targets if target.mode == "nestedByMetadata"]
    placements = (target.all[key] for target in nested for key in target.wanted & target.all.keys())
    digests = sorted({directory_label(placement) for placement in placements} - {""})
    if not digests:
        return {}
    names = sorted({target.destination.name for target in nested if is_label_value(target.destination.name)})

    async def labelled(values: Collection[str]) -> list[Object]:
        selector = f"{DIRECTORY_LABEL} in ({','.join(values)})"
        listed = await cluster.list_all("WorkPlacement", deadline, selector, metadata_only=True)
        keys = [key for obj in listed if (key := key_of(obj)) not in known]
        found = await together(cluster.get("WorkPlacement", *key, deadline) for key in keys)
        return [obj for obj in found if obj is not None]

    async def unlabelled(values: Collection[str]) -> list[Object]:
        selector = f"!{DIRECTORY_LABEL},{DESTINATION_LABEL} in ({','.join(values)})"
        pages = cluster.pages("WorkPlacement", deadline, selector)
        return [obj async for page in pages for obj in page if key_of(obj) not in known and _label_of(obj) in digests]

    calls = [labelled(digests[at : at + _AT_ONCE]) for at in range(0, len(digests), _AT_ONCE)]
    calls += [unlabelled(names[at : at + _AT_ONCE]) for at in range(0, len(names), _AT_ONCE)]
    return {key_of(obj): obj for objects in await together(calls) for obj in objects if _label_of(obj) in digests}


def _label_of(obj: Object) -> str:
    try:
        return directory_label(WorkPlacement.parse(obj))
    except InvalidObject:
        return ""


def directory_label(placement: WorkPlacement) -> str:
    """Return the value of the label by which WorkPlacements of one directory are found; empty where it can have none.

    The directory lies below the Destination's, so the Destination's name is a part of it.
    """
    try:
        directory = documents.placement_directory("", placement)
    except InvalidObject:
        return ""
    return sha256(f"{placement.spec.target_destination_name}\0{directory}".encode()).hexdigest()[:32]
