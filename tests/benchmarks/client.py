"""The platform team at its quickest: creates, changes or deletes objects in parallel, and watches until all are done.

A process of its own (`Cluster.act` starts it), the same for every side, so that nobody's time holds any of its work.
"""

import asyncio
import json
import ssl
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import aiohttp


@dataclass(frozen=True)
class Job:
    """What to do; goes to the process as JSON.

    Attributes:
        url, ca, token: of the API server.
        collection: its path, `/apis/…/destinations`.
        act: whether `objects` are created, merged into those of their names, or those of their names deleted.
        objects: whole ones, with what to merge, or with a name alone.
        seconds: after which it is given up.
        at_once: calls in parallel.
        watched: the path of the collection whose objects are to become Ready, or go; empty for `collection`.
        awaited: their names; none for those of `objects`.
    """

    url: str
    ca: str
    token: str = field(repr=False)
    collection: str
    act: Literal["create", "patch", "delete"]
    objects: Sequence[Mapping[str, Any]]
    seconds: float
    at_once: int = 16
    watched: str = ""
    awaited: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    """How it went, in seconds since the first call.

    Attributes:
        acting: until the last call was answered.
        first: until the first object was seen to be done: Ready, or gone.
        last: until the last was.
        began: the moment of the first call, `time.time()`.
    """

    acting: float
    first: float
    last: float
    began: float


class NotDone(Exception):
    """The API server refused something, or not all became Ready, or went, in time."""


async def act(job: Job) -> Outcome:
    """Run the process.

    Raises:
        NotDone: with its last words.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __spec__.name,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    out, error = await process.communicate(json.dumps(asdict(job)).encode())
    if process.returncode:
        raise NotDone(error.decode().strip().rpartition("\n")[2])
    return Outcome(**json.loads(out))


class _Run:
    def __init__(self, job: Job, session: aiohttp.ClientSession) -> None:
        self._job = job
        self._session = session
        self._pending = set(job.awaited) or {obj["metadata"]["name"] for obj in job.objects}
        self._watched = job.watched or job.collection
        self._done: list[float] = []

    @classmethod
    async def whole(cls, job: Job) -> Outcome:
        trust = ssl.create_default_context(cafile=job.ca)
        connector = aiohttp.TCPConnector(limit=job.at_once + 1, ssl=trust)
        headers = {"Authorization": f"Bearer {job.token}", "Content-Type": "application/json"}
        async with aiohttp.ClientSession(
            connector=connector, headers=headers, timeout=aiohttp.ClientTimeout(total=None)
        ) as session:
            run = cls(job, session)
            try:
                return await asyncio.wait_for(run._all(), job.seconds)
            except TimeoutError:
                some = ", ".join(sorted(run._pending)[:3])
                raise NotDone(
                    f"after {job.seconds:.0f} s {len(run._pending)} of {len(job.objects)} were not done: {some}"
                ) from None

    async def _all(self) -> Outcome:
        listed = json.loads(await self._call("GET", f"{self._watched}?limit=1"))
        since = str(listed["metadata"]["resourceVersion"])
        watching = await self._watch(since)
        bodies = iter([(obj["metadata"]["name"], json.dumps(obj).encode()) for obj in self._job.objects])
        # Connections are there before the clock runs, as those of the others are.
        await asyncio.gather(*(self._call("GET", f"{self._job.collection}?limit=1") for _ in range(self._job.at_once)))
        began, wall = time.perf_counter(), time.time()
        seen = asyncio.create_task(self._see(watching, since))
        await asyncio.gather(*(self._act(bodies) for _ in range(self._job.at_once)))
        acted = time.perf_counter()
        await seen
        return Outcome(acted - began, self._done[0] - began, self._done[-1] - began, wall)

    async def _act(self, bodies: Iterator[tuple[str, bytes]]) -> None:
        for name, body in bodies:
            if self._job.act == "create":
                await self._call("POST", self._job.collection, body)
            elif self._job.act == "patch":
                await self._call("PATCH", f"{self._job.collection}/{name}", body)
            else:
                await self._call("DELETE", f"{self._job.collection}/{name}")

    async def _call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        headers = {"Content-Type": "application/merge-patch+json"} if method == "PATCH" else {}
        async with self._session.request(method, self._job.url + path, data=body, headers=headers) as answer:
            content = await answer.read()
            if answer.status >= 300:
                raise NotDone(f"{method} {path} answered {answer.status}: {content[:500]!r}")
            return content

    async def _watch(self, since: str) -> aiohttp.ClientResponse:
        query = {"watch": "1", "resourceVersion": since}
        return await self._session.get(self._job.url + self._watched, params=query, raise_for_status=True)

    async def _see(self, watching: aiohttp.ClientResponse, since: str) -> None:
        while self._pending:
            async for line in _lines(watching):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise NotDone(f"the watch ended: {event['object'].get('message')}")
                since = event["object"]["metadata"]["resourceVersion"]
                self._take(event)
                if not self._pending:
                    break
            watching.close()
            # The API server closes watches when it likes, and surely when it has just learned a kind.
            if self._pending:
                watching = await self._watch(since)

    def _take(self, event: Mapping[str, Any]) -> None:
        name = event["object"]["metadata"]["name"]
        done = event["type"] == "DELETED" if self._job.act == "delete" else _ready(event)
        if done and name in self._pending:
            self._pending.discard(name)
            self._done.append(time.perf_counter())


def _ready(event: Mapping[str, Any]) -> bool:
    conditions = (event["object"].get("status") or {}).get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in response.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line


def main() -> int:
    """Do what standard input says, and print the outcome as JSON."""
    job = Job(**json.load(sys.stdin))
    try:
        outcome = asyncio.run(_Run.whole(job))
    except (NotDone, aiohttp.ClientError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(asdict(outcome)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
