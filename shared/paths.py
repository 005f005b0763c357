"""All building and checking of paths inside a State Store (docs/contract.md#paths, #refusals).

A path here is what a writer stores under: relative, `/`-separated, cleaned; `""` is the State Store's root.
"""

import re
from collections.abc import Iterable
from typing import Final

from shared.errors import InvalidObject, InvalidPath
from shared.resources import Destination, StateStore

CANARY_NAMESPACE: Final = "kratix-canary-namespace.yaml"
CANARY_CONFIGMAP: Final = "kratix-canary-configmap.yaml"

MAX_PART_BYTES: Final = 255  # the limit of the file systems that GitOps agents check documents out to
MAX_PATH_BYTES: Final = 1024  # S3's limit for a key

# Spellings of `.git` that Git refuses in every path (read-cache.c, verify_path), on whatever system it runs: a checkout
# of them would be the repository's own directory. In any case, besides `.git` itself:
# - NTFS (path.c, is_ntfs_dotgit): its short name `git~1`, with trailing dots and spaces, and any alternate data stream.
_NTFS_DOT_GIT: Final = re.compile(r"(\.git|git~1)[. ]*(:.*)?", re.IGNORECASE | re.ASCII | re.DOTALL)
# - HFS+ (utf8.c, is_hfs_dotgit): with characters that it ignores in between.
_HFS_IGNORED: Final = dict.fromkeys((*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF))
_HFS_DOT_GIT: Final = re.compile(r"\.git", re.IGNORECASE | re.ASCII)


def check(path: str, what: str = "path") -> str:
    """Return a document's path as it is stored: checked, and without `.` parts and doubled slashes.

    Args:
        path: relative to wherever the document is to lie.
        what: the field's name, for the message.

    Raises:
        InvalidPath: the path is refused (docs/contract.md#refusals); the sentence says what to write instead.
    """
    if path.startswith("/"):
        raise InvalidPath(f"{what} {path!r} is absolute: write it without the leading /")
    cleaned = _clean(path, what)
    if not cleaned or path.endswith("/"):
        raise InvalidPath(f"{what} {path!r} names no file: write a file name")
    return cleaned


def check_directory(path: str, what: str) -> str:
    """Return a directory's path as it is stored; `/`, `.` and the empty path are the root.

    Raises:
        InvalidPath: as `check`; a leading `/` is allowed here and means nothing (joined and cleaned:
        docs/contract.md#paths).
    """
    return _clean(path, what)


def join(*parts: str) -> str:
    """Join checked paths; empty parts are left out."""
    return "/".join(part for part in parts if part)


def is_within(path: str, directory: str) -> bool:
    """Whether the path is the directory or lies below it: `a/b` lies in `a`, `ab` does not."""
    return not directory or path == directory or path.startswith(directory + "/")


def parents(path: str) -> Iterable[str]:
    """Yield the directories on the way to a path, the outermost first, without the root."""
    at = path.find("/")
    while at != -1:
        yield path[:at]
        at = path.find("/", at + 1)


def destination_root(store: StateStore, destination: Destination) -> str:
    """Return the directory that is the Destination's own in its State Store (docs/contract.md#paths).

    Raises:
        InvalidPath: one of the two paths is refused.
    """
    spec = destination.spec
    own = check_directory(spec.path, "spec.path") if spec.path else check_directory(destination.name, "metadata.name")
    return _limited(
        join(check_directory(store.spec.path, f"spec.path of {store.kind}/{store.name}"), own, _namespace(destination)),
        "spec.path",
    )


def canary_paths(root: str, destination: Destination) -> tuple[str, str]:
    """Return where the canary Namespace and the canary ConfigMap of a Destination lie (docs/contract.md#paths)."""
    if destination.spec.filepath.mode == "nestedByMetadata":
        return join(root, "dependencies", CANARY_NAMESPACE), join(root, "resources", CANARY_CONFIGMAP)
    return join(root, CANARY_NAMESPACE), join(root, CANARY_CONFIGMAP)


def check_filename(destination: Destination) -> None:
    """Check the one file of mode aggregatedYAML.

    Raises:
        InvalidObject: it is refused, or it is the name of a canary document.
    """
    if destination.spec.filepath.mode != "aggregatedYAML":
        return
    name = check(destination.spec.filepath.filename, "spec.filepath.filename")
    if name in {CANARY_NAMESPACE, CANARY_CONFIGMAP}:
        raise InvalidObject(f"spec.filepath.filename {name!r} is the name of a canary document: choose another")


def is_dot_git(part: str) -> bool:
    """Whether some file system takes a part of a path for `.git`, so that Git refuses the path.

    `.gitmodules`, `.gitattributes`, `.gitignore` and `.mailmap` are none: as files, they are ordinary documents, whose
    content a server may check.
    """
    ignoring = part if part.isascii() else part.translate(_HFS_IGNORED)
    return bool(_NTFS_DOT_GIT.fullmatch(part) or _HFS_DOT_GIT.fullmatch(ignoring))


def _namespace(destination: Destination) -> str:
    return destination.metadata.namespace


def _clean(path: str, what: str) -> str:
    parts = [part for part in path.split("/") if part not in {"", "."}]
    for part in parts:
        if part == "..":
            raise InvalidPath(f"{what} {path!r} contains '..', which leads out of its place: write the path itself")
        if is_dot_git(part):
            raise InvalidPath(f"{what} {path!r} contains {part!r}, which is Git's own: choose another name")
        if any(ord(char) < 0x20 or ord(char) == 0x7F or char == "\\" for char in part):  # noqa: PLR2004
            raise InvalidPath(f"{what} {path!r} contains a control character or a backslash: remove it")
        try:
            length = len(part.encode())
        except UnicodeEncodeError:
            raise InvalidPath(f"{what} {path!r} is not Unicode text: rename it") from None
        if length > MAX_PART_BYTES:
            raise InvalidPath(f"{what}: the part {part[:40]!r}… is over {MAX_PART_BYTES} bytes: shorten it")
    return _limited("/".join(parts), what)


def _limited(path: str, what: str) -> str:
    if len(path.encode()) > MAX_PATH_BYTES:
        raise InvalidPath(f"{what}: {path[:40]!r}… is over {MAX_PATH_BYTES} bytes: shorten it")
    return path
