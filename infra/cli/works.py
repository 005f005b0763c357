"""Works without gzip and base64 by hand: made from a folder, shown, and unpacked."""

import base64
import gzip
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from infra.cli.fleet import ready_of
from infra.cli.output import Output, count, status_text
from infra.cli.session import Session
from shared import paths
from shared.documents import inflate
from shared.errors import InvalidObject, KubernetesConflict, KubernetesError, LandfallError
from shared.kube import Object, key_of
from shared.resources import API_VERSION, is_label_value, is_object_name
from shared.works import WORK_LABEL

_GROUP_DIRECTORY: Final = "."
# Kratix's own id of the one group of a Promise that names no directories: the MD5 of its directory.
_GROUP_ID: Final = hashlib.md5(_GROUP_DIRECTORY.encode(), usedforsecurity=False).hexdigest()
# etcd takes 1.5 MiB by default, and a Work's documents are in it and in each of its WorkPlacements.
_MAX_OBJECT_BYTES: Final = 1_500_000


@dataclass(frozen=True)
class Wanted:
    """A Work to be made.

    Attributes:
        folder: whose files become its documents, by their paths below it.
        promise: what it belongs to; a part of the documents' directory.
        resource: of a resource request, its name; such a Work goes to one Destination, any other to all that match.
        labels: that a Destination must have.
    """

    name: str
    namespace: str
    folder: Path
    promise: str
    resource: str
    labels: Mapping[str, str]


def work_of(wanted: Wanted) -> Object:
    """Return the Work.

    Raises:
        InvalidObject: a name or a path is refused, or the folder cannot be read or is empty.
    """
    if not is_object_name(wanted.name) or not is_label_value(wanted.name):
        raise InvalidObject(f"invalid name {wanted.name!r}: must be an RFC 1123 DNS subdomain of at most 63 characters")
    workloads = [{"filepath": path, "content": pack(content)} for path, content in _files(wanted.folder)]
    if not workloads:
        raise InvalidObject(f"{wanted.folder} holds no file: a Work needs one document at least")
    selector = {"matchLabels": dict(wanted.labels), "source": "promise"}
    group: dict[str, Any] = {"id": _GROUP_ID, "directory": _GROUP_DIRECTORY}
    if wanted.labels:
        group["destinationSelectors"] = [selector]
    spec: dict[str, Any] = {"promiseName": wanted.promise}
    if wanted.resource:
        spec["resourceName"] = wanted.resource
    size = sum(len(workload["content"]) for workload in workloads)
    if size > _MAX_OBJECT_BYTES:
        raise InvalidObject(
            f"{wanted.folder} takes {size:,} bytes packed, over {_MAX_OBJECT_BYTES:,}: split it over several Works"
        )
    return {
        "apiVersion": API_VERSION,
        "kind": "Work",
        "metadata": {"name": wanted.name, "namespace": wanted.namespace},
        "spec": {**spec, "workloadGroups": [{**group, "workloads": workloads}]},
    }


def pack(content: bytes) -> str:
    """Return a document as Works carry it: base64 of gzip, the same for the same content."""
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    if not folder.is_dir():
        raise InvalidObject(f"{folder} is not a folder: name one with the documents in it")
    for file in sorted(folder.rglob("*")):
        if file.is_symlink():
            raise InvalidObject(f"{file} is a symlink: put a file there")
        if file.is_file():
            path = file.relative_to(folder).as_posix()
            try:
                yield paths.check(path, "path"), file.read_bytes()
            except OSError as error:
                raise InvalidObject(f"{file} cannot be read ({type(error).__name__})") from None


async def create(work: Object, session: Session, *, replace: bool) -> str:
    """Create a Work, or replace one of its name; return what was done.

    Raises:
        KubernetesError: there is one of that name, or the API server refuses it.
    """
    namespace, name = key_of(work)
    try:
        if await session.cluster.create(work, session.deadline) is None:
            raise KubernetesError(f"namespace {namespace} not found: create it, or name another with --namespace")
    except KubernetesConflict:
        if not replace:
            raise KubernetesError(f"work/{name} already exists: give --replace to change it") from None
    else:
        return "created"
    known = await session.cluster.get("Work", namespace, name, session.deadline)
    if known is None:
        raise KubernetesError(f"work/{name} was deleted meanwhile: run this again")
    cleared = {field: None for field in known.get("spec") or {} if field not in work["spec"]}
    await session.cluster.patch({**known, "kind": "Work"}, {"spec": {**cleared, **work["spec"]}}, session.deadline)
    return "configured"


