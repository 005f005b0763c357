"""What a write would change in a State Store, found with the plan of the write itself and without writing."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from shared.plan import Edit, Existing, Plan, compute


@dataclass(frozen=True, slots=True)
class Preview:
    """What a batch of edits would do now.

    Attributes:
        plan: that a write of the same edits would carry out.
        replaced: of the plan's puts, the paths where a file is now.
        listed: by directory that was asked for, the paths of everything in it.
    """

    plan: Plan
    replaced: frozenset[str] = frozenset()
    listed: Mapping[str, frozenset[str]] = field(default_factory=dict)


def preview_of(
    edits: Sequence[Edit], existing: Existing, digest: Callable[[bytes], str], directories: Collection[str]
) -> Preview:
    """Return what the edits would change in what exists.

    Args:
        edits: with different ids.
        existing: what the State Store holds; complete in the directories.
        digest: the rule by which `existing` made its digests.
        directories: whose files are to be listed.

    Raises:
        TooLarge: a directory holds more than is looked at.
    """
    plan = compute(edits, existing, digest)
    found = {path: existing.look(path) for path in plan.puts}
    replaced = frozenset(path for path, one in found.items() if one is not None and one.type == "file")
    return Preview(plan, replaced, {directory: frozenset(existing.under(directory)) for directory in directories})
