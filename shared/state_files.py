"""State files of mode none: `files:`, a list of paths, in a List without items; read and written within bounds.

Kratix writes `files:` alone and reads that key alone. Agents that apply every YAML file of a directory must accept the
file and apply nothing of it: kustomize (and so Flux), Argo CD and kubectl replace a List by its items (docs/agents.md).

Other programs may write to a State Store, so a state file is read as a stream of YAML events. Only the list is built
from it, and reading ends at the first event that a state file does not have
(docs/failure-modes.md#45-hostile-state-files).
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from shared.errors import InvalidObject

if TYPE_CHECKING:
    from yaml import Event

MAX_FILES: Final = 200_000  # named by one state file
MAX_DEPTH: Final = 8  # of what stands beside the list
MAX_ASIDE: Final = 1_000  # events of what stands beside the list
_HEADER: Final = (
    "# The files of one WorkPlacement. It is a List without items, so that agents apply nothing of it.\n"
    "apiVersion: v1\nkind: List\nitems: []\n"
)
_NOTHING: Final = frozenset({"", "~", "null", "Null", "NULL"})
_STRINGS: Final = frozenset({None, "!", "tag:yaml.org,2002:str"})


class _Broken(Exception):
    """Not a state file; the text says why."""


def write(files: Iterable[str]) -> bytes:
    """Return the content of a state file."""
    import yaml  # noqa: PLC0415 -- for mode none alone

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text = yaml.dump({"files": list(files)}, Dumper=dumper, default_flow_style=False, width=2**16)
    return f"{_HEADER}{text}".encode()


def read(content: bytes, where: str) -> list[str]:
    """Return the files that a state file names; none if it is empty.

    Args:
        content: of the file.
        where: what to call it in a message.

    Raises:
        InvalidObject: it is not a state file; nothing is deleted by it.
    """
    import yaml  # noqa: PLC0415 -- for mode none alone

    reader = _Reader()
    try:
        for event in yaml.parse(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            reader.take(*_plain(event))
    except _Broken as error:
        why = str(error)
    except (yaml.YAMLError, ValueError):  # a ValueError means that it is not Unicode
        why = "it is not YAML"
    else:
        return reader.files
    raise InvalidObject(f"{where} is not a valid state file ({why}): delete it, and it will be written again")


class _Reader:
    """Reads the events of a state file one by one.

    Attributes:
        files: the paths read so far.
    """

    def __init__(self) -> None:
        self.files: list[str] = []
        self._key: str | None = None  # of the map, when its value is next or under way
        self._depth = self._documents = self._aside = 0

    def take(self, kind: str, text: str) -> None:
        """Read one event: its kind, and its text if it is a scalar."""
        if kind.startswith(("Stream", "Document")):
            self._documents += kind == "DocumentStart"
            if self._documents > 1:
                raise _Broken("it has a second document")
            return
        if self._depth == 0:
            if kind != "MappingStart" and not _is_nothing(kind, text):
                raise _Broken("it is not a map")
        elif self._key == "files":
            self._take_files(kind, text)
        else:
            self._take_other(kind)
        if self._depth == 1 and kind == "Scalar":
            self._key = text if self._key is None else None
        self._depth += kind.endswith("Start") - kind.endswith("End")
        if self._depth == 1 and kind.endswith("End"):
            self._key = None

    def _take_files(self, kind: str, text: str) -> None:
        if self._depth == 1:
            if kind != "SequenceStart" and not _is_nothing(kind, text):
                raise _Broken("`files` is not a list of paths")
        elif kind == "Scalar":
            self.files.append(text)
            if len(self.files) > MAX_FILES:
                raise _Broken(f"it names over {MAX_FILES} files")
        elif kind != "SequenceEnd":
            raise _Broken("`files` is not a list of paths")

    def _take_other(self, kind: str) -> None:
        self._aside += 1
        if self._aside > MAX_ASIDE or self._depth > MAX_DEPTH:
            raise _Broken("it holds too much beside `files`")
        if self._depth == 1 and self._key is None and kind not in {"Scalar", "MappingEnd"}:
            raise _Broken("a key is not text")


def _is_nothing(kind: str, text: str) -> bool:
    return kind == "Scalar" and text in _NOTHING


def _plain(event: "Event") -> tuple[str, str]:
    """Return an event's kind and text, if a state file can have it."""
    kind = type(event).__name__.removesuffix("Event")
    if kind == "Alias" or getattr(event, "anchor", None) is not None:
        raise _Broken("it has an anchor or an alias")
    if getattr(event, "tag", None) not in _STRINGS:
        raise _Broken("it has a tag")
    return kind, str(getattr(event, "value", ""))
