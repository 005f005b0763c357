"""Several files of YAML joined into one stream that has the same documents (mode aggregatedYAML).

Kratix puts a line `---` between two files, whatever they are. Where the stream has the same documents as the files,
these are our bytes too. It has others where a file begins with its own `---`, with directives or with a byte order
mark, where a file holds nothing, and where the last value of a file goes to its very end (YAML 1.2.2, chapters 8.1.1.2
and 9.1).
"""

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from yaml import Event

# A value in block style is looked at only where its end can matter, and in files of a size that people write.
MAX_SCANNED_BYTES: Final = 4 * 1024 * 1024
MAX_DEPTH: Final = 100  # of flow collections, whose cost grows with the square of their depth

_LEADING: Final = re.compile(rb"(?:[ \t]*(?:#[^\r\n]*)?(?:\r\n|\r|\n))*+")
_NOTHING: Final = re.compile(rb"[ \t]*(?:#[^\r\n]*)?")
_MARKER: Final = re.compile(rb"---(?=[ \t\r\n]|\Z)")
_BLOCK: Final = re.compile(rb"[|>][-+1-9]{0,2}[ \t]*(?:[ \t]#[^\r\n]*)?(?:[\r\n]|\Z)")
_KEEP: Final = re.compile(rb"[|>][1-9]?\+")
_UTF16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class _What(Enum):
    """What a file begins with, after blank lines and comments."""

    NOTHING = "no document"
    BARE = "a document without a marker"
    MARKER = "---"
    DIRECTIVES = "%"


@dataclass(frozen=True, slots=True)
class _Begin:
    """How a file begins: with what, at which byte, and whether comments stand before it."""

    what: _What
    at: int
    commented: bool


def join(files: Iterable[bytes]) -> bytes:
    """Return one stream whose documents are those of the files, in their order.

    What is no YAML is joined as Kratix joins it.
    """
    contents = list(files)
    if len(contents) == 1:
        return contents[0]
    first, *others = contents
    pieces = [_utf8(first)]
    begun = _begin(_without_mark(pieces[0])).what is not _What.NOTHING  # whether there has been a document
    comments = b""  # of files without a document, on their way to the next one
    for content in others:
        file = comments + _without_mark(_utf8(content))
        begin = _begin(file)
        if begin.what is _What.NOTHING:
            comments = file if file.endswith((b"\r", b"\n")) else file + b"\n"
            continue
        comments = b""
        pieces[-1] = _closed(pieces[-1])
        if begin.what is _What.BARE:
            pieces.append(b"---\n")
        elif begun and (begin.commented or begin.what is _What.DIRECTIVES):
            pieces.append(b"...\n")  # neither may stand in the document before
        else:
            file = file[begin.at :]  # blank lines could be the last value's
        pieces.append(file)
        begun = True
    if comments.strip():
        pieces[-1] = _closed(pieces[-1])
        pieces += [b"...\n", comments] if begun else [comments]
    return b"".join(pieces)


def _utf8(file: bytes) -> bytes:
    """Return a file in UTF-8, which one stream has to be in as a whole."""
    try:
        return file.decode("utf-16").encode() if file.startswith(_UTF16) else file
    except UnicodeDecodeError:
        return file


def _without_mark(file: bytes) -> bytes:
    return file.removeprefix(codecs.BOM_UTF8)


def _begin(file: bytes) -> _Begin:
    leading = _LEADING.match(file)
    at = 0 if leading is None else leading.end()
    commented = b"#" in file[:at]
    if _NOTHING.fullmatch(file, at):
        return _Begin(_What.NOTHING, at, commented)
    if file.startswith(b"%", at):
        return _Begin(_What.DIRECTIVES, at, commented)
    return _Begin(_What.MARKER if _MARKER.match(file, at) else _What.BARE, at, commented)


def _closed(file: bytes) -> bytes:
    """Return a file so that a line with a marker can follow without changing the last value of the file."""
    usual = file + b"\n"
    ended = file.endswith((b"\r", b"\n"))
    if len(file) > MAX_SCANNED_BYTES or not (_KEEP if ended else _BLOCK).search(file):
        return usual
    value, at = _last_value(file)
    if at is None or _last_value(usual + b"...\n")[0] == value:
        return usual
    if ended and _last_value(file + b"...\n")[0] == value:
        return file  # a further line end would be one of the value's own
    stripped = _stripped(file, at) + b"\n"  # the value has no line end, and in a stream it would get one
    return stripped if _last_value(stripped + b"...\n")[0] == value else usual


def _last_value(file: bytes) -> tuple[str, int | None]:
    """Return the last scalar of a file, and where in its text it begins; None where it is not in block style."""
    value, at = "", None
    for event in _events(file):
        if hasattr(event, "value"):
            value = event.value
            mark: Any = event.start_mark
            at = mark.index if getattr(event, "style", None) in {"|", ">"} else None
    return value, at


def _events(file: bytes) -> "Iterator[Event]":
    """Yield the events of a file up to the first thing that is no YAML."""
    import yaml  # noqa: PLC0415 -- most files need none

    depth = 0
    try:
        for event in yaml.parse(file.decode(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            name = type(event).__name__
            depth += name.endswith("StartEvent") - name.endswith("EndEvent")
            if depth > MAX_DEPTH:
                return
            yield event
    except (yaml.YAMLError, ValueError):  # a ValueError is what is no Unicode
        return


def _stripped(file: bytes, at: int) -> bytes:
    """Return a file whose block scalar at a place of its text has no line end: `|-` in the place of `|` and `|+`."""
    text = file.decode()
    header = re.compile(r"([|>])[-+]?([1-9]?)[-+]?")
    match = header.match(text, at)
    if match is None:
        return file
    return f"{text[:at]}{match[1]}{match[2]}-{text[match.end() :]}".encode()
