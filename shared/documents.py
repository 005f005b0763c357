"""The bytes of documents, and the edits that bring them into a State Store (docs/contract.md#paths, #documents)."""

import base64
import binascii
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from shared import paths, state_files, yaml_streams
from shared.errors import InvalidObject, PathConflict
from shared.plan import Edit
from shared.resources import Destination, StateStore
from shared.works import WorkPlacement

STATE_FILES: Final = ".kratix"  # where mode none keeps its records


# Kratix marshals typed Kubernetes objects, which is where `spec: {}` and `status: {}` come from
# (docs/contract.md#paths).
CANARY_NAMESPACE: Final = b"""\
apiVersion: v1
kind: Namespace
metadata:
  name: kratix-worker-system
spec: {}
status: {}
"""
CANARY_CONFIGMAP: Final = b"""\
apiVersion: v1
data:
  canary: this confirms your infrastructure is reading from Kratix state stores
kind: ConfigMap
metadata:
  name: kratix-info
  namespace: kratix-worker-system
"""


def canary_edit(edit_id: str, destination: Destination, store: StateStore) -> Edit:
    """Return what a Destination's State Store is to hold: its canary documents, or none of them.

    Raises:
        InvalidObject: a path of the Destination or of its State Store is refused.
    """
    root = paths.destination_root(store, destination)
    paths.check_filename(destination)
    namespace, config_map = paths.canary_paths(root, destination)
    if destination.spec.init_workloads.enabled:
        return Edit(edit_id, destination.name, root, files={namespace: CANARY_NAMESPACE, config_map: CANARY_CONFIGMAP})
    return Edit(edit_id, destination.name, root, remove=frozenset({namespace, config_map}))


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one WorkPlacement may bring.

    Attributes:
        files: documents.
        file_bytes: of one document, inflated.
        placement_bytes: of all its documents, inflated.
    """

    files: int
    file_bytes: int
    placement_bytes: int


def inflate(content: str, limit: int, what: str) -> bytes:
    """Return a document's bytes from base64 of gzip.

    Args:
        content: as a WorkPlacement holds it.
        limit: bytes that it may inflate to; nothing beyond them is ever in memory.
        what: the document's name, for the message.

    Raises:
        InvalidObject: it is not base64, not gzip, cut off, or inflates past the limit.
    """
    try:
        packed = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidObject(f"the content of {what} is not base64: write base64 of gzip of the document") from None
    inflated = bytearray()
    while packed:  # gzip files may be joined (RFC 1952, section 2.2)
        inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            inflated += inflater.decompress(packed, limit - len(inflated) + 1)
        except zlib.error:
            raise InvalidObject(f"the content of {what} is not gzip: write base64 of gzip of the document") from None
        if len(inflated) > limit:
            raise InvalidObject(f"the content of {what} inflates to over {limit} bytes: split the document")
        if not inflater.eof:
            raise InvalidObject(f"the content of {what} is cut off: write all of the gzip")
        packed = inflater.unused_data
    return bytes(inflated)


def documents(placement: WorkPlacement, limits: Limits) -> dict[str, bytes]:
    """Return a WorkPlacement's documents by their checked filepath, in the spec's order.

    Raises:
        InvalidObject: a path or a content is refused; the sentence names the document.
    """
    workloads = placement.spec.workloads
    if len(workloads) > limits.files:
        raise InvalidObject(f"spec.workloads has {len(workloads)} documents, over {limits.files}: split the Work")
    found: dict[str, bytes] = {}
    left = limits.placement_bytes
    for number, workload in enumerate(workloads):
        path = paths.check(workload.filepath, f"spec.workloads[{number}].filepath")
        if path in found:
            raise InvalidObject(f"spec.workloads[{number}].filepath {path!r} is there twice: rename one of them")
        found[path] = inflate(workload.content, min(limits.file_bytes, left), repr(path))
        left -= len(found[path])
    return found


def placement_directory(root: str, placement: WorkPlacement) -> str:
    """Return the directory that is a WorkPlacement's own in mode nestedByMetadata; empty parts are left out.

    Raises:
        InvalidObject: a part is refused, or there is none, so that the directory would be everybody's.
    """
    spec = placement.spec
    own = [("spec.promiseName", spec.promise_name)]
    if spec.resource_name:
        own = [("metadata.namespace", placement.metadata.namespace), *own, ("spec.resourceName", spec.resource_name)]
    own += [("the pipeline label", placement.pipeline), ("spec.id", spec.id[:5])]
    parts = [_part(value, what) for what, value in own if value]
    if not spec.promise_name and not spec.id:
        raise InvalidObject("spec.promiseName and spec.id are empty: the WorkPlacement has no directory of its own")
    return paths.join(root, "resources" if spec.resource_name else "dependencies", *parts)


def nested_edit(edit_id: str, placement: WorkPlacement, root: str, files: Mapping[str, bytes]) -> Edit:
    """Return what makes a WorkPlacement's own directory hold exactly its documents (mode nestedByMetadata).

    Args:
        edit_id: the caller's name for it.
        placement: whose directory it is.
        root: the Destination's directory.
        files: by filepath; none where it is being deleted.

    Raises:
        InvalidObject: as `placement_directory`.
    """
    directory = placement_directory(root, placement)
    placed = {paths.join(directory, path): content for path, content in files.items()}
    return Edit(edit_id, placement.name, root, files=placed, prune=frozenset({directory}))


def state_file_path(root: str, placement: WorkPlacement) -> str:
    """Return where mode none records which files are a WorkPlacement's."""
    return paths.join(root, STATE_FILES, _part(f"{placement.metadata.namespace}-{placement.name}.yaml", "name"))


