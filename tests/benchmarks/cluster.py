"""The one cluster that both controllers serve in turn: clean, with a fresh State Store for each round."""

import asyncio
import base64
import gzip
import json
import re
import secrets
import ssl
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Self

import aiohttp

from tests.benchmarks import client
from tests.benchmarks.servers import Servers
from tests.integration.platform_team import API_VERSION, GROUP, Platform
from tests.servers.repository import Repository
from tests.servers.s3 import Minio

Kind = Literal["bucket", "git"]

DESTINATIONS: Final = f"{GROUP}/destinations"
WORK_PLACEMENTS: Final = f"{GROUP}/namespaces/default/workplacements"
_KINDS: Final = {"bucket": "BucketStateStore", "git": "GitStateStore"}
_ID: Final = "5058f1af8388633f609cadb75a75dc9d"
_FINALIZER: Final = "finalizers.workplacement.kratix.io/repo-cleanup"
_AT_ONCE: Final = 16
_COUNTED: Final = re.compile(r"^apiserver_request_total\{(.*)\} (\S+)$", re.MULTILINE)
_SIZES: Final = re.compile(r"^apiserver_response_sizes_sum\{.*\} (\S+)$", re.MULTILINE)
_CPU: Final = re.compile(r"^process_cpu_seconds_total (\S+)$", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Store:
    """A State Store of one round: a bucket or a repository that nobody has used before."""

    kind: Kind
    name: str
    bucket: str
    minio: Minio | None
    repository: Repository | None

    @classmethod
    def fresh(cls, servers: Servers, kind: Kind, *, away: bool = False, url: str | None = None) -> Self:
        """Declare one, at its own address, 50 ms away, or at the URL of something that stands before the server."""
        platform, name = Platform(servers.kubernetes), f"store-{secrets.token_hex(4)}"
        common: dict[str, Any] = {"path": "destinations", "secretRef": {"name": name}}
        if kind == "bucket":
            minio = servers.minio
            bucket = minio.create_bucket()
            address = url or (servers.away(minio.url).url(minio.url) if away else minio.url)
            platform.secret(name, accessKeyID=minio.root.access_key, secretAccessKey=minio.root.secret_key)
            platform.bucket_store(
                name, endpoint=address.partition("://")[2], insecure=True, bucketName=bucket, **common
            )
            return cls(kind, name, bucket, minio, None)
        repository = servers.git.create_repository()
        address = repository.https_url
        if away:
            address = servers.away(address).url(address)
        elif url is not None:
            address = f"{url}/{repository.name}.git"
        platform.secret(name, username=servers.git.username, password=servers.git.password)
        platform.git_store(name, url=address, branch="main", **common)
        return cls(kind, name, "", None, repository)

    def files(self) -> list[str]:
        """Return the paths of the files that are in it, below its own path."""
        found: Iterable[str]
        if self.minio is not None:
            found = self.minio.keys(self.bucket)
        else:
            assert self.repository is not None
            found = self.repository.paths()
        return [path for path in found if path.startswith("destinations/")]

    def commits(self) -> int:
        """Return how many commits its branch has; 0 for a bucket."""
        return 0 if self.repository is None else int(self.repository.git("rev-list", "--count", "main"))

    def destination(self, name: str, **spec: Any) -> dict[str, Any]:
        """Return a Destination of this store, with its own name as path."""
        ref = {"kind": _KINDS[self.kind], "name": self.name}
        return {
            "apiVersion": API_VERSION,
            "kind": "Destination",
            "metadata": {"name": name, "labels": {"environment": "benchmark"}},
            "spec": {"path": name, "stateStoreRef": ref, **spec},
        }


def work_placement(
    name: str, destination: str, files: Mapping[str, bytes], *, scheduled: bool = True
) -> dict[str, Any]:
    """Return a WorkPlacement of a resource request, as Kratix's scheduler makes it.

    Args:
        name: of the WorkPlacement, and of its resource.
        destination: the target's name.
        files: contents by path.
        scheduled: whether it has the finalizer that the scheduler gives it. Where it is missing, Kratix adds it and
            comes back five seconds later.
    """
    workloads = [
        {"filepath": path, "content": base64.b64encode(gzip.compress(content, mtime=0)).decode()}
        for path, content in files.items()
    ]
    labels = {
        "kratix.io/work": name,
        "kratix.io/workload-group-id": _ID,
        "kratix.io/targetDestinationName": destination,
        "kratix.io/pipeline-name": "configure",
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "WorkPlacement",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": labels,
            "finalizers": [_FINALIZER] if scheduled else [],
        },
        "spec": {
            "targetDestinationName": destination,
            "promiseName": "redis",
            "resourceName": name,
            "id": _ID,
            "workloads": workloads,
        },
    }


