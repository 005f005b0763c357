"""status-report: put verdicts on their objects: conditions, finalizers, Events."""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from shared import conditions
from shared.deadline import Deadline
from shared.errors import KubernetesConflict, KubernetesError, KubernetesForbidden, KubernetesUnavailable, LandfallError
from shared.kube import Cluster, Key, Object
from shared.messages import Verdict
from shared.observability import logger
from shared.queues import Outgoing
from shared.reconcile.batch import Share, for_each_cluster
from shared.reconcile.connections import Connections

_GET_AT_MOST = 100  # WorkPlacements one by one; a list of them brings all documents
_ATTEMPTS = 5  # at an object that others keep changing; then the queue delivers the verdict again


class _Fact(NamedTuple):
    """A verdict that was reported, and its object as it was before; perhaps worth an Event."""

    before: Object
    verdict: Verdict


async def report(messages: Mapping[str, Verdict], connections: Connections, deadline: Deadline) -> dict[str, Exception]:
    """Report a batch of verdicts, several about one object as one.

    Args:
        messages: by message id, a verdict.
        connections: of this container.
        deadline: of this invocation.

    Returns:
        By message id: why it has to be delivered again.
    """
    shares: dict[str, dict[str, Verdict]] = {}
    for message_id, verdict in messages.items():
        shares.setdefault(connections.clusters.name(verdict.reference.cluster), {})[message_id] = verdict

    async def report_share(_: str, share: Mapping[str, Verdict], cluster: Cluster) -> Share:
        return await _report_share(share, cluster, deadline)

    return await for_each_cluster(shares, report_share, connections, deadline)


async def _report_share(share: Mapping[str, Verdict], cluster: Cluster, deadline: Deadline) -> Share:
    groups: dict[str, dict[Key, dict[str, Verdict]]] = {}
    for message_id, verdict in share.items():
        reference = verdict.reference
        by_key = groups.setdefault(reference.kind, {})
        by_key.setdefault((reference.namespace, reference.name), {})[message_id] = verdict
    failures: dict[str, Exception] = {}
    outgoing: list[Outgoing] = []
    facts: list[_Fact] = []
    for kind, by_key in groups.items():
        try:
            seen = {key: obj for key, verdicts in by_key.items() if (obj := _seen(kind, verdicts.values())) is not None}
            few = _GET_AT_MOST if kind == "WorkPlacement" else None
            objects = seen | await cluster.read_many(kind, by_key.keys() - seen.keys(), deadline, list_above=few)
        except LandfallError as error:
            failures.update({message_id: error for verdicts in by_key.values() for message_id in verdicts})
            continue
        async with asyncio.TaskGroup() as group:
            tasks = {
                key: group.create_task(_report_all(cluster, obj, list(by_key[key].values()), facts, deadline))
                for key, obj in objects.items()
            }
        for key, task in tasks.items():
            error_of_object = task.result()
            if error_of_object is not None:
                failures.update(dict.fromkeys(by_key[key], error_of_object))
            elif kind == "WorkPlacement" and _begins_or_ceases_to_fail(objects[key], by_key[key].values()):
                reference = next(iter(by_key[key].values())).reference
                outgoing.append(Outgoing("works", reference, frozenset(by_key[key])))
    # Last: whoever waits for a condition waits for no other object's Event.
    async with asyncio.TaskGroup() as group:
        for fact in facts:
            group.create_task(_record(cluster, fact, deadline))
    return failures, outgoing


def _seen(kind: str, verdicts: Collection[Verdict]) -> Object | None:
    """Return an object as its only verdict has seen it; None where it has to be read.

    Where it has changed since, the API server refuses the patch (409), and the object is read then.
    """
    (verdict, *others) = verdicts
    return None if others or verdict.seen is None else {**verdict.seen, "kind": kind}


def _begins_or_ceases_to_fail(before: Object, verdicts: Iterable[Verdict]) -> bool:
    """Whether the Work of a WorkPlacement has to say something else about it now."""
    now = {verdict.status for verdict in verdicts if verdict.type == conditions.WRITE_SUCCEEDED}
    return bool(now) and conditions.write_failed(before) != ("False" in now)


async def _report_all(
    cluster: Cluster, obj: Object, verdicts: Sequence[Verdict], facts: list[_Fact], deadline: Deadline
) -> LandfallError | None:
    """Report all verdicts about an object; `facts` gets what is worth an Event."""
    current: Object | None = obj
    for attempt in range(1, _ATTEMPTS + 1):
        if current is None:
            return None
        try:
            await _report(cluster, current, verdicts, facts, deadline)
        except KubernetesConflict as error:
            if attempt == _ATTEMPTS:
                return error
            namespace, name = current["metadata"].get("namespace") or "", current["metadata"]["name"]
            try:
                current = await cluster.get(current["kind"], namespace, name, deadline)
            except LandfallError as unreadable:
                return unreadable
            if current is not None:
                current = {**current, "kind": obj["kind"]}
        except LandfallError as error:
            return error
        else:
            return None
    return None


async def _report(
    cluster: Cluster, obj: Object, verdicts: Sequence[Verdict], facts: list[_Fact], deadline: Deadline
) -> None:
    current = [verdict for verdict in verdicts if not conditions.is_stale(verdict, obj)]
    for skipped in current:
        if skipped.reason == conditions.CLEANUP_SKIPPED:  # with the finalizer goes the object, and all that it says
            await _record(cluster, _Fact(obj, skipped), deadline)
    for verdict in conditions.latest(current):
        changed = await _set_condition(cluster, obj, verdict, facts, deadline)
        if changed is None:
            return
        obj = {**changed, "kind": obj["kind"]}
    wanted = _finalizers(obj, current)
    if wanted == (obj["metadata"].get("finalizers") or []):
        return
    try:
        await cluster.patch_finalizers(obj, wanted, deadline)
    except KubernetesError as error:
        if isinstance(error, KubernetesConflict | KubernetesUnavailable) and not isinstance(error, KubernetesForbidden):
            raise
        failed = conditions.finalizer_failed(current[0].reference, error)
        await _set_condition(cluster, obj, failed, facts, deadline)


async def _set_condition(
    cluster: Cluster, obj: Object, verdict: Verdict, facts: list[_Fact], deadline: Deadline
) -> Object | None:
    """Patch the condition where it changes; return the object as it is now, None if it is gone."""
    merged = conditions.merged(verdict, obj)
    now: Object | None = obj
    if merged is not None:
        now = await cluster.patch_status(obj, merged, deadline)
    if now is not None:
        facts.append(_Fact(obj, verdict))
    return now


async def _record(cluster: Cluster, fact: _Fact, deadline: Deadline) -> None:
    event = conditions.event_of(fact.verdict, fact.before)
    if event is None:
        return
    try:
        await cluster.record_event(fact.before, event, deadline)
    except LandfallError as error:  # the condition tells the same; an Event is worth no second delivery
        logger.warning("the Event %s of %s was not recorded: %s", event.reason, fact.verdict.reference, error)


def _finalizers(obj: Object, verdicts: Sequence[Verdict]) -> list[str]:
    """Return the finalizers that the object should have; none is added to an object that is being deleted."""
    metadata = obj["metadata"]
    finalizers = list(metadata.get("finalizers") or [])
    for verdict in sorted(verdicts, key=lambda v: v.decided_at):
        for added in verdict.add_finalizers:
            if added not in finalizers and not metadata.get("deletionTimestamp"):
                finalizers.append(added)
        finalizers = [finalizer for finalizer in finalizers if finalizer not in verdict.remove_finalizers]
    return finalizers
