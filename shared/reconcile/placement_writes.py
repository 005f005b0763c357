"""Bring what goes to Destinations into their State Stores: records are read, edits are made, all is written."""

from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import replace

from shared.documents import Limits
from shared.errors import LandfallError
from shared.kube import Key
from shared.plan import Edit, Outcome
from shared.reconcile.ownership import Site
from shared.reconcile.placing import ROOM_BYTES, Target
from shared.reconcile.store_batch import StateStores
from shared.resources import StateStore


async def write_targets(
    targets: Mapping[Key, Target], site: Site, stores: StateStores, limits: Limits
) -> dict[Key, Outcome]:
    """Write the WorkPlacements that are wanted: one changeset a State Store, of what fits into memory at once.

    A document inflates to a thousand times its size, so a batch that is small on its way here may be far larger than a
    function. Edits are made while there is room for them, and written before more are made.

    Args:
        targets: by Destination.
        site: the place that they are at.
        stores: to write to.
        limits: of what a WorkPlacement may bring.

    Returns:
        What became of each WorkPlacement that is wanted.

    Raises:
        KubernetesError: it could not be found out what is another Destination's.
    """
    unreadable = await _read_records(targets, stores)
    outcomes = dict(unreadable)
    edits: dict[str, tuple[StateStore, Edit]] = {}
    placements: dict[str, list[Key]] = {}
    written: dict[str, Outcome] = {}
    room = ROOM_BYTES
    readable = [target for target in targets.values() if not target.wanted & unreadable.keys()]
    async for store, edit, keys in _edits(readable, site, limits):
        size = sum(map(len, edit.files.values()))
        if edits and size > room:
            written |= await stores.write_all(edits)
            edits, room = {}, ROOM_BYTES
        edits[edit.id], placements[edit.id] = (store, edit), keys
        room -= size
    written |= await stores.write_all(edits)
    for target in readable:
        outcomes |= {key: error for key, error in target.refused.items() if key in target.wanted}
    return outcomes | {key: written[edit_id] for edit_id, keys in placements.items() for key in keys}


async def _edits(
    targets: Collection[Target], site: Site, limits: Limits
) -> AsyncIterator[tuple[StateStore, Edit, list[Key]]]:
    """Yield each edit when it is asked for, with where it goes and the WorkPlacements that it is for."""
    for target in targets:
        for edit, keys in target.edits(limits):
            touched = {*edit.files, *edit.remove, *edit.prune}
            kept = await site.others_inside(target.root, target.destination.metadata.uid, touched)
            yield target.store, replace(edit, keep=edit.keep | kept) if kept else edit, keys


async def _read_records(targets: Mapping[Key, Target], stores: StateStores) -> dict[Key, Outcome]:
    """Read the records of mode none; return why it failed for all WorkPlacements of those Destinations where it did."""
    asked = {key: (target.store, paths) for key, target in targets.items() if (paths := target.record_paths())}
    if not asked:
        return {}
    failed: dict[Key, Outcome] = {}
    for key, answer in (await stores.read_all(asked)).items():
        if isinstance(answer, LandfallError):
            failed.update(dict.fromkeys(targets[key].wanted, answer))
        else:
            targets[key].records = answer
    return failed
