"""Three State Stores of one shape. One stays Kratix's: what Kratix writes there is what the others must hold."""

import asyncio
import base64
import contextlib
import gzip
import hashlib
import itertools
import json
import random
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml

from tests.benchmarks.controllers import apply_kratix_crds, kratix_paths
from tests.integration.platform_team import GROUP, Platform
from tests.servers.git import GitServer
from tests.servers.kubernetes import KubernetesApi
from tests.servers.repository import Repository
from tests.servers.s3 import Minio
from tests.takeover.recording import Recorder

NAMESPACE: Final = "kratix-platform-system"
ACCOUNT: Final = "kratix-platform-controller-manager"
MODES: Final = {"nest": "nestedByMetadata", "none": "none", "aggr": "aggregatedYAML"}
# A tag of one length for each State Store, in the names of its Destinations: without it, all three hold the same.
STORES: Final = {"kept": "bucket/kept", "buck": "bucket/default", "gitt": "git/fleet"}
_PLURALS: Final = ("destinations", "bucketstatestores", "gitstatestores", "workplacements", "works")


def kratix_identity(api: KubernetesApi) -> Path:
    """Make Kratix's ServiceAccount with the rights of its own ClusterRole, and return a kubeconfig of it."""
    apply_kratix_crds(api)
    _, crds = kratix_paths()
    role = yaml.safe_load((crds.parents[1] / "rbac" / "role.yaml").read_text())
    for name in (NAMESPACE, "landfall"):
        api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    leases = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["*"]}
    maps = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}
    return api.write_kubeconfig(api.create_service_account(NAMESPACE, ACCOUNT, [*role["rules"], leases, maps]))


@dataclass
class World:
    """The State Stores and what is in them."""

    platform: Platform
    minio: Minio
    git: GitServer
    recorder: Recorder
    buckets: dict[str, str] = field(default_factory=dict)  # by tag
    repository: Repository | None = None

    def declare(self) -> None:
        """Make the State Stores, and a Destination of each mode in each."""
        self.declare_stores()
        for tag, store in STORES.items():
            for short, mode in MODES.items():
                self.destination(tag, short, store, filepath={"mode": mode})

    def declare_stores(self) -> None:
        """Make the State Stores."""
        team, root = self.platform, self.minio.root
        team.secret("bucket-access", accessKeyID=root.access_key, secretAccessKey=root.secret_key)
        team.secret("git-access", username=self.git.username, password=self.git.password)
        for tag in ("kept", "buck"):
            self.buckets[tag] = self.minio.create_bucket()
            team.bucket_store(
                STORES[tag].partition("/")[2],
                endpoint=self.recorder.url.removeprefix("http://"),
                insecure=True,
                bucketName=self.buckets[tag],
                path="platform",
                authMethod="accessKey",
                secretRef={"name": "bucket-access", "namespace": "default"},
            )
        self.repository = self.git.create_repository()
        team.git_store(
            "fleet",
            url=self.repository.https_url,
            branch="main",
            path="platform",
            authMethod="basicAuth",
            gitAuthor={"name": "kratix"},
            secretRef={"name": "git-access", "namespace": "default"},
        )

    def destination(self, tag: str, short: str, store: str, **spec: Any) -> None:
        """Make a Destination: all that differs between State Stores is the tag in its name."""
        labels = {"environment": "dev", "mode": short}
        filepath = spec.pop("filepath", {"mode": "nestedByMetadata"})
        self.platform.destination(
            f"{tag}-{short}",
            store,
            labels=labels,
            path=short,
            filepath=filepath,
            cleanup=spec.pop("cleanup", "all"),
            **spec,
        )

    def names(self, *tags: str) -> set[str]:
        """Return the buckets and repositories of some State Stores."""
        assert self.repository is not None
        return {self.buckets.get(tag, self.repository.name) for tag in tags}

    def files(self, tag: str) -> dict[str, object]:
        """Return what a State Store holds, as if its Destinations had no tag in their names."""
        if tag in self.buckets:
            found = self.minio.objects(self.buckets[tag], "platform/")
        else:
            assert self.repository is not None
            found = {path: body for path, body in self.repository.tree().items() if path.startswith("platform/")}
        return {path.replace(tag, "…"): _content(path, body.decode().replace(tag, "…")) for path, body in found.items()}

    def same(self) -> bool:
        """Whether all three State Stores hold the same."""
        return self.differences() == {}

    def differences(self) -> dict[str, list[str]]:
        """Return by tag which files differ from those of the State Store that is always Kratix's."""
        wanted = self.files("kept")
        found = {tag: self.files(tag) for tag in STORES if tag != "kept"}
        return {
            tag: sorted(path for path in wanted.keys() | files.keys() if wanted.get(path) != files.get(path))
            for tag, files in found.items()
            if files != wanted
        }


def _content(path: str, text: str) -> object:
    # Of a state file, the files that it names count; it may have more fields than Kratix reads.
    return sorted(yaml.safe_load(text)["files"] or ()) if "/.kratix/" in path else text