class Cluster:
    """What the benchmarks do with the cluster."""

    def __init__(self, servers: Servers) -> None:
        self._api = servers.kubernetes

    async def create(self, collection: str, objects: list[dict[str, Any]], *, seconds: float = 600) -> client.Outcome:
        """Create objects, and wait until all are Ready.

        Raises:
            client.NotDone: the API server refused one, or not all were Ready in time.
        """
        return await client.act(self._job(collection, "create", objects, seconds))

    async def delete(self, collection: str, objects: list[dict[str, Any]], *, seconds: float = 600) -> client.Outcome:
        """Delete objects, and wait until all are gone.

        Raises:
            client.NotDone: the API server refused one, or not all were gone in time.
        """
        named = [{"metadata": {"name": obj["metadata"]["name"]}} for obj in objects]
        return await client.act(self._job(collection, "delete", named, seconds))

    async def patch(
        self, collection: str, objects: list[dict[str, Any]], watched: str, awaited: list[str], *, seconds: float = 600
    ) -> client.Outcome:
        """Merge into objects, and wait until others are Ready that come of it.

        Raises:
            client.NotDone: the API server refused one, or not all were Ready in time.
        """
        job = self._job(collection, "patch", objects, seconds)
        return await client.act(replace(job, watched=watched, awaited=awaited))

    def read(self) -> dict[str, float]:
        """Return the bytes of the API server's answers to gets and lists, and its CPU seconds, as its metrics count."""
        text = self._api.request("GET", "/metrics").body.decode()
        sizes = [float(value) for value in _SIZES.findall(text)]
        (cpu,) = _CPU.findall(text)
        return {"bytes": sum(sizes), "apiserver_cpu_seconds": float(cpu)}

    def calls(self) -> Counter[str]:
        """Return how often the API server has been asked, by `verb resource`, as its own metrics count; no watches."""
        found: Counter[str] = Counter()
        for labels, count in _COUNTED.findall(self._api.request("GET", "/metrics").body.decode()):
            label = dict(_LABEL.findall(labels))
            if label["verb"] != "WATCH":
                found[f"{label['verb'].lower()} {label['resource']}"] += int(float(count))
        return found

    async def clear(self) -> None:
        """Remove all objects of ours, finalizers or not, while no controller runs."""
        trust = ssl.create_default_context(cafile=str(self._api.ca))
        headers = {"Authorization": f"Bearer {self._api.token}"}
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trust, limit=_AT_ONCE), headers=headers
        ) as session:
            for kind in ("works", "workplacements", "destinations", "bucketstatestores", "gitstatestores"):
                await self._clear(session, kind)
            async with session.delete(f"{self._api.url}/api/v1/namespaces/default/events") as answer:
                answer.raise_for_status()

    async def _clear(self, session: aiohttp.ClientSession, kind: str) -> None:
        async with session.get(f"{self._api.url}{GROUP}/{kind}") as answer:
            answer.raise_for_status()
            items = (await answer.json())["items"]
        left = iter(items)

        async def remove() -> None:
            for obj in left:
                meta = obj["metadata"]
                inside = f"/namespaces/{meta['namespace']}" if "namespace" in meta else ""
                path = f"{self._api.url}{GROUP}{inside}/{kind}/{meta['name']}"
                if meta.get("finalizers"):
                    patch = json.dumps({"metadata": {"finalizers": None}})
                    merge = {"Content-Type": "application/merge-patch+json"}
                    async with session.patch(path, data=patch, headers=merge) as answer:
                        await answer.read()
                async with session.delete(path) as answer:
                    await answer.read()

        await asyncio.gather(*(remove() for _ in range(_AT_ONCE)))

    def _job(
        self, collection: str, act: Literal["create", "patch", "delete"], objects: Any, seconds: float
    ) -> client.Job:
        api = self._api
        at_once = 1 if len(objects) == 1 else client.Job.at_once  # its own calls are counted, too
        return client.Job(api.url, str(api.ca), api.token, collection, act, objects, seconds, at_once)
