"""Works and WorkPlacements: what is to be delivered, and to which Destination.

See docs/contract.md#documents, #scheduling.
"""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import Field, ValidationError, model_validator

from shared.resources import Model, Resource, sentence_of

WORK_FINALIZER: Final = "kratix.io/work-cleanup"
REPO_FINALIZER: Final = "finalizers.workplacement.kratix.io/repo-cleanup"
STATE_FILE_FINALIZER: Final = "finalizers.workplacement.kratix.io/kratix-dot-files-cleanup"

WORK_LABEL: Final = "kratix.io/work"
GROUP_LABEL: Final = "kratix.io/workload-group-id"
DESTINATION_LABEL: Final = "kratix.io/targetDestinationName"
PIPELINE_LABEL: Final = "kratix.io/pipeline-name"
MISPLACED_LABEL: Final = "kratix.io/misplaced"
DRY_RUN_LABEL: Final = "kratix.io/dry-run"
RESOURCE_LABEL: Final = "kratix.io/resource-name"  # on a Work of a resource request, by Kratix's work creator

# What two WorkPlacements share that have one directory at one Destination (mode nestedByMetadata): a digest of both.
DIRECTORY_LABEL: Final = "landfall.kratix.io/directory"

# On a Work of a resource request one of whose groups no Destination takes: each new one is a chance for it.
UNSCHEDULED_LABEL: Final = "landfall.kratix.io/unscheduled"

# Which generation of its Work a WorkPlacement has the documents of: told by its metadata alone, without its documents.
WORK_GENERATION_ANNOTATION: Final = "landfall.kratix.io/work-generation"


class Workload(Model):
    """One document.

    Attributes:
        filepath: relative to the placement's own directory, or to the Destination's in the other modes.
        content: base64 of gzip of the document.
    """

    filepath: str = ""
    content: str = Field("", repr=False)


class DestinationSelector(Model):
    """Labels that a Destination must have.

    Attributes:
        source: who asks for them: `promise`, `promise-workflow` or `resource-workflow`.
    """

    match_labels: dict[str, str] = Field(default_factory=dict)
    source: str = ""


class WorkloadGroup(Model):
    """Documents that go to the same Destinations."""

    id: str = Field(min_length=1)
    directory: str = ""
    destination_selectors: tuple[DestinationSelector, ...] = ()
    workloads: tuple[dict[str, Any], ...] = Field((), repr=False)


class RefusedGroup(Model):
    """A workload group that cannot be read; the others of its Work can.

    Attributes:
        id: empty where even that cannot be read.
        why: a sentence that names the field.
    """

    id: str = ""
    why: str


class WorkSpec(Model):
    """`spec` of a Work.

    Attributes:
        workload_groups: that can be read.
        refused_groups: the others; ours, no field of the object.
    """

    promise_name: str = ""
    resource_name: str = ""
    workload_groups: tuple[WorkloadGroup, ...] = ()
    refused_groups: tuple[RefusedGroup, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _each_group_for_itself(cls, spec: Any) -> Any:
        given = spec.get("workloadGroups") if isinstance(spec, dict) else None
        if not isinstance(given, list | tuple):
            return spec
        groups: dict[str, WorkloadGroup] = {}
        refused: list[RefusedGroup] = []
        for number, one in enumerate(given):
            where = f"spec.workloadGroups[{number}]"
            id_ = one.get("id") if isinstance(one, dict) and isinstance(one.get("id"), str) else ""
            try:
                group = WorkloadGroup.model_validate(one)
            except ValidationError as error:
                why = "; ".join(f"{where}: {sentence_of(problem)}" for problem in error.errors(include_url=False))
                refused.append(RefusedGroup(id=id_, why=why))
                continue
            if group.id in groups:
                refused.append(RefusedGroup(id=id_, why=f"{where}.id {group.id!r} is there twice: rename one of them"))
            else:
                groups[group.id] = group
        return {**spec, "workloadGroups": tuple(groups.values()), "refusedGroups": tuple(refused)}


class Work(Resource):
    """A `Work`: the documents of a Promise's dependencies, or of one resource request."""

    spec: WorkSpec

    @property
    def is_resource_request(self) -> bool:
        """Whether each of its groups goes to one Destination, not to all that match."""
        return bool(self.spec.resource_name)

    @property
    def is_dry_run(self) -> bool:
        """Whether it goes to dry-run Destinations only."""
        return self.metadata.labels.get(DRY_RUN_LABEL) == "true"


class WorkPlacementSpec(Model):
    """`spec` of a WorkPlacement.

    Attributes:
        generation: of the Work that it was made from.
    """

    target_destination_name: str = Field(min_length=1)
    promise_name: str = ""
    resource_name: str = ""
    id: str = ""
    generation: int = 0
    workloads: tuple[Workload, ...] = Field((), repr=False)


class WorkPlacement(Resource):
    """A `WorkPlacement`: one group of a Work at one Destination."""

    spec: WorkPlacementSpec

    @property
    def pipeline(self) -> str:
        """The pipeline that its documents come from; empty where none is named."""
        return self.metadata.labels.get(PIPELINE_LABEL, "")

    def __str__(self) -> str:
        return f"WorkPlacement {self.metadata.namespace}/{self.name}"


def destination_of(placement: Mapping[str, Any]) -> str:
    """Return the Destination that a WorkPlacement's metadata names; empty where it names none."""
    return str((placement["metadata"].get("labels") or {}).get(DESTINATION_LABEL, ""))
