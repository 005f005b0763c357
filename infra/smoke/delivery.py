"""One delivery from end to end: a Destination and a Work of our own, their documents, and the end of all of it."""

import asyncio
import base64
import gzip
import hashlib
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from infra.checks.lines import Line, NotChecked, failed, not_checked, ok
from infra.checks.look import Look
from infra.smoke.objects import GROUP, Objects, Refused, Say, condition
from infra.smoke.store import LABEL, STORES, Contents, Wanted
from shared import paths
from shared.documents import CANARY_CONFIGMAP, CANARY_NAMESPACE, placement_directory
from shared.errors import InvalidObject
from shared.resources import API_VERSION, BucketStateStore, Destination
from shared.works import WORK_LABEL, WorkPlacement

PART: Final = "Delivery"
_POLL_SECONDS: Final = 0.5
_FILE: Final = "smoke.txt"  # no agent applies it, should one watch the whole bucket
_SEE: Final = "go along the way of a change: docs/deployment.md, When it is not Ready"


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
        self._objects = Objects(look, name, namespace, seconds, say)
        self._store: BucketStateStore | None = None
        self._contents: Contents | None = None
        self._no_contents = ""
        self._end_at = 0.0  # of the clean-up, on the monotonic clock
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
            todo = "give a kubeconfig that reaches the cluster and may create Destinations and Works"
            self._add(failed("delivery", str(error), todo))
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
            await self._objects.create(STORES, obj)
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
        await self._objects.create(f"{GROUP}/destinations", self._object("Destination", spec))
        self._say("created", f"Destination {self._name}")
        path, what = f"{GROUP}/destinations/{self._name}", "Destination Ready"
        seconds, found = await self._objects.wait(path, lambda obj: condition(obj)[0] == "True")
        status, reason, message = condition(found)
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
        await self._objects.create(self._objects.works, self._object("Work", spec))
        self._say("created", f"Work {self._name}")
        what = "WorkPlacement Ready"
        seconds, listed = await self._objects.wait(
            self._objects.placements,
            lambda found: any(condition(item)[0] == "True" for item in found.get("items", ())),
            labelSelector=f"{WORK_LABEL}={self._name}",
        )
        items = listed.get("items") or []
        if len(items) != 1:
            _, reason, message = condition(
                await self._look.kubernetes.read(f"{self._objects.works}/{self._name}") or {}
            )
            told = f" {reason}: {message}" if reason else ""
            todo = "docs/kinds/work.md, Debugging" if reason else _SEE
            raise Refused(failed(what, f"{len(items)} WorkPlacements after {seconds:.0f} s.{told}", todo))
        status, reason, message = condition(items[0])
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
            if self._objects.made:
                self._say("deleting", "what was created")
                left = await self._objects.delete(self._end_at)
                self._add(await self._left(left, time.monotonic() - began))
        except NotChecked as error:
            names = ", ".join(self._objects.made)
            todo = f"delete them: `kubectl delete works,destinations,bucketstatestores -A -l {LABEL}={self._name}`"
            self._add(failed("clean-up", f"{error}; {names} may be left", todo))
        finally:
            if self._contents is not None:
                await self._contents.close()

    async def _left(self, left: list[str], seconds: float) -> Line:
        """Return the line of the clean-up; files that are left are removed."""
        what = "clean-up"
        if left:
            removed = await self._remove_files()
            files = {True: "its files too", False: "there were no files", None: "its files were not seen from here"}
            seen = f"{', '.join(left)} not released within {self._seconds:.0f} s; this test did it ({files[removed]})"
            return failed(what, seen, "see the logs of on-work-change and cleanup")
        try:
            present = await self._present()
        except NotChecked as error:
            return not_checked(what, f"the objects are gone; whether the files are was not seen: {error}")
        if await self._remove_files():
            names = ", ".join(sorted(present)) or f"files below {self._name}/"
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

    async def _remove_files(self) -> bool | None:
        """Remove what is left below the Destination's directory; return whether anything was, None if nobody knows."""
        if self._contents is None or self._store is None:
            return None
        own = paths.check_directory(self._store.spec.path, "spec.path")
        try:
            return await self._contents.empty(paths.join(own, self._name))
        except NotChecked:
            return None

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


def _version(path: str, content: bytes) -> str:
    """Return the versionID of one file in a bucket, reckoned apart from the code that writes it.

    A digest over a line a file: its path, a zero byte and the SHA-256 of its content (docs/kinds/workplacement.md).
    """
    return hashlib.sha256(f"{path}\0{hashlib.sha256(content).hexdigest()}\n".encode()).hexdigest()