def state_file(destination: Destination, filepaths: Iterable[str]) -> bytes:
    """Return the state file that names a WorkPlacement's files as Kratix does: `<destination.path>/<filepath>`."""
    prefix = destination.spec.path or destination.name
    absolute = "/" if prefix.startswith("/") else ""
    own = paths.check_directory(prefix, "spec.path")
    return state_files.write(absolute + paths.join(own, path) for path in filepaths)


def recorded_files(record: bytes | None, destination: Destination) -> set[str]:
    """Return the filepaths that a record names, in either of the forms that Kratix has written.

    Raises:
        InvalidObject: the record is no record; nothing can be deleted by it.
    """
    if record is None:
        return set()
    own = paths.check_directory(destination.spec.path or destination.name, "spec.path")
    found = set()
    for path in state_files.read(record, f"the file under {STATE_FILES}/ that names its documents"):
        cleaned = paths.check(path.lstrip("/"), f"a path in a record under {STATE_FILES}/")
        found.add(cleaned.removeprefix(f"{own}/") if own else cleaned)
    return found


def flat_edit(
    edit_id: str,
    placement: WorkPlacement,
    destination: Destination,
    root: str,
    *,
    files: Mapping[str, bytes],
    recorded: set[str],
    others: Mapping[str, str],
    found: bytes | None = None,
) -> Edit:
    """Return what puts a WorkPlacement's documents right under the Destination's path, with their record (mode none).

    Args:
        edit_id: the caller's name for it.
        placement: whose documents they are.
        destination: that they go to.
        root: its directory.
        files: by filepath; none where the placement is being deleted.
        recorded: filepaths that its last record names; those that are not in `files` go.
        others: filepaths that are other WorkPlacements', with what to call those; they are never touched.
        found: the state file that lies there. One in another form (Kratix's own) that names the same files stays until
            a document changes.

    Raises:
        PathConflict: a filepath is another WorkPlacement's; the sentence names both.
        InvalidObject: a filepath is one of the system's own.
    """
    canaries = {paths.CANARY_NAMESPACE, paths.CANARY_CONFIGMAP}
    for path in files:
        if path in canaries or paths.is_within(path, STATE_FILES):
            raise InvalidObject(f"filepath {path!r} of {placement} is the system's own: rename the document")
        if path in others:
            raise PathConflict(
                f"{path!r} is wanted by {placement} and by {others[path]}, which has it: rename one of them"
            )
    record = state_file_path(root, placement)
    placed = {paths.join(root, path): content for path, content in files.items()}
    leaving = recorded - set(files) - set(others) - canaries
    going = frozenset(paths.join(root, path) for path in leaving)
    if placement.metadata.being_deleted:
        return Edit(edit_id, placement.name, root, remove=going | {record}, record=record)
    wanted = placed[record] = state_file(destination, files)
    interim = b"" if recorded.issuperset(files) else state_file(destination, [*files, *sorted(leaving)])
    same = found if found and recorded == set(files) and _names_the_same(found, wanted) else b""
    return Edit(edit_id, placement.name, root, files=placed, remove=going, record=record, interim=interim, same=same)


def _names_the_same(found: bytes, wanted: bytes) -> bool:
    return found != wanted and state_files.read(found, "it") == state_files.read(wanted, "it")


def aggregated_edit(edit_id: str, destination: Destination, root: str, contents: Sequence[bytes]) -> Edit:
    """Return the one file that holds all documents of a Destination, or its removal where there are none.

    Args:
        edit_id: the caller's name for it.
        destination: in mode aggregatedYAML.
        root: its directory.
        contents: in the order in which they are to stand.
    """
    path = paths.join(root, paths.check(destination.spec.filepath.filename, "spec.filepath.filename"))
    if not contents:
        return Edit(edit_id, destination.name, root, remove=frozenset({path}))
    return Edit(edit_id, destination.name, root, files={path: yaml_streams.join(contents)})


def _part(value: str, what: str) -> str:
    if "/" in value:
        raise InvalidObject(f"{what} {value!r} contains a /: it is one part of a path")
    return paths.check(value, what)
