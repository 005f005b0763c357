"""What on-work-change found of a WorkPlacement and could not report, as write-documents can see.

See docs/contract.md#scheduling.
"""

from shared import conditions
from shared.kube import Object
from shared.messages import Reference, Verdict
from shared.works import MISPLACED_LABEL, WORK_GENERATION_ANNOTATION


def unsaid(obj: Object, reference: Reference) -> Verdict | None:
    """Return the verdict that a WorkPlacement should have had when it was placed, where it does not say so.

    It is reported once, by the run that changes the WorkPlacement, and is lost with that run. The runs after it read
    metadata alone and cannot know; who reads the whole object can. One whose documents nobody has spoken of yet, in
    this generation, is still on its way, and so may be the verdict.

    Args:
        obj: a WorkPlacement, whole.
        reference: to it.
    """
    metadata, known = obj["metadata"], (obj.get("status") or {}).get("conditions") or ()
    placed_by_us = WORK_GENERATION_ANNOTATION in (metadata.get("annotations") or {})
    written = conditions.find(known, conditions.WRITE_SUCCEEDED) or {}
    is_settled = written.get("observedGeneration") == metadata.get("generation")
    if not placed_by_us or not is_settled or metadata.get("deletionTimestamp"):
        return None
    verdict = conditions.placement_scheduled(reference, misplaced=MISPLACED_LABEL in (metadata.get("labels") or {}))
    says = (conditions.find(known, conditions.SCHEDULE_SUCCEEDED) or {}).get("status")
    return None if says == verdict.status else verdict
