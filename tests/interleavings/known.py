"""Schedules that show failures of docs/failure-modes.md, each by its number.

A schedule whose failure is mended moves from `KNOWN` to `MENDED`, and must stay right there.
"""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Final

# By number of the failure: schedules that end wrong while it is not mended.
KNOWN: Final[Mapping[int, tuple[str, ...]]] = {}
# Those that are, and stay so.
MENDED: Final[Mapping[int, tuple[str, ...]]] = {
    # The deletion looks before the write's puts, finds nothing and lets go; the write's second look comes before that.
    28: (
        "placement/nestedByMetadata/bucket/write+delete:s10,t23",
        "placement/aggregatedYAML/git/write+delete:s9,t23",
        "placement/none/bucket/write+delete:s19",
    ),
    # Two generations at once; a deletion by a state file that does not yet name what is on its way.
    29: ("placement/none/bucket/write+update:s19", "placement/none/bucket/update+delete:l22"),
    # Killed between its write and its second look, after the deletion was done.
    30: (
        "placement/nestedByMetadata/bucket/write+delete:s10,k42",
        "placement/nestedByMetadata/git/write+delete:s10,k35",
    ),
    # The message of the old object and that of the new one in one batch.
    32: ("placement/nestedByMetadata/bucket/update+recreate:s4,m32",),
    # Works are listed, a group is added and placed, WorkPlacements are listed.
    33: ("work/nestedByMetadata/bucket/resync+update:s37",),
    # The message of a Destination that has moved onto an older one's path meanwhile.
    34: ("destination/nestedByMetadata/bucket/touch+take-over:s11",),
    # The Destination goes between the reading of Destinations and the creation of the WorkPlacement.
    35: ("work/nestedByMetadata/bucket/write+delete-destination:s21",),
    # A moved Destination leaves everything at its old path.
    46: ("destination/nestedByMetadata/bucket/update+move:",),
    # The Destination is relabelled between the reading of Destinations and the creation; there and back again.
    54: ("work/none/bucket/relabel+relabel-back:s15,m16", "work/aggregatedYAML/git/relabel+relabel-back:s15,m28"),
    # A failure that is reported late, after the success that had nothing to say.
    31: (
        "destination/nestedByMetadata/bucket/flaky+resync:k43",
        "destination/nestedByMetadata/git/flaky+resync:",
    ),
}

# Pairs of operations that end wrong in some schedule with one preemption while a failure is not mended: the failure's
# number by a pattern of their names. A pattern that nothing wrong fits any more has to go.
PAIRS: Final[Mapping[str, int]] = {
    # The younger one is refused (docs/decisions/0002-shared-directories.md); the oracle asks for the documents of both.
    "placement/nestedByMetadata/*/write+twin": 53,
}

# What random schedules find while a failure is not mended: by what the oracle says, the failure's number.
RANDOM: Final[Mapping[str, int]] = {}


def unknown(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """Return what is wrong at rest, or after a resync, and is of no failure that is known."""
    return [sentence for sentence in after or before if not any(re.match(kind, sentence) for kind in RANDOM)]


def failure_of(scenario: str) -> int | None:
    """Return the number of a failure that makes a scenario end wrong; None where all is to be right."""
    return next((number for pattern, number in PAIRS.items() if fnmatch(scenario, pattern)), None)
