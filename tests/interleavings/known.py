"""Schedules that show failures of shared/failures.md, each by its number.

A schedule whose failure is mended moves from `KNOWN` to `MENDED`, and must stay right there; `test_interleavings.py` runs both.
"""

from collections.abc import Mapping
from typing import Final

# By number of the failure: schedules that end wrong while it is not mended.
KNOWN: Final[Mapping[int, tuple[str, ...]]] = {
    # The deletion looks before the write's puts, finds nothing and lets go; the write's second look comes before the release.
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
    # Two WorkPlacements with one directory, one after the other.
    53: ("placement/nestedByMetadata/bucket/write+twin:",),
}
MENDED: Final[Mapping[int, tuple[str, ...]]] = {}
