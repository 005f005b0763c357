"""What is asked of a Git server: the branch, its trees, one file, one push. Library errors end here."""

import contextlib
import io
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import Final, Protocol, runtime_checkable

from dulwich.client import FetchPackResult
from dulwich.errors import (
    ApplyDeltaError,
    ChecksumMismatch,
    FileFormatException,
    GitProtocolError,
    HangupException,
    SendPackError,
)
from dulwich.object_format import SHA1
from dulwich.object_store import ObjectStoreGraphWalker
from dulwich.objects import Blob, Commit, ObjectID, ShaFile, Tree
from dulwich.pack import UnpackedObject, chunks_length, pack_objects_to_data
from dulwich.refs import Ref

from shared.errors import LandfallError, StateStoreNotReady, StoreUnavailable, TooLarge
from shared.writers.git.answers import RemoteText
from shared.writers.git.branch import Moved, OutcomeUnknown, Refused, Snapshot
from shared.writers.git.endpoint import GitEndpoint
from shared.writers.git.pack import PackLimits
from shared.writers.git.pack import objects as objects_of
from shared.writers.git.session import ConnectionLost, Session
from shared.writers.git.words import HTTPS, SSH
from shared.writers.words import find

HEAD: Final = Ref(b"HEAD")
_SHA1_LENGTH: Final = 40
Wants = Callable[[Mapping[Ref, ObjectID]], list[ObjectID]]
# What a malformed answer makes dulwich raise.
_MALFORMED: Final = (
    ApplyDeltaError,
    AssertionError,
    ChecksumMismatch,
    EOFError,
    FileFormatException,
    LookupError,
    OSError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


@runtime_checkable
class Talking(Protocol):
    """A client whose server says in words beside the protocol why it ends a session."""

    def said(self) -> str:
        """Return these words."""


class Repository:
    """One branch of one repository, for one session."""

    def __init__(self, endpoint: GitEndpoint, branch: str, session: Session) -> None:
        self._endpoint = endpoint
        self._ref = Ref(b"refs/heads/" + branch.encode())
        self._session = session
        with self._translated():
            self._client = endpoint.client(session)

    def fetch(self, blobs: Mapping[ObjectID, str] = MappingProxyType({})) -> Snapshot:
        """Return the branch with all its trees and no files' contents, as far as the server can leave those out.

        Args:
            blobs: by id, paths of files whose contents are wanted too; the server then is asked to leave nothing out.

        Raises:
            TooLarge: it is more than the settings allow.
        """
        self._session.give_back()  # the trees that these replace
        pack = io.BytesIO()
        wanted: list[ObjectID] = []

        def wants(refs: Mapping[Ref, ObjectID]) -> list[ObjectID]:
            tip = refs.get(self._ref) or refs.get(HEAD)
            wanted[:] = [] if tip is None else [tip]
            self._check_format(tip)
            return wanted

        with self._translated():
            result = self._fetch_pack(wants, pack, depth=1, filter_spec=None if blobs else b"blob:none")
            if result.object_format not in {None, SHA1.name}:
                raise self._sha256()
            tip = result.refs.get(self._ref)
            if not wanted:
                return Snapshot(tip=None, parent=None, root=None, raw={})
            raw: dict[bytes, bytes] = {}
            contents: dict[ObjectID, bytes] = {}
            root = None
            for unpacked in self._objects(pack, blobs=bool(blobs)):
                if unpacked.obj_type_num == Tree.type_num:
                    raw[_id(unpacked)] = b"".join(unpacked.obj_chunks or ())
                elif unpacked.obj_type_num == Commit.type_num and _id(unpacked) == wanted[0]:
                    root = _tree_of(b"".join(unpacked.obj_chunks or ()))
                elif blobs and unpacked.obj_type_num == Blob.type_num and (sha := _id(unpacked)) in blobs:
                    contents[sha] = self._content(unpacked, blobs[sha])
        if root is None:
            raise StoreUnavailable(f"{self._endpoint.remote} sent a pack without the branch's commit")
        snapshot = Snapshot(tip, wanted[0], root, raw, contents)
        self._session.need(snapshot.size + sum(map(len, contents.values())), "the branch")
        return snapshot

    def contents(self, files: Mapping[ObjectID, str]) -> dict[ObjectID, bytes]:
        """Return files' contents by their ids.

        Servers that give out only what a branch points at make this a fetch of the whole tree with all contents.

        Args:
            files: their paths by their ids.

        Raises:
            TooLarge: one of them, or all that has to be fetched for them, is more than the settings allow.
        """
        self._session.give_back()
        pack = io.BytesIO()
        found: dict[ObjectID, bytes] = {}
        try:
            with self._translated():
                self._fetch_pack(lambda _: list(files), pack)
                for unpacked in self._objects(pack, blobs=True):
                    if (sha := _id(unpacked)) in files:
                        found[sha] = self._content(unpacked, files[sha])
        except StoreUnavailable:
            self._session.check()
        missing = {sha: path for sha, path in files.items() if sha not in found}
        if missing:
            found |= self.fetch(blobs=missing).blobs
        if not found.keys() >= files.keys():
            raise StoreUnavailable(f"{self._endpoint.remote} does not give out a file of the branch")
        return found

    def advertised(self) -> ObjectID | None:
        """Return the branch's commit as the server tells those who may push; None where there is no such branch."""
        seen: dict[Ref, ObjectID] = {}

        def look(refs: dict[Ref, ObjectID]) -> dict[Ref, ObjectID]:
            seen.update(refs)
            return {}

        with self._translated():
            self._client.send_pack(self._endpoint.path.encode(), look, _nothing)
        return self._tip(seen)

    def push(self, base: ObjectID | None, new: ObjectID, objects: Sequence[ShaFile]) -> None:
        """Move the branch from one commit to another, or create it, if it still is where it was.

        Args:
            base: where the branch was; None where it did not exist.
            new: where it is to be; nothing happens where it is there already.
            objects: what the server does not have yet.

        Raises:
            Moved: it is elsewhere now; nothing was sent.
            Refused: the server said no.
            OutcomeUnknown: the answer did not arrive.
        """
        remote = RemoteText()
        sent = there = False

        def swap(refs: dict[Ref, ObjectID]) -> dict[Ref, ObjectID]:
            nonlocal there
            now = self._tip(refs)
            there = now == new
            if now not in {base, new}:
                raise Moved(now)
            return {self._ref: new}

        def pack(
            have: AbstractSet[ObjectID],
            want: AbstractSet[ObjectID],
            *,
            ofs_delta: bool = False,
            progress: object = None,
        ) -> tuple[int, Iterator[UnpackedObject]]:
            nonlocal sent
            del have, want, ofs_delta, progress
            sent = True
            return pack_objects_to_data(objects)

        try:
            with self._translated(remote), self._refused(remote):
                result = self._client.send_pack(self._endpoint.path.encode(), swap, pack, progress=remote)
        except StoreUnavailable as error:
            if sent:
                raise OutcomeUnknown(error) from None
            raise
        if there:
            return
        statuses = result.ref_status or {}
        if self._ref not in statuses:
            raise OutcomeUnknown(StoreUnavailable(f"{self._endpoint.remote} does not say what became of the branch"))
        status = statuses[self._ref]
        if status is not None:
            words = self._endpoint.redactor.words
            raise Refused(words(status), words(str(remote)))

    def _fetch_pack(
        self, wants: Wants, pack: io.BytesIO, *, depth: int | None = None, filter_spec: bytes | None = None
    ) -> FetchPackResult:
        """Fetch into a buffer; a server that breaks off over a depth or a filter is asked again without."""
        asked = False

        def take(data: bytes) -> int:
            self._session.need_all(pack.tell() + len(data), f"the pack of {self._endpoint.remote}")
            return pack.write(data)

        def choose(refs: Mapping[Ref, ObjectID], depth: int | None = None) -> list[ObjectID]:
            nonlocal asked
            del depth
            chosen = wants(refs)
            asked = bool(chosen)
            return chosen

        for tried in dict.fromkeys([(depth, filter_spec), (depth, None), (None, None)]):
            pack.seek(0)
            pack.truncate()
            try:
                return self._client.fetch_pack(
                    self._endpoint.path.encode(),
                    choose,
                    ObjectStoreGraphWalker([], lambda _: []),
                    take,
                    depth=tried[0],
                    ref_prefix=[HEAD, self._ref],
                    filter_spec=tried[1],
                )
            except GitProtocolError:
                if not asked or tried == (None, None):
                    raise
        raise AssertionError  # the loop's last round returns or raises

    def _objects(self, pack: io.BytesIO, *, blobs: bool) -> Iterator[UnpackedObject]:
        remote = str(self._endpoint.remote)
        what = f"the pack of {remote}"
        limits = PackLimits(
            self._session.settings.max_pack_bytes,
            blobs,
            lambda size: self._session.need_all(size, what),
            lambda size: self._session.need(size, what),
        )
        return objects_of(pack, limits, remote)

    def _content(self, unpacked: UnpackedObject, path: str) -> bytes:
        """Return a file's content, which is in memory twice for a moment; one that is too large never is."""
        chunks = unpacked.obj_chunks or []
        most = self._session.settings.max_file_bytes
        if chunks_length(chunks) > most:
            raise TooLarge(f"{path!r} is over LANDFALL_MAX_FILE_BYTES ({most} bytes)")
        return b"".join(chunks)

    def _tip(self, refs: Mapping[Ref, ObjectID]) -> ObjectID | None:
        tip = refs.get(self._ref)
        self._check_format(next(iter(refs.values()), None))
        return tip

    def _check_format(self, sha: ObjectID | None) -> None:
        if sha is not None and len(sha) != _SHA1_LENGTH:
            raise self._sha256()

    def _sha256(self) -> StateStoreNotReady:
        return StateStoreNotReady(
            f"the repository on {self._endpoint.remote} uses SHA-256 objects, which are not supported:"
            " use one with SHA-1"
        )

    @contextlib.contextmanager
    def _translated(self, remote: RemoteText | None = None) -> Iterator[None]:
        """Turn dulwich's errors into ours."""
        try:
            yield
        except HangupException as error:
            lines = b" ".join(error.stderr_lines or ()).decode("utf-8", "replace")
            raise self._hung_up(f"{lines} {remote or ''}") from None
        except GitProtocolError as error:
            raise self._hung_up(f"{remote or ''}", _text(error)) from None
        except _MALFORMED as error:
            raise self._hung_up(f"{remote or ''}", f"invalid Git protocol response, {type(error).__name__}") from None

    @contextlib.contextmanager
    def _refused(self, remote: RemoteText) -> Iterator[None]:
        """Turn what dulwich raises for a server's no into `Refused`."""
        words = self._endpoint.redactor.words
        try:
            yield
        except SendPackError as error:
            raise Refused(words(_text(error)), words(str(remote)), unpacking=True) from None
        except UnicodeDecodeError as error:
            if error.encoding != "utf-8":
                raise  # no status of a branch
            raise Refused(words(error.object), words(str(remote))) from None

    def _hung_up(self, text: str, problem: str = "") -> LandfallError:
        """Return the error for a session that the server has ended, by what it said.

        Args:
            text: the server's.
            problem: what dulwich made of it, which may be the server's own words, too (`ERR` of Git's protocol).
        """
        endpoint, client = self._endpoint, getattr(self, "_client", None)
        said = client.said() if isinstance(client, Talking) else ""
        words = endpoint.redactor.words(f"{text} {said}")
        everything = endpoint.redactor.words(f"{words} {problem}")
        table = SSH if endpoint.remote.scheme == "ssh" else HTTPS
        if (row := find(table, everything)) is not None:
            return row.meaning.error(f"{endpoint.remote} {row.advice}: {words or everything}")
        if words:  # an answer that no table knows
            return StoreUnavailable(f"{endpoint.remote} ended the session: {words}")
        return ConnectionLost(f"{endpoint.remote} broke off{f': {everything}' if everything else ''}")


def _id(unpacked: UnpackedObject) -> ObjectID:
    return ObjectID(unpacked.sha().hex().encode())


def _tree_of(commit: bytes) -> ObjectID:
    header, _, _ = commit.partition(b"\n")
    return ObjectID(header.removeprefix(b"tree "))


def _nothing(
    have: AbstractSet[ObjectID], want: AbstractSet[ObjectID], *, ofs_delta: bool = False, progress: object = None
) -> tuple[int, Iterator[UnpackedObject]]:
    del have, want, ofs_delta, progress
    return pack_objects_to_data([])


def _text(error: Exception) -> str:
    first = error.args[0] if error.args else ""
    return first.decode("utf-8", "replace") if isinstance(first, bytes) else str(first)