@dataclass(frozen=True, slots=True)
class Document:
    """A document of a Work.

    Attributes:
        group: id of its workload group.
        path: its filepath.
        content: inflated; None where it cannot be.
        problem: why it cannot be.
    """

    group: str
    path: str
    content: bytes | None
    problem: str = ""


def documents_of(work: Object, limit: int) -> list[Document]:
    """Return a Work's documents.

    Args:
        work: as the API server has it.
        limit: bytes that a document may inflate to.
    """
    found: list[Document] = []
    for group in (work.get("spec") or {}).get("workloadGroups") or ():
        for workload in group.get("workloads") or ():
            path, content = str(workload.get("filepath")), str(workload.get("content") or "")
            try:
                found.append(Document(str(group.get("id")), path, inflate(content, limit, repr(path))))
            except LandfallError as error:
                found.append(Document(str(group.get("id")), path, None, str(error)))
    return found


def extract(documents: Sequence[Document], folder: Path) -> list[Path]:
    """Write documents into a folder; those of several groups into a folder a group.

    Raises:
        InvalidObject: a path would leave the folder, a file is there, or a document cannot be inflated.
    """
    groups = {document.group for document in documents}
    written: dict[Path, bytes] = {}
    for document in documents:
        if document.content is None:
            raise InvalidObject(document.problem)
        path = paths.check(document.path, "filepath")
        target = folder / paths.check(document.group, "group id") / path if len(groups) > 1 else folder / path
        if target.exists() or target in written:
            raise InvalidObject(f"{target} exists: name an empty folder")
        written[target] = document.content
    for target, content in written.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.parent.resolve().is_relative_to(folder.resolve()):
            raise InvalidObject(f"{target.parent} leads out of {folder} through a symlink: name an empty folder")
        target.write_bytes(content)
    return list(written)


async def placements_of(work: Object, session: Session) -> list[Object]:
    """Return a Work's WorkPlacements, by name."""
    namespace, name = key_of(work)
    if not is_label_value(name):
        return []
    found = await session.cluster.list_all("WorkPlacement", session.deadline, {WORK_LABEL: name}, namespace=namespace)
    return sorted(found, key=key_of)


def work_data(work: Object, documents: Sequence[Document], placements: Sequence[Object]) -> dict[str, Any]:
    """Return a Work for JSON and YAML; contents are not in it, as a document may be a Secret."""
    spec, ready = work.get("spec") or {}, ready_of(work)
    return {
        "name": "/".join(key_of(work)),
        "promise": spec.get("promiseName", ""),
        "resource": spec.get("resourceName", ""),
        "ready": {part: ready.get(part) for part in ("status", "reason", "message")},
        "documents": [
            {"group": one.group, "path": one.path}
            | ({"bytes": len(one.content)} if one.content is not None else {"problem": one.problem})
            for one in documents
        ],
        "workPlacements": [
            {
                "name": one["metadata"]["name"],
                "destination": (one.get("spec") or {}).get("targetDestinationName"),
                "ready": ready_of(one).get("status"),
                "reason": ready_of(one).get("reason"),
                "version": (one.get("status") or {}).get("versionID", ""),
            }
            for one in placements
        ],
    }


def print_work(work: Object, documents: Sequence[Document], placements: Sequence[Object], output: Output) -> None:
    """Print a Work: what it is, its documents, and where they are."""
    found = work_data(work, documents, placements)
    ready = found["ready"]
    words = f"  {ready['reason']}  {ready['message']}"
    output.line((f"work/{found['name']}", "bold"), "  Ready ", status_text(str(ready["status"])), words)
    output.line(
        f"  of Promise {found['promise'] or '(none)'}", f", resource {found['resource']}" if found["resource"] else ""
    )
    for group in (work.get("spec") or {}).get("workloadGroups") or ():
        labels: dict[str, str] = {}
        for selector in group.get("destinationSelectors") or ():
            labels |= selector.get("matchLabels") or {}
        where = ", ".join(f"{name}={value}" for name, value in sorted(labels.items())) or "any Destination"
        mine = [one for one in documents if one.group == str(group.get("id"))]
        output.heading(f"Group {str(group.get('id'))[:5]}: {count(len(mine), 'document')} for {where}")
        rows = [(one.path, one.problem or f"{len(one.content or b''):,} bytes") for one in mine]
        output.table(("FILEPATH", "SIZE"), rows)
    output.heading("WorkPlacements")
    if not placements:
        output.line("none yet")
        return
    placed = [
        (
            one["destination"] or "",
            status_text(str(one["ready"])),
            one["reason"] or "",
            one["version"][:12],
            one["name"],
        )
        for one in found["workPlacements"]
    ]
    output.table(("DESTINATION", "READY", "REASON", "VERSION", "NAME"), placed)
