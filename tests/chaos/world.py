"""The world that the run shakes: a cluster, two buckets and two repositories behind proxies, and six State Stores."""

import asyncio
import base64
import contextlib
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.journal import Journal, Place, Store
from tests.servers import web
from tests.servers.git import GitServer
from tests.servers.kubernetes import KubernetesApi
from tests.servers.process import ServerFailed
from tests.servers.proxy import Proxy, Toxiproxy
from tests.servers.repository import Repository
from tests.servers.s3 import Minio

GROUP = "/apis/platform.kratix.io/v1alpha1"
SECRETS = "/api/v1/namespaces/default/secrets"
PLURALS = {"Destination": "destinations", "BucketStateStore": "bucketstatestores", "GitStateStore": "gitstatestores"}
_MERGE = "application/merge-patch+json"


@dataclass
class StateStore:
    """A State Store as a platform team declares it.

    Attributes:
        where: its bucket or branch, whatever its spelling.
        spec: without its path.
        paths: that it may have.
        right: the credentials that it takes now.
        password: changes what the Git server takes, where this is a Git store.
    """

    key: Store
    where: str
    spec: dict[str, Any]
    paths: tuple[str, ...]
    right: dict[str, str] = field(repr=False)

    @property
    def secret(self) -> str:
        """The name of its Secret."""
        return f"{self.key[1]}-credentials"

    @property
    def path(self) -> str:
        """Where its objects are in the API."""
        return f"{GROUP}/{PLURALS[self.key[0]]}"


