"""Bring what goes to Destinations into their State Stores: records are read, edits are made, all is written."""

from collections.abc import Mapping

from shared.deadline import Deadline
from shared.errors import LandfallError
from shared.kube import Cluster, Key
from shared.plan import Edit, Outcome
from shared.reconcile.connections import Connections
from shared.reconcile.placing import Target, by_placement, limits_of
from shared.reconcile.store_batch import read_all, write_all
from shared.reconcile.view import View
from shared.resources import StateStore


async def write_targets(
    targets: Mapping[Key, Target], view: View, cluster: Cluster, connections: Connections, deadline: Deadline
) -> dict[Key, Outcome]:
    """Write the WorkPlacements that are wanted, one changeset a State Store.

    Args:
        targets: by Destination.
        view: of the cluster.
        cluster: where the State Stores' Secrets are.
        connections: of this container.
        deadline: of this invocation.

    Returns:
        What became of each WorkPlacement that is wanted; of some that cannot even be read, `refused` tells alone.
    """
    unreadable = await _read_records(targets, cluster, connections, deadline)
    outcomes = dict(unreadable)
    made: list[tuple[Edit, list[Key]]] = []
    edits: dict[str, tuple[StateStore, Edit]] = {}
    for target in targets.values():
        if target.wanted & unreadable.keys():
            continue
        kept = [root for _, root in view.roots(target.store).values()]
        for edit, keys in target.edits(limits_of(connections.settings), kept):
            made.append((edit, keys))
            edits[edit.id] = (target.store, edit)
        outcomes |= {key: error for key, error in target.refused.items() if key in target.wanted}
    return outcomes | by_placement(made, await write_all(edits, cluster, connections, deadline))


async def _read_records(
    targets: Mapping[Key, Target], cluster: Cluster, connections: Connections, deadline: Deadline
) -> dict[Key, Outcome]:
    """Read the records of mode none; return why it failed for all WorkPlacements of those Destinations where it did."""
    asked = {key: (target.store, paths) for key, target in targets.items() if (paths := target.record_paths())}
    if not asked:
        return {}
    failed: dict[Key, Outcome] = {}
    for key, answer in (await read_all(asked, cluster, connections, deadline)).items():
        if isinstance(answer, LandfallError):
            failed.update(dict.fromkeys(targets[key].wanted, answer))
        else:
            targets[key].records = answer
    return failed
