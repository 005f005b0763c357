"""status-report: put verdicts on their objects: conditions, finalizers, Events."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from shared import conditions
from shared.deadline import Deadline
from shared.errors import KubernetesConflict, KubernetesError, LandfallError, is_out_of_reach
from shared.kube import Cluster, Key, Object, each, key_of, together
from shared.messages import Reference, Verdict
from shared.observability import logger
from shared.queues import Outgoing
from shared.reconcile.batch import Share, for_each_cluster
from shared.reconcile.connections import Connections
from shared.reconcile.readiness import measure_ready
from shared.resources import CLEANUP_FINALIZER

_DECIDED_AGAIN_SECONDS = 2  # later, so that a State Store that fails every other time is not asked without pause
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


@dataclass
class _Report:
    """What is reported of one cluster's objects, and what follows.

    Attributes:
        facts: what may be worth an Event.
        memories: annotations to be set on objects.
        again: objects to be decided about once more, with the queue that brings them there.
    """

    cluster: Cluster
    deadline: Deadline
    facts: list[_Fact] = field(default_factory=list)
    memories: list[tuple[Object, dict[str, str]]] = field(default_factory=list)
    again: dict[tuple[str, str, Key], Reference] = field(default_factory=dict)

    async def all(self, kind: str, key: Key, obj: Object | None, verdicts: Sequence[Verdict]) -> LandfallError | None:
        """Report all verdicts about an object; return why it has to be done again.

        Args:
            kind: of the object.
            key: its namespace and name.
            obj: as its verdict has seen it, or as it is; None where it has to be read first.
            verdicts: about it.
        """
        current = obj
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                if current is None:
                    read = await self.cluster.get(kind, *key, self.deadline)
                    if read is None:
                        return None
                    current = {**read, "kind": kind}
                await self._report(current, verdicts)
            except KubernetesConflict as error:
                if attempt == _ATTEMPTS:
                    return error
                current = None
            except LandfallError as error:
                return error
            else:
                return None
        return None

    async def _report(self, obj: Object, verdicts: Sequence[Verdict]) -> None:
        holding = [verdict for verdict in verdicts if self._holds(verdict, obj)]
        for verdict in holding:
            if verdict.reason == conditions.CLEANUP_SKIPPED:  # with the finalizer goes the object, and all that it says
                await self.record(_Fact(obj, verdict))
            elif verdict.reason == conditions.LEFT_BEHIND:
                self.facts.append(_Fact(obj, verdict))
        chosen = conditions.latest(holding)
        for verdict in chosen:
            self._doubt(verdict, obj, holding)
            changed = await self._set_condition(obj, verdict)
            if changed is None:
                return
            obj = {**changed, "kind": obj["kind"]}
        wanted = _finalizers(obj, holding)
        if annotations := {name: text for verdict in holding for name, text in verdict.annotations.items()}:
            self.memories.append((obj, annotations))
        if wanted == (obj["metadata"].get("finalizers") or []):
            return
        try:
            await self.cluster.patch_finalizers(obj, wanted, self.deadline)
        except KubernetesError as error:
            if isinstance(error, KubernetesConflict) or is_out_of_reach(error):
                raise
            await self._set_condition(obj, conditions.finalizer_failed(holding[0].reference, error))

    def _holds(self, verdict: Verdict, obj: Object) -> bool:
        """Whether a verdict is still about the object as it is; where that is not sure, it is decided once more."""
        if conditions.is_stale(verdict, obj):
            return False
        if conditions.was_decided_on(verdict, obj):
            return True
        self._decide_again(verdict, obj)
        return False

    def _doubt(self, verdict: Verdict, obj: Object, verdicts: Sequence[Verdict]) -> None:
        """Have an object decided about once more where this verdict may have overtaken, or been overtaken by, another.

        Outcomes that say what the object says already are not sent, so a late one of the contrary meets no conflict.
        Whatever turns a condition round is therefore followed by a decision that sees it turned
        (docs/failure-modes.md#31-late-failures).
        """
        others = {other.status for other in verdicts if other.type == verdict.type and not other.first_seen}
        if conditions.turns(verdict, obj) or len(others) > 1:
            # A failure has been sent with retries of its own: the look that follows it starts no second chain of them.
            self._decide_again(verdict, obj, attempt=int(verdict.status == "False"))

    def _decide_again(self, verdict: Verdict, obj: Object, attempt: int = 0) -> None:
        leaves = verdict.reference.kind == "Destination" and obj["metadata"].get("deletionTimestamp")
        if verdict.first_seen or leaves:  # cleanup tries until it is gone, and says again what is in its way
            return
        kind, key = verdict.reference.kind, key_of(obj)
        queue = _queue_of(verdict)
        self.again[queue, kind, key] = Reference.to(obj, kind, verdict.reference.cluster, attempt)

    async def _set_condition(self, obj: Object, verdict: Verdict) -> Object | None:
        """Patch the condition where it changes; return the object as it is now, None if it is gone."""
        merged = conditions.merged(verdict, obj)
        now: Object | None = obj
        if merged is not None:
            now = await self.cluster.patch_status(obj, merged, self.deadline)
        if now is not None:
            self.facts.append(_Fact(obj, verdict))
            measure_ready(verdict, obj, now)
        return now

    async def remember(self, obj: Object, annotations: Mapping[str, str]) -> None:
        """Set annotations, if the object is still as it was; where it is not, the next write has them set."""
        try:
            await self.cluster.patch(obj, {"metadata": {"annotations": dict(annotations)}}, self.deadline)
        except LandfallError as error:
            logger.warning("%s/%s does not remember where it was written yet: %s", *key_of(obj), error)

    async def record(self, fact: _Fact) -> None:
        """Record the Event of a fact, if it is worth one."""
        event = conditions.event_of(fact.verdict, fact.before)
        if event is None:
            return
        try:
            await self.cluster.record_event(fact.before, event, self.deadline)
        except LandfallError as error:  # the condition says the same; an Event is worth no second delivery
            logger.warning("the Event %s of %s was not recorded: %s", event.reason, fact.verdict.reference, error)


async def _report_share(share: Mapping[str, Verdict], cluster: Cluster, deadline: Deadline) -> Share:
    groups: dict[str, dict[Key, dict[str, Verdict]]] = {}
    for message_id, verdict in share.items():
        reference = verdict.reference
        by_key = groups.setdefault(reference.kind, {})
        by_key.setdefault((reference.namespace, reference.name), {})[message_id] = verdict
    failures: dict[str, Exception] = {}
    outgoing: list[Outgoing] = []
    report = _Report(cluster, deadline)
    for kind, by_key in groups.items():
        try:
            seen = {key: obj for key, verdicts in by_key.items() if (obj := _seen(kind, verdicts.values())) is not None}
            objects = seen | await cluster.read_many(kind, by_key.keys() - seen.keys(), deadline)
        except LandfallError as error:
            failures.update({message_id: error for verdicts in by_key.values() for message_id in verdicts})
            continue
        results = await each(
            report.all(kind, key, {**obj, "kind": kind}, list(by_key[key].values())) for key, obj in objects.items()
        )
        for key, error_of_object in zip(objects, results, strict=True):
            if error_of_object is not None:
                failures.update(dict.fromkeys(by_key[key], error_of_object))
            elif kind == "WorkPlacement" and _begins_or_ceases_to_fail(objects[key], by_key[key].values()):
                reference = next(iter(by_key[key].values())).reference
                outgoing.append(Outgoing("works", reference, frozenset(by_key[key])))
    for (queue, kind, key), reference in report.again.items():
        outgoing.append(Outgoing(queue, reference, frozenset(groups[kind][key]), _DECIDED_AGAIN_SECONDS))
    # Last: a condition that is waited for waits for no other object's Event.
    await together(report.remember(obj, annotations) for obj, annotations in report.memories)
    await together(report.record(fact) for fact in report.facts)
    return failures, outgoing


def _queue_of(verdict: Verdict) -> str:
    """Return the queue of the function that decides about a condition.

    Whether a WorkPlacement is misplaced is in its labels. on-work-change reads those and changes nothing where they are
    right; write-documents compares them with the condition.
    """
    kind = verdict.reference.kind
    if kind == "Work":
        return "works"
    return "documents" if kind == "WorkPlacement" else "canary"


def _seen(kind: str, verdicts: Collection[Verdict]) -> Object | None:
    """Return an object as its only verdict has seen it; None where it has to be read.

    Where it has changed since, the API server refuses the patch (409), and the object is read then.
    """
    (verdict, *others) = verdicts
    if others or verdict.seen is None or "status" not in verdict.seen:
        return None
    return {**verdict.seen, "kind": kind}


def _begins_or_ceases_to_fail(before: Object, verdicts: Iterable[Verdict]) -> bool:
    """Whether the Work of a WorkPlacement has to say something else about it now."""
    now = {verdict.status for verdict in verdicts if verdict.type == conditions.WRITE_SUCCEEDED}
    return bool(now) and conditions.write_failed(before) != ("False" in now)


def _finalizers(obj: Object, verdicts: Sequence[Verdict]) -> list[str]:
    """Return the finalizers that the object should have.

    None is added to an object that is being deleted, and none removed from one that is not: a removal that comes late
    would let an object go whose files are there again. Only a cleanup that was turned off takes its finalizer along.
    """
    metadata = obj["metadata"]
    leaving = bool(metadata.get("deletionTimestamp"))
    turned_off = (obj.get("spec") or {}).get("cleanup", "none") != "all"
    finalizers = list(metadata.get("finalizers") or [])
    for verdict in sorted(verdicts, key=lambda v: v.decided_at):
        if not leaving:
            finalizers += [added for added in verdict.add_finalizers if added not in finalizers]
        removed = {f for f in verdict.remove_finalizers if leaving or (f == CLEANUP_FINALIZER and turned_off)}
        finalizers = [finalizer for finalizer in finalizers if finalizer not in removed]
    return finalizers
