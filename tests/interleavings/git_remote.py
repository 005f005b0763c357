"""A Git server in memory: fetches, and pushes that move a branch only from where they saw it.

It stands where dulwich's client stands (`Endpoint.client`), so that our own planning, packing, pushing, settling and
trying again run.
"""

import io
import stat
from collections.abc import Callable, Mapping
from typing import Any, Final

from dulwich.client import FetchPackResult, SendPackResult
from dulwich.errors import HangupException
from dulwich.object_format import SHA1
from dulwich.objects import Blob, Commit, ObjectID, ShaFile, Tree
from dulwich.pack import write_pack_objects
from dulwich.refs import Ref

from shared.errors import AccessDenied
from shared.writers.git import remote as remotes
from shared.writers.git.session import ConnectionLost, Session
from shared.writers.words import Redactor
from tests.interleavings.machine import Access, Machine

_REF: Final = Ref(b"refs/heads/main")
_TYPES: Final[Mapping[int, type[ShaFile]]] = {kind.type_num: kind for kind in (Commit, Tree, Blob)}


class Remote:
    """A repository with one branch.

    Attributes:
        tip: of the branch.
        objects: by id; they are never changed, so forks share them.
        denied: how many of the next connections are denied.
    """

    def __init__(self, machine: Machine, name: str, tip: ObjectID, objects: dict[ObjectID, ShaFile]) -> None:
        self.machine = machine
        self.name = name
        self.tip = tip
        self.objects = objects
        self.denied = 0
        self._packs: dict[ObjectID, bytes] = {}
        self._files: dict[ObjectID, dict[str, bytes]] = {}

    @classmethod
    def with_files(cls, machine: Machine, name: str, files: Mapping[str, bytes]) -> "Remote":
        """Return a repository with one commit."""
        remote = cls(machine, name, ObjectID(b""), {})
        remote.commit(files, ())
        return remote

    def fork(self, machine: Machine) -> "Remote":
        """Return a repository that begins with the same commits."""
        other = Remote(machine, self.name, self.tip, self.objects)
        other._packs, other._files = self._packs, self._files
        return other

    def commit(self, puts: Mapping[str, bytes], deletes: Any) -> None:
        """Change files as somebody else would."""
        files = dict(self.files()) if self.tip else {}
        files = {path: content for path, content in (files | dict(puts)).items() if path not in deletes}
        commit = Commit()
        commit.tree = self._tree(files)
        commit.parents = [self.tip] if self.tip else []
        commit.author = commit.committer = b"somebody <somebody@example.com>"
        commit.author_time = commit.commit_time = int(self.machine.now)
        commit.author_timezone = commit.commit_timezone = 0
        commit.message = b"Something of somebody's"
        self.objects[commit.id] = commit
        self.tip = commit.id

    def files(self) -> dict[str, bytes]:
        """Return every file of the branch."""
        known = self._files.get(self.tip)
        if known is None:
            known = self._files[self.tip] = dict(self._walk(self._commit(self.tip).tree, ""))
        return known

    def take(self, objects: list[ShaFile]) -> None:
        """Keep what was pushed."""
        self.objects.update((obj.id, obj) for obj in objects)

    def pack(self, commit: ObjectID, *, blobs: bool) -> bytes:
        """Return a pack of a commit with its trees, and with files' contents where they are asked for."""
        known = self._packs.get(commit)
        if known is None or blobs:
            found: list[ShaFile] = [self.objects[commit]]
            waiting = [self._commit(commit).tree]
            while waiting:
                tree = self.objects[waiting.pop()]
                assert isinstance(tree, Tree)
                found.append(tree)
                waiting += [entry.sha for entry in tree.iteritems() if stat.S_ISDIR(entry.mode)]
                if blobs:
                    found += [self.objects[e.sha] for e in tree.iteritems() if not stat.S_ISDIR(e.mode)]
            packed = self.packed(list({obj.id: obj for obj in found}.values()))
            if blobs:
                return packed
            known = self._packs[commit] = packed
        return known

    @staticmethod
    def packed(objects: list[ShaFile]) -> bytes:
        """Return a pack."""
        content = io.BytesIO()
        write_pack_objects(content, objects, SHA1, deltify=False, compression_level=0)
        return content.getvalue()

    def _commit(self, sha: ObjectID) -> Commit:
        commit = self.objects[sha]
        assert isinstance(commit, Commit)
        return commit

    def _walk(self, sha: ObjectID, at: str) -> Any:
        tree = self.objects[sha]
        assert isinstance(tree, Tree)
        for entry in tree.iteritems():
            path = f"{at}{entry.path.decode()}"
            if stat.S_ISDIR(entry.mode):
                yield from self._walk(entry.sha, f"{path}/")
            else:
                yield path, self.objects[entry.sha].as_raw_string()

    def _tree(self, files: Mapping[str, bytes]) -> ObjectID:
        tree = Tree()
        below: dict[str, dict[str, bytes]] = {}
        for path, content in files.items():
            first, _, rest = path.partition("/")
            if rest:
                below.setdefault(first, {})[rest] = content
            else:
                blob = Blob.from_string(content)
                self.objects[blob.id] = blob
                tree[first.encode()] = (stat.S_IFREG | 0o644, blob.id)
        for name, inside in below.items():
            tree[name.encode()] = (stat.S_IFDIR, self._tree(inside))
        self.objects[tree.id] = tree
        return tree.id