@dataclass
class World:
    """Everything real, and the way to it that no proxy disturbs."""

    api: KubernetesApi
    minio: Minio
    git: GitServer
    proxies: Mapping[str, Proxy]
    repositories: Mapping[str, Repository]
    buckets: Mapping[str, str]
    stores: dict[Store, StateStore] = field(default_factory=dict)
    journal: Journal = field(default_factory=Journal)

    async def request(self, method: str, path: str, body: Any = None) -> web.Response:
        """Call the API server directly, as the administrator."""
        content_type = _MERGE if method == "PATCH" else "application/json"
        return await asyncio.to_thread(self.api.request, method, path, body, content_type=content_type)

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """Call the API server, which must agree."""
        answer = await self.request(method, path, body)
        if answer.status >= 300:
            raise ServerFailed(f"{method} {path} answered {answer}")
        return answer.json()

    async def objects(self, kind: str) -> list[dict[str, Any]]:
        """Return all objects of a kind of ours."""
        found = (await self.call("GET", f"{GROUP}/{PLURALS[kind]}"))["items"]
        return [{"kind": kind, **item} for item in found]

    async def declare(self, store: StateStore, path: str) -> None:
        """Create a State Store."""
        began = time.monotonic()
        kind, name = store.key
        spec = {**store.spec, "path": path, "secretRef": {"name": store.secret}}
        body = {"apiVersion": "platform.kratix.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        await self.call("POST", store.path, body)
        self.journal.change(self.journal.stores.setdefault(store.key, []), Place(store.where, path), began)

    async def set_secret(self, store: StateStore, values: Mapping[str, str]) -> None:
        """Create a State Store's Secret, or give it exactly these values."""
        data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
        metadata = {"name": store.secret, "namespace": "default"}
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
        answer = await self.request("PUT", f"{SECRETS}/{store.secret}", body)
        if answer.status == 404:
            await self.call("POST", SECRETS, body)

    async def read(self, where: str) -> dict[str, bytes]:
        """Return every file of a bucket or a branch."""
        if where in self.buckets:
            return await asyncio.to_thread(self.minio.objects, self.buckets[where])
        return await asyncio.to_thread(self.repositories[where].tree)

    async def set_file(self, where: str, path: str, content: bytes | None) -> None:
        """Write or remove one file as somebody else would, and record it."""
        await self.set_files(where, {path: content})

    async def set_files(self, where: str, files: Mapping[str, bytes | None]) -> None:
        """Write or remove files as somebody else would: objects one by one, or one push that loses nothing."""
        began = time.monotonic()
        if where in self.buckets:
            for path, content in files.items():
                if content is None:
                    await asyncio.to_thread(self.minio.delete, self.buckets[where], path)
                else:
                    await asyncio.to_thread(self.minio.put, self.buckets[where], path, content)
        else:
            await asyncio.to_thread(_push, self.repositories[where], files)
        for path, content in files.items():
            self.journal.put(where, path, content, began)

    def bucket_store(self, name: str, where: str, paths: tuple[str, ...]) -> StateStore:
        """Return a BucketStateStore behind the proxy; two spellings of one endpoint are one place."""
        host = "LOCALHOST" if name.endswith("twin") else "localhost"
        endpoint = f"{host}:{self.proxies['bucket'].port}"
        spec = {"endpoint": endpoint, "insecure": True, "bucketName": self.buckets[where]}
        right = {"accessKeyID": self.minio.root.access_key, "secretAccessKey": self.minio.root.secret_key}
        return StateStore(("BucketStateStore", name), where, spec, paths, right)

    def git_store(self, name: str, where: str, paths: tuple[str, ...]) -> StateStore:
        """Return a GitStateStore behind the proxy, with a user of its own; two spellings of one URL are one place."""
        url = self.proxies["git"].url(self.repositories[where].https_url)
        if name.endswith("twin"):
            url = url.replace("localhost", "LOCALHOST") + "/"
        right = {"username": name, "password": secrets.token_urlsafe(12)}
        self.git.set_password(name, right["password"])
        return StateStore(("GitStateStore", name), where, {"url": url, "branch": "main"}, paths, right)


def _push(repository: Repository, files: Mapping[str, bytes | None]) -> None:
    """Push onto the branch as it is; where it has moved meanwhile, begin again, as everybody has to."""
    ref, draft = f"refs/heads/{repository.default_branch}", f"drafts-{secrets.token_hex(4)}"
    while True:
        head = repository.head()
        if head is not None:
            repository.move_branch(head, draft)
        made = repository.commit_files(files, branch=draft)
        repository.delete_branch(draft)
        with contextlib.suppress(ServerFailed):
            repository.git("update-ref", ref, made, head or "0" * 40)
            return


def replace_branch(repository: Repository, files: Mapping[str, bytes]) -> None:
    """Force-push a new history that holds just these files, whatever was there."""
    draft = f"drafts-{secrets.token_hex(4)}"
    made = repository.commit_files(files, branch=draft)
    repository.delete_branch(draft)
    repository.move_branch(made)


@contextlib.contextmanager
def world(api: KubernetesApi, minio: Minio, git: GitServer, toxiproxy: Toxiproxy) -> Iterator[World]:
    """Make the buckets, the repositories and the proxies; nothing is declared in the cluster yet."""
    with contextlib.ExitStack() as stack:
        proxies = {
            "bucket": stack.enter_context(toxiproxy.before(minio.url)),
            "git": stack.enter_context(toxiproxy.before(git.https_base)),
            "kubernetes": stack.enter_context(toxiproxy.before(api.url)),
        }
        buckets = {f"bucket-{number}": minio.create_bucket() for number in (1, 2)}
        repositories = {f"repository-{number}": git.create_repository() for number in (1, 2)}
        made = World(api, minio, git, proxies, repositories, buckets)
        declared = [
            made.bucket_store("alpha", "bucket-1", ("env", "env/./", "moved/env")),
            made.bucket_store("alpha-twin", "bucket-1", ("", "env")),
            made.bucket_store("beta", "bucket-2", ("", "deep/er")),
            made.git_store("gamma", "repository-1", ("env", "env//", "moved")),
            made.git_store("gamma-twin", "repository-1", ("env", "/")),
            made.git_store("delta", "repository-2", ("", "a/b")),
        ]
        made.stores.update({store.key: store for store in declared})
        for where in repositories:
            for path, content in repositories[where].tree().items():
                made.journal.put(where, path, content, time.monotonic())
        yield made