def work(name: str, round_: int, *, resource: str = "", selectors: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return a Work as Kratix's pipelines make it: of a Promise, or of a resource request."""
    files = {
        f"{name}.yaml": f"kind: ConfigMap\nround: {round_}\n",
        f"only-{name}-{round_ % 2}.yaml": "kind: Namespace\n",
    }
    workloads = [
        {"filepath": path, "content": base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()}
        for path, text in files.items()
    ]
    group: dict[str, Any] = {"id": hashlib.md5(b".").hexdigest(), "directory": ".", "workloads": workloads}
    group["destinationSelectors"] = [{"matchLabels": dict(selectors or {"environment": "dev"}), "source": "promise"}]
    labels = {"kratix.io/promise-name": f"promise-{name}", "kratix.io/pipeline-name": "configure"}
    labels["kratix.io/work-type"] = "resource" if resource else "promise"
    if resource:
        labels["kratix.io/resource-name"] = resource
    return {
        "apiVersion": "platform.kratix.io/v1alpha1",
        "kind": "Work",
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": {"promiseName": f"promise-{name}", "resourceName": resource, "workloadGroups": [group]},
    }


class Stream:
    """Creates, updates and deletes Works, one after the other, until it is stopped."""

    def __init__(self, platform: Platform, seconds: float) -> None:
        self._platform, self._seconds, self._round = platform, seconds, 0
        self._random = random.Random(16)
        self.alive: dict[str, int] = {}

    @contextlib.asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Change something every so often while the block runs."""
        task = asyncio.create_task(self._flow())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _flow(self) -> None:
        while True:
            await asyncio.to_thread(self._change)
            await asyncio.sleep(self._seconds)

    def _change(self) -> None:
        self._round += 1
        kind = self._random.choice(["create", "update", "update", "delete"])
        if (kind == "create" and len(self.alive) < 6) or not self.alive:
            name = f"w{self._round:03}"
            self.alive[name] = self._round
            self._platform.api.call("POST", f"{GROUP}/namespaces/default/works", work(name, self._round))
        elif kind == "delete" and len(self.alive) > 2:
            name = self._random.choice(sorted(self.alive))
            del self.alive[name]
            self._platform.delete_object("works", name)
        else:
            name = self._random.choice(sorted(self.alive))
            self.alive[name] = self._round
            self.apply(work(name, self._round))

    def apply(self, wanted: dict[str, Any]) -> None:
        """Change a Work's documents."""
        path = f"{GROUP}/namespaces/default/works/{wanted['metadata']['name']}"
        self._platform.api.call("PATCH", path, {"spec": wanted["spec"]}, content_type="application/merge-patch+json")


Told = dict[str, tuple[str, str]]  # by type: status and reason


@dataclass
class Watched:
    """Every status that objects of ours have had, in order, without those that say the same again."""

    statuses: dict[tuple[str, str], list[Told]] = field(default_factory=dict)
    writes: dict[tuple[str, str], int] = field(default_factory=dict)

    def see(self, obj: Mapping[str, Any]) -> None:
        """Take a watch event's object down."""
        key = (obj["kind"], obj["metadata"]["name"])
        conditions = (obj.get("status") or {}).get("conditions") or ()
        told = {c["type"]: (c["status"], c.get("reason", "")) for c in conditions}
        known = self.statuses.setdefault(key, [])
        if told and (not known or known[-1] != told):
            known.append(told)

    def lost(self, of_type: Mapping[str, str]) -> dict[tuple[str, str], list[Told]]:
        """Return objects one of whose conditions was True and then was not.

        Args:
            of_type: by kind, the condition's type.
        """
        found = {}
        for (kind, name), told in self.statuses.items():
            row = [one.get(of_type.get(kind, ""), ("", ""))[0] for one in told]
            if any(before == "True" and after != "True" for before, after in itertools.pairwise(row)):
                found[kind, name] = told
        return found


@contextlib.asynccontextmanager
async def watched(api: KubernetesApi) -> AsyncIterator[Watched]:
    """Watch all our kinds while the block runs."""
    seen = Watched()
    trust = ssl.create_default_context(cafile=str(api.ca))
    headers = {"Authorization": f"Bearer {api.token}"}
    timeout = aiohttp.ClientTimeout(total=None)

    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=trust), headers=headers, timeout=timeout, read_bufsize=1 << 26
    ) as session:

        async def watch(plural: str) -> None:
            async with session.get(f"{api.url}{GROUP}/{plural}?watch=1") as answer:
                async for line in answer.content:
                    event = json.loads(line)
                    if event["type"] in {"ADDED", "MODIFIED"}:
                        seen.see(event["object"])

        tasks = [asyncio.create_task(watch(plural)) for plural in _PLURALS]
        try:
            yield seen
        finally:
            assert not any(task.done() for task in tasks), "a watch has ended"
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def applied(run: Callable[..., str], *folders: str) -> Iterator[None]:
    """Apply manifests with kubectl, and take them away at the end."""
    for folder in folders:
        run("apply", "-k", folder)
    try:
        yield
    finally:
        for folder in folders:
            run("delete", "--ignore-not-found", "-k", folder)