class Endpoint:
    """What the Git writer has instead of a server's address and credentials."""

    def __init__(self, server: Remote, url: str) -> None:
        self.remote = remotes.parse(url)
        self.path = ""
        self.redactor = Redactor()
        self._server = server

    def client(self, session: Session) -> Any:
        """Return a client that lives as long as the session."""
        return GitClient(self._server, session)

    def forget(self) -> bool:
        """There are no other credentials."""
        return False


class GitClient:
    """What `Repository` has instead of dulwich's client."""

    def __init__(self, server: Remote, session: Session) -> None:
        self._server = server
        self._session = session

    def fetch_pack(
        self,
        path: bytes,
        determine_wants: Callable[..., list[ObjectID]],
        graph_walker: object,
        pack_data: Callable[[bytes], int],
        *,
        depth: int | None = None,
        filter_spec: bytes | None = None,
        **_: object,
    ) -> FetchPackResult:
        """Fetch from where the branch is now; what is wanted stays there, whoever pushes meanwhile."""
        refs = self._advertised("fetch")
        wants = determine_wants(dict(refs))
        if wants:
            server = self._server

            def pack() -> bytes:
                whole = [want for want in wants if isinstance(server.objects[want], Commit)]
                if whole:
                    return server.pack(whole[0], blobs=filter_spec is None)
                return server.packed([server.objects[want] for want in wants])

            pack_data(pack())
        return FetchPackResult(dict(refs), {}, b"in-memory", object_format=SHA1.name)

    def send_pack(
        self,
        path: bytes,
        update_refs: Callable[[dict[Ref, ObjectID]], dict[Ref, ObjectID]],
        generate_pack_data: Callable[..., tuple[int, Any]],
        progress: Callable[[bytes], None] | None = None,
        **_: object,
    ) -> SendPackResult:
        """Push as Git's protocol does: the server moves the branch only if it still is where it was advertised."""
        server = self._server
        refs = self._advertised("look before a push")
        wanted = {ref: new for ref, new in update_refs(dict(refs)).items() if refs.get(ref) != new}
        if not wanted:
            return SendPackResult(dict(refs), ref_status={})
        (new,) = wanted.values()
        unpacked = generate_pack_data(set(), set(wanted.values()), ofs_delta=True)[1]
        objects = [_TYPES[each.pack_type_num].from_string(b"".join(each.decomp_chunks)) for each in unpacked]
        before = refs.get(_REF)

        def swap() -> dict[bytes, str | None]:
            if server.tip != before:
                return {_REF: "failed to update ref"}
            server.take(objects)
            server.tip = new
            return {_REF: None}

        status = self._call("push", swap, writes=True)
        return SendPackResult(dict(refs), ref_status=status)

    def _advertised(self, what: str) -> dict[Ref, ObjectID]:
        server = self._server

        def look() -> dict[Ref, ObjectID]:
            if server.denied:
                server.denied -= 1
                raise AccessDenied("git.example.com does not allow this")
            return {Ref(b"HEAD"): server.tip, _REF: server.tip}

        found: dict[Ref, ObjectID] = self._call(what, look, writes=False)
        return found

    def _call(self, what: str, apply: Callable[[], Any], *, writes: bool) -> Any:
        access = Access(f"git:{self._server.name}", writes=writes)
        timeout = self._session.timeout()
        return self._server.machine.call_in_thread(
            what,
            access,
            apply,
            _ERRORS,
            timeout=timeout,
            late=lambda: ConnectionLost("git.example.com did not answer in time"),
        )


_ERRORS: Final = (lambda: HangupException(), lambda: ConnectionLost("git.example.com is in trouble (503)"))
