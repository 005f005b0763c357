"""What became of one Work: what is refused, what has to be done again, and what to report."""

from collections.abc import Sequence
from typing import NamedTuple

from shared import conditions
from shared.errors import LandfallError
from shared.kube import Key, Object, key_of
from shared.messages import Reference, Verdict
from shared.observability import logger
from shared.reconcile import placements
from shared.schedule import Placed, Refusal
from shared.works import DESTINATION_LABEL, GROUP_LABEL

_QUOTED = 3  # refusals that a Work's condition quotes; the logs have all


class Result(NamedTuple):
    """What became of one Work.

    Attributes:
        verdicts: to be reported.
        again: why it has to be done again; None where it has not.
        whole: it has to be placed once more, as a whole.
    """

    verdicts: Sequence[Verdict] = ()
    again: Exception | None = None
    whole: bool = False


def has_created(found: Sequence[Object], done: Sequence[object]) -> bool:
    """Return whether a WorkPlacement is among what was done that was not found before."""
    known = {one["metadata"]["name"] for one in found}
    return any(isinstance(now, dict) and now["metadata"]["name"] not in known for now in done)


def first_transient(done: Sequence[object]) -> Exception | None:
    """Return the first error among what was done that passes by itself."""
    return next((error for error in done if isinstance(error, Exception) and not is_refusal(error)), None)


def concluded(obj: Object, reference: Reference, refusals: Sequence[Refusal], done: Sequence[object]) -> Result:
    """Return what is refused as a Work's verdict, and the first error among what was done that passes by itself."""
    again = first_transient(done)
    if not refusals:
        return Result([], again)
    words = [refusal.why for refusal in refusals]
    for why in words:
        logger.warning("Work %s/%s: %s", *key_of(obj), why)
    more = [f"and {len(words) - _QUOTED} more"] if len(words) > _QUOTED else []
    ids = list(dict.fromkeys(refusal.group for refusal in refusals if refusal.group))
    failed = conditions.work_not_scheduled(reference, ids, "; ".join([*words[:_QUOTED], *more]))
    return Result([failed.seeing(obj)] if conditions.merged(failed, obj) is not None else [], again)


def is_refusal(result: object) -> bool:
    """Whether a result is an error that only a person's change can mend."""
    return isinstance(result, LandfallError) and not result.transient


def refusals_of(found: Sequence[Object], results: Sequence[object]) -> list[Refusal]:
    """Return why WorkPlacements could not be changed, for those where only a person can mend that."""
    return [
        Refusal(placed_of(obj).group, str(error))
        for obj, error in zip(found, results, strict=True)
        if is_refusal(error)
    ]


def groups_of(obj: Object) -> list[str]:
    """Return the ids of a Work's groups, where the Work cannot be read; at least an empty one."""
    groups = (obj.get("spec") or {}).get("workloadGroups")
    ids = [str(group.get("id")) for group in groups if isinstance(group, dict)] if isinstance(groups, list) else []
    return ids or [""]


def work_of(placement: Object) -> Key | None:
    """Return the key of the Work that a WorkPlacement belongs to; None where it belongs to none."""
    _, name = placements.owner_of(placement)
    return (key_of(placement)[0], name) if name else None


def placed_of(obj: Object) -> Placed:
    """Return a WorkPlacement, of which the metadata is enough, as scheduling sees it."""
    metadata = obj["metadata"]
    labels, leaving = metadata.get("labels") or {}, bool(metadata.get("deletionTimestamp"))
    return Placed(metadata["name"], labels.get(GROUP_LABEL, ""), labels.get(DESTINATION_LABEL, ""), leaving)
