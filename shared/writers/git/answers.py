"""The words of git itself for a push that it refuses, and the text that servers send beside."""

import re
from typing import Final

MAX_REMOTE_BYTES: Final = 8192  # of the text that a server sends beside its answer

# Git's and the forges' words for a rule that says no; another try would be told the same.
_RULE: Final = re.compile(r"declined|protected|GH0\d\d|not allowed|prohibited|deny|denied|cannot create", re.IGNORECASE)
# Git's words for a branch that moved, or is being moved, while we pushed.
_RACE: Final = re.compile(
    r"non-fast-forward|fetch first|failed to update ref|cannot lock ref|incorrect old value|stale info"
    r"|already exists|failed to lock|reference already|but expected",
    re.IGNORECASE,
)
# A system's words for a server that has no room; a pack that cannot be unpacked for any other reason is refused.
_FULL: Final = re.compile(
    r"no space left|disk quota exceeded|out of memory|cannot allocate memory|too many open files|input/output error"
    r"|read-only file system|resource temporarily unavailable",
    re.IGNORECASE,
)
_SICK: Final = re.compile(r"internal|time[d ]?-? ?out|temporar|unpack|try again|unavailable", re.IGNORECASE)
_PROGRESS: Final = re.compile(r":\s+\d+% \(")


def is_rule(words: str) -> bool:
    """Whether a rejection comes from a hook, a protected branch or another rule (never tried again)."""
    return _RULE.search(words) is not None


def is_race(words: str) -> bool:
    """Whether a rejection says that the branch moved or is locked."""
    return _RACE.search(words) is not None


def is_sick(words: str) -> bool:
    """Whether a rejection tells of trouble inside the server."""
    return _SICK.search(words) is not None


def is_full(words: str) -> bool:
    """Whether a rejection says that the server has no room or cannot write at all, whatever was pushed."""
    return _FULL.search(words) is not None


class RemoteText:
    """Collects what a server says on its progress channel (Git shows it as `remote: …`), within a bound."""

    def __init__(self) -> None:
        self._text = bytearray()

    def __call__(self, data: bytes) -> None:
        """Take a piece of text."""
        self._text += data[: max(0, MAX_REMOTE_BYTES - len(self._text))]

    def __str__(self) -> str:
        lines = re.split(r"[\r\n]+", self._text.decode("utf-8", "replace"))
        return "\n".join(line for line in lines if line.strip() and not _PROGRESS.search(line))
