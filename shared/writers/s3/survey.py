"""What a bucket holds, as far as a batch of edits concerns it, found with few calls."""

import hashlib
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Final

from shared import paths
from shared.deadline import Deadline
from shared.errors import AccessDenied
from shared.plan import MAX_WALKED, Edit, Listing
from shared.writers.s3.client import Bucket, Entry

# A page of 1,000 keys costs about as much as this many look-ups: the time to read its XML, and a round trip in which
# as many look-ups run side by side.
LOOKUPS_PER_PAGE: Final = 25
_LOOKUP_KEYS: Final = 2  # the key itself sorts first; one more tells an end from a cut


def digest(content: bytes) -> str:
    """Return the digest by which contents are compared: S3's ETag of an object put in one piece."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


async def survey(bucket: Bucket, edits: Sequence[Edit], deadline: Deadline) -> Listing:
    """Return the objects that the edits concern.

    Complete are: everything in pruned directories that hold no more than `MAX_WALKED`, the paths that edits name, and
    objects that stand where those need directories.

    Args:
        bucket: to look at.
        edits: with paths that `shared.plan.check` has passed.
        deadline: for all calls.

    Raises:
        StateStoreError, OutOfTime: as `Bucket`.
    """
    search = _Listings(bucket, edits, deadline)
    found = await search.run()
    _drop_markers(found, edits)
    return Listing(await _digests(bucket, edits, found, deadline), search.unread)


class _Listings:
    """Finds objects.

    Attributes:
        unread: pruned directories that hold more than is listed.
    """

    def __init__(self, bucket: Bucket, edits: Sequence[Edit], deadline: Deadline) -> None:
        self._bucket = bucket
        self._deadline = deadline
        self._files = {path for edit in edits for path in edit.files}
        self._leaving = {path for edit in edits for path in edit.remove}
        pruned = {directory for edit in edits for directory in edit.prune}
        self._directories = {directory for directory in pruned if not _is_covered(directory, pruned)}
        named = self._files | self._leaving
        self._lookups = {
            path for name in named for path in (name, *paths.parents(name)) if not _is_covered(path, self._directories)
        }
        # A policy may allow listing below a directory alone; what is above is looked at where that is permitted.
        self._above = {above for edit in edits for above in (edit.root, *paths.parents(edit.root))}
        self._base = _common_directory([*named, *(f"{directory}/" for directory in pruned)])
        self._found: dict[str, Entry] = {}
        self.unread: list[str] = []

    async def run(self) -> dict[str, Entry]:
        calls = len(self._directories) + len(self._lookups)
        if calls > LOOKUPS_PER_PAGE and await self._list_base(pages=calls // LOOKUPS_PER_PAGE):
            self._directories = set()
            self._lookups = {path for path in self._lookups if not _is_covered(path, {self._base})}
        await self._do(self._directories, self._list)
        await self._do(self._lookups, self._look)
        return self._found

    async def _do(self, items: Iterable[str], work: Callable[[str], Awaitable[object]]) -> None:
        async def one(item: str) -> None:
            await work(item)

        for error in (await self._bucket.each(items, one, all_or_nothing=True)).values():
            raise error

    async def _list(self, directory: str, pages: int | None = None) -> bool:
        """List a directory; False where that takes more pages than allowed."""
        token: str | None = None
        listed = 0
        while pages is None or pages > 0:
            page = await self._bucket.list(_prefix(directory), self._deadline, token=token)
            listed += len(page.entries)
            if listed > MAX_WALKED:
                self.unread.append(directory)
                return False
            self._found.update(page.entries)
            token = page.next
            if token is None:
                return True
            pages = None if pages is None else pages - 1
        return False

    async def _list_base(self, pages: int) -> bool:
        try:
            return await self._list(self._base, pages=pages)
        except AccessDenied:  # what lies above several directories, each of which may be listed
            return False

    async def _look(self, path: str) -> None:
        """Find the object at a path, and where there is none but a file is wanted, what it would replace."""
        try:
            page = await self._bucket.list(path, self._deadline, max_keys=_LOOKUP_KEYS)
        except AccessDenied:  # the put says so if something is in the way up there
            if path not in self._above:
                raise
            return
        if (entry := page.entries.get(path)) is not None:
            self._found[path] = entry
        elif path in self._files and (page.next is not None or any(key.startswith(f"{path}/") for key in page.entries)):
            await self._look_into(path)

    async def _look_into(self, directory: str) -> None:
        """List a directory where a file is wanted until something is found that stays there, if anything does."""
        token: str | None = None
        while True:
            page = await self._bucket.list(_prefix(directory), self._deadline, token=token)
            self._found.update(page.entries)
            token = page.next
            if token is None or not self._leaving.issuperset(page.entries):
                return


async def _digests(
    bucket: Bucket, edits: Sequence[Edit], found: dict[str, Entry], deadline: Deadline
) -> dict[str, str]:
    """Turn ETags into digests; where an ETag may be no MD5 of the content, ask for the digest that we put beside it."""
    digests = {key: entry.etag for key, entry in found.items()}
    doubtful: dict[str, bytes] = {}
    for edit in edits:
        for path, content in edit.files.items():
            entry = found.get(path)
            if entry is not None and entry.size == len(content) and entry.etag != digest(content):
                doubtful[path] = content

    async def ask(path: str) -> None:
        content = doubtful[path]
        if await bucket.content_digest(path, deadline) == hashlib.sha256(content).hexdigest():
            digests[path] = digest(content)

    for error in (await bucket.each(doubtful, ask, all_or_nothing=True)).values():
        raise error
    return digests


def _drop_markers(found: dict[str, Entry], edits: Sequence[Edit]) -> None:
    """Forget the empty objects `directory/` that consoles and gateways make, except where a prune may delete them.

    A marker goes with its directory; while something is wanted in there, deleting it would be undone or refused.
    """
    markers = [key for key in found if key.endswith("/")]
    if not markers:
        return
    pruned = {directory for edit in edits for directory in edit.prune}
    needed = {
        parent
        for edit in edits
        for path in (*edit.files, *(f"{kept}/" for kept in edit.keep))
        for parent in paths.parents(path)
    }
    for marker in markers:
        directory = marker.rstrip("/")
        if directory in needed or not (directory in pruned or _is_covered(directory, pruned)):
            del found[marker]


def _prefix(directory: str) -> str:
    return f"{directory}/" if directory else ""


def _is_covered(path: str, directories: Collection[str]) -> bool:
    """Whether a path lies below one of the directories, and is none of them itself."""
    return (path != "" and "" in directories) or any(parent in directories for parent in paths.parents(path))


def _common_directory(names: Sequence[str]) -> str:
    if not names:
        return ""
    first, last = min(names), max(names)
    same = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:same].rpartition("/")[0]
