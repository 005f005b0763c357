"""One delivery from end to end: a Destination and a Work of our own, their documents, and the end of all of it."""

import asyncio
import base64
import gzip
import hashlib
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from infra.checks.lines import Line, NotChecked, failed, not_checked, ok
from infra.checks.look import Look
from infra.smoke.store import LABEL, STORES, Contents, Wanted
from shared import paths
from shared.documents import CANARY_CONFIGMAP, CANARY_NAMESPACE, placement_directory
from shared.errors import InvalidObject
from shared.resources import API_VERSION, BucketStateStore, Destination
from shared.works import WORK_LABEL, WorkPlacement

PART: Final = "Delivery"
_GROUP: Final = "/apis/platform.kratix.io/v1alpha1"
_POLL_SECONDS: Final = 0.5
_FILE: Final = "smoke.txt"  # no agent applies it, should one watch the whole bucket
_MERGE_PATCH: Final = "application/merge-patch+json"
_SEE: Final = "go along the way of a change: docs/deployment.md, When it is not Ready"

Say = Callable[[str, str], None]


class Refused(Exception):
    """A step that failed, as its line."""

    def __init__(self, line: Line) -> None:
        super().__init__(str(line))
        self.line = line


class Delivery:
    """A Destination and a Work that nothing else takes note of, from their creation to their end.

    The Destination takes only Works that select its label, the Work selects that label alone, and all names are of
    this run, so neither meets the objects and files of others.
    """

    def __init__(self, look: Look, wanted: Wanted, name: str, say: Say, *, namespace: str, seconds: float) -> None:
        """Prepare it; nothing is created yet.

        Args:
            look: at the deployment.
            wanted: the State Store.
            name: of this run, and of every object of it.
            say: is told what has been done.
            namespace: that the Work is created in.
            seconds: that each step may take.
        """
        self.lines: list[Line] = []
        self.secrets: list[str] = []
        self._look = look
        self._wanted = wanted
        self._name = name
        self._say = say
        self._seconds = seconds
        self._works = f"{_GROUP}/namespaces/{namespace}/works"
        self._placements = f"{_GROUP}/namespaces/{namespace}/workplacements"
        self._store: BucketStateStore | None = None
        self._contents: Contents | None = None
        self._no_contents = ""
        self._end_at = 0.0  # of the clean-up, on the monotonic clock
        self._made: list[str] = []  # paths of what was created
        self._files: set[str] = set()
        self._text = f"Landfall's smoke test {name} was here. It deletes this file.\n".encode()

    async def run(self) -> None:
        """Deliver, and delete everything again, whatever happens in between; `lines` says how it went."""
        if not self._wanted:
            why = "no State Store was named: STORE=… names a BucketStateStore, BUCKET=… a bucket for one of its own"
            self.lines.append(not_checked("delivery", why))
            return
        try:
            await self._deliver()
        except Refused as refused:
            self._add(refused.line)
        except NotChecked as error:
            self._add(not_checked("delivery", str(error)))
        finally:
            await self._end()

    async def _deliver(self) -> None:
        store = await self._open()
        destination = await self._destination(store.name)
        root = paths.destination_root(store, destination)
        canaries = dict(zip(paths.canary_paths(root, destination), (CANARY_NAMESPACE, CANARY_CONFIGMAP), strict=True))
        self._files |= canaries.keys()
        await self._compare("test documents in the bucket", canaries)
        placement = await self._work()
        file = paths.join(placement_directory(root, WorkPlacement.parse(placement)), _FILE)
        self._files.add(file)
        await self._compare("document in the bucket", {file: self._text})
        version = str((placement.get("status") or {}).get("versionID", ""))
        what = "versionID of the WorkPlacement"
        if version == _version(file, self._text):
            self._add(ok(what, f"{version[:16]}…, the digest of the document"))
        else:
            todo = f"report it with the log of {self._look.stack.name}-write-documents"
            self._add(failed(what, f"{version or 'none'}, which is not the digest of the document", todo))

    async def _open(self) -> BucketStateStore:
        """Find or create the State Store, and the way into its bucket."""
        if self._wanted.store:
            obj = await self._look.kubernetes.read(f"{STORES}/{quote(self._wanted.store, safe='')}")
            if obj is None:
                todo = "name one of `kubectl get bucketstatestores`, or BUCKET=…"
                raise Refused(failed("State Store", f"there is no BucketStateStore {self._wanted.store}", todo))
        else:
            obj = self._wanted.declared(self._name, self._look)
            await self._create(STORES, obj)
            self._say("created", f"BucketStateStore {self._name}")
        try:
            self._store = store = BucketStateStore.parse({**obj, "kind": "BucketStateStore"})
        except InvalidObject as error:
            raise Refused(failed("State Store", str(error), "correct it: docs/kinds/bucketstatestore.md")) from None
        try:
            self._contents = await Contents.open(store, self._look)
            self.secrets += self._contents.secrets
        except NotChecked as error:
            self._no_contents = str(error)
        return store

    async def _destination(self, store: str) -> Destination:
        """Create the Destination and wait until it is Ready."""
        spec = {
            "path": self._name,
            "strictMatchLabels": True,
            "cleanup": "all",
            "stateStoreRef": {"kind": "BucketStateStore", "name": store},
        }
        await self._create(f"{_GROUP}/destinations", self._object("Destination", spec))
        self._say("created", f"Destination {self._name}")
        path, what = f"{_GROUP}/destinations/{self._name}", "Destination Ready"
        seconds, found = await self._wait(path, lambda obj: _condition(obj)[0] == "True")
        status, reason, message = _condition(found)
        if status != "True":
            told = f"{reason}: {message}" if status else "it has no condition: no function has reported on it"
            todo = f"docs/kinds/destination.md, Debugging, says what {reason} asks for" if status else _SEE
            raise Refused(failed(what, f"not after {seconds:.0f} s. {told}", todo))
        self._add(ok(what, f"after {seconds:.1f} s: {reason}"))
        return Destination.parse({**found, "kind": "Destination"})

    async def _work(self) -> dict[str, Any]:
        """Create the Work and wait until its WorkPlacement is Ready; return that."""
        content = base64.b64encode(gzip.compress(self._text, mtime=0)).decode()
        group = {
            "id": hashlib.md5(b".", usedforsecurity=False).hexdigest(),
            "directory": ".",
            "destinationSelectors": [{"source": "promise", "matchLabels": {LABEL: self._name}}],
            "workloads": [{"filepath": _FILE, "content": content}],
        }
        spec = {"promiseName": "landfall-smoke", "workloadGroups": [group]}
        await self._create(self._works, self._object("Work", spec))
        self._say("created", f"Work {self._name}")
        what = "WorkPlacement Ready"
        seconds, listed = await self._wait(
            self._placements,
            lambda found: any(_condition(item)[0] == "True" for item in found.get("items", ())),
            labelSelector=f"{WORK_LABEL}={self._name}",
        )
        items = listed.get("items") or []
        if len(items) != 1:
            _, reason, message = _condition(await self._look.kubernetes.read(f"{self._works}/{self._name}") or {})
            told = f" {reason}: {message}" if reason else ""
            todo = "docs/kinds/work.md, Debugging" if reason else _SEE
            raise Refused(failed(what, f"{len(items)} WorkPlacements after {seconds:.0f} s.{told}", todo))
        status, reason, message = _condition(items[0])
        if status != "True":
            todo = "docs/kinds/workplacement.md, Debugging"
            raise Refused(failed(what, f"not after {seconds:.0f} s. {reason}: {message}", todo))
        self._add(ok(what, f"after {seconds:.1f} s: {reason}"))
        return {**items[0], "kind": "WorkPlacement"}

    async def _compare(self, what: str, wanted: Mapping[str, bytes]) -> None:
        """Look whether files are there and are what they have to be."""
        try:
            found = await self._contents_of().read(*wanted)
        except NotChecked as error:
            self._add(not_checked(what, str(error)))
            return
        wrong = sorted(path for path in wanted if found.get(path) != wanted[path])
        if wrong:
            todo = "is something else writing to this bucket, or is it another one of the same name?"
            self._add(failed(what, f"{', '.join(wrong)} missing or changed", todo))
        else:
            self._add(ok(what, ", ".join(sorted(wanted))))

    async def _end(self) -> None:
        """Delete what was created, in an order in which the functions can clean up, and see that nothing is left."""
        began = time.monotonic()
        self._end_at = began + self._seconds
        try:
            if self._made:
                self._say("deleting", "what was created")
                left = await self._delete()
                self._add(await self._left(left, time.monotonic() - began))
        except NotChecked as error:
            names = ", ".join(self._made)
            todo = f"delete them: `kubectl delete works,destinations,bucketstatestores -A -l {LABEL}={self._name}`"
            self._add(failed("clean-up", f"{error}; {names} may be left", todo))
        finally:
            if self._contents is not None:
                await self._contents.close()

    async def _delete(self) -> list[str]:
        """Delete objects, the last one first; return those that the functions did not let go in time."""
        left: list[str] = []
        for path in reversed(self._made):
            await self._look.kubernetes.call("DELETE", path)
            _, found = await self._wait(path, lambda obj: not obj, self._end_at)
            if found:
                left.append(path.rpartition("/v1alpha1/")[2])
            if path.startswith(self._works):
                left += await self._release_placements()
            if found:
                await self._release(path)
        return left

    async def _release_placements(self) -> list[str]:
        """Wait until no WorkPlacement of ours is left; let go of those that are, and return them."""
        selector = f"{WORK_LABEL}={self._name}"
        _, listed = await self._wait(
            self._placements, lambda found: not found.get("items"), self._end_at, labelSelector=selector
        )
        names = [item["metadata"]["name"] for item in listed.get("items") or ()]
        for name in names:
            await self._look.kubernetes.call("DELETE", f"{self._placements}/{name}")
            await self._release(f"{self._placements}/{name}")
        return [f"workplacements/{name}" for name in names]

    async def _release(self, path: str) -> None:
        """Take the finalizers off an object of ours that no function has released."""
        none: dict[str, Any] = {"metadata": {"finalizers": []}}
        await self._look.kubernetes.call("PATCH", path, none, content_type=_MERGE_PATCH)

    async def _left(self, left: list[str], seconds: float) -> Line:
        """Return the line of the clean-up; files that are left are removed."""
        what = "clean-up"
        if left:
            removed = "the files too" if await self._remove_files() else "there were no files"
            seen = (
                f"{', '.join(left)} were not released within {self._seconds:.0f} s; this test let them go ({removed})"
            )
            return failed(what, seen, "see the logs of on-work-change and cleanup")
        try:
            files = await self._present()
        except NotChecked as error:
            return not_checked(what, f"the objects are gone; whether the files are was not seen: {error}")
        if await self._remove_files():
            names = ", ".join(sorted(files)) or f"files below {self._name}/"
            todo = "see the log of cleanup"
            return failed(what, f"{names} were left in the bucket, and removed by this test", todo)
        return ok(what, f"objects and files are gone, after {seconds:.1f} s")

    async def _present(self) -> set[str]:
        """Wait for the end of our files, and return those that are still there.

        Raises:
            NotChecked: the bucket does not show them.
        """
        while True:
            found = set(await self._contents_of().read(*self._files))
            if not found or time.monotonic() >= self._end_at:
                return found
            await asyncio.sleep(_POLL_SECONDS)

    async def _remove_files(self) -> bool:
        """Remove what is left below the Destination's directory; return whether anything was."""
        if self._contents is None or self._store is None:
            return False
        own = paths.check_directory(self._store.spec.path, "spec.path")
        try:
            return await self._contents.empty(paths.join(own, self._name))
        except NotChecked:
            return False

    async def _create(self, collection: str, obj: dict[str, Any]) -> None:
        self._made.append(f"{collection}/{self._name}")  # before it is known: an interruption may come in between
        answer = await self._look.kubernetes.call("POST", collection, obj)
        if answer.status >= HTTPStatus.BAD_REQUEST:
            self._made.pop()
        if answer.status in {HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED}:
            self._look.kubernetes.require(answer, f"POST {collection}")
        if answer.status >= HTTPStatus.BAD_REQUEST:
            told = f"Kubernetes answered {answer.status}: {answer.message}"
            raise Refused(failed(f"{obj['kind']} created", told, "do what the sentence says, and run this again"))

    async def _wait(
        self, path: str, wanted: Callable[[dict[str, Any]], bool], end: float | None = None, **query: str
    ) -> tuple[float, dict[str, Any]]:
        """Read until what is there is as wanted, or the time is over.

        Args:
            path: of an object or a list.
            wanted: of what is there; an empty object is nothing.
            end: of the time, on the monotonic clock; None for one step's.
            query: parameters.

        Returns:
            The seconds that it took, and what was there at last; empty where that is nothing.
        """
        began = time.monotonic()
        end = began + self._seconds if end is None else end
        told: tuple[str, str, str] | None = None
        while True:
            found = await self._look.kubernetes.read(path, **query) or {}
            seconds = time.monotonic() - began
            if wanted(found) or time.monotonic() >= end:
                return seconds, found
            if (seen := _condition(found)) != told and any(seen):
                told = seen
                self._say("waiting", f"{found.get('kind', '')} is not Ready yet: {seen[1]}: {seen[2]}")
            await asyncio.sleep(_POLL_SECONDS)

    def _object(self, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
        metadata = {"name": self._name, "labels": {LABEL: self._name}}
        return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}

    def _contents_of(self) -> Contents:
        if self._contents is None:
            raise NotChecked(self._no_contents)
        return self._contents

    def _add(self, line: Line) -> None:
        self.lines.append(line)
        self._say(line.result, str(line))


def _condition(obj: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return status, reason and message of an object's Ready; empty strings where it has none."""
    for condition in (obj.get("status") or {}).get("conditions") or ():
        if condition["type"] == "Ready":
            return condition["status"], condition.get("reason", ""), condition.get("message", "")
    return "", "", ""


def _version(path: str, content: bytes) -> str:
    """Return the versionID of one file in a bucket, reckoned apart from the code that writes it.

    A digest over a line a file: its path, a zero byte and the SHA-256 of its content (docs/kinds/workplacement.md).
    """
    return hashlib.sha256(f"{path}\0{hashlib.sha256(content).hexdigest()}\n".encode()).hexdigest()
