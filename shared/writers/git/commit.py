"""What a commit says: who made it, and for which items."""

import time
from collections.abc import Sequence
from typing import Final

from dulwich.objects import Commit, ObjectID

from shared.resources import GitAuthor

MAX_NAMED: Final = 3  # labels in the first line; more are counted instead, and all are listed below
MAX_LABEL: Final = 200


def message(labels: Sequence[str]) -> str:
    """Return a commit's message.

    Args:
        labels: of the items that changed something, in their order; one item a line below the first line.
    """
    labels = [_line(label) for label in labels]
    names = list(dict.fromkeys(labels))
    subject = ", ".join(names) if len(names) <= MAX_NAMED else f"{len(names)} Destinations"
    return "\n".join([f"Update from: {subject}", "", *(f"- {label}" for label in labels), ""])


def identity(author: GitAuthor) -> bytes:
    """Return Git's `name <email>`, without the characters that would end a field (an empty email is Git's `<>`)."""
    name = _field(author.name) or GitAuthor().name
    return f"{name} <{_field(author.email)}>".encode()


def make(tree: ObjectID, parent: ObjectID | None, author: GitAuthor, labels: Sequence[str]) -> Commit:
    """Return the commit of a batch; without a parent it is a root commit."""
    commit = Commit()
    commit.tree = tree
    commit.parents = [] if parent is None else [parent]
    commit.author = commit.committer = identity(author)
    commit.author_time = commit.commit_time = int(time.time())
    commit.author_timezone = commit.commit_timezone = 0
    commit.encoding = b"UTF-8"
    commit.message = message(labels).encode("utf-8", "replace")
    return commit


def _line(label: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in label).split())[:MAX_LABEL]


def _field(text: str) -> str:
    # Git's own rule (ident.c): no line ends, no angle brackets, and no punctuation at the ends.
    return "".join(c for c in text if c.isprintable() and c not in "<>").strip(" .,:;\"'\\")
