"""A Destination whose documents an agent on a target applies; the agent's own tests say how it is told to."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from infra.local.runtime import LocalRuntime
from tests.agents.target import KUSTOMIZATIONS, Target
from tests.integration.platform_team import Platform
from tests.integration.test_documents import group
from tests.servers.git import GitServer
from tests.servers.repository import Repository
from tests.servers.s3 import Versitygw

SECONDS = 120  # that only something which never arrives takes


@dataclass
class Stores:
    """A State Store `default` of each kind, with path `destinations`."""

    platform: Platform
    versitygw: Versitygw
    bucket: str
    git_server: GitServer
    repository: Repository


@dataclass
class Delivery:
    """A Destination `worker-1` with path `dev` in one of the State Stores, and a target that an agent reconciles."""

    kind: str
    mode: str
    runtime: LocalRuntime
    stores: Stores
    target: Target

    @property
    def platform(self) -> Platform:
        """Who applies Destinations and Works."""
        return self.stores.platform

    @property
    def kustomization(self) -> str:
        """The one that applies what is not a dependency."""
        return "worker-1-resources" if self.mode == "nestedByMetadata" else "worker-1"

    def tree(self) -> dict[str, bytes]:
        """Return what the State Store holds."""
        stores = self.stores
        return stores.versitygw.objects(stores.bucket) if self.kind == "bucket" else stores.repository.tree()

    def put(self, path: str, content: bytes | None) -> None:
        """Write or delete a file of the State Store, as another writer does."""
        if self.kind == "git":
            self.stores.repository.commit_files({path: content})
        elif content is None:
            self.stores.versitygw.delete(self.stores.bucket, path)
        else:
            self.stores.versitygw.put(self.stores.bucket, path, content)

    async def written(self, ending: str) -> None:
        """Wait until the State Store holds a file whose path ends so."""
        await self.platform.until(lambda: any(path.endswith(ending) for path in self.tree()), ending, SECONDS)

    async def arrives(self, what: str, true: Callable[[], bool]) -> float:
        """Wait until something is true of the target; return the seconds."""
        began = time.monotonic()
        await self.platform.until(true, what, SECONDS, self._seen)
        return time.monotonic() - began

    async def says(self, reason: str, *words: str, of: str = "") -> None:
        """Wait until a Kustomization is not Ready for a reason, in such words."""
        name = of or self.kustomization

        def said() -> bool:
            status, why, message = self.target.ready(name)
            return (status, why) == ("False", reason) and all(word in message for word in words)

        await self.platform.until(said, f"{name} {reason} {words}", SECONDS, self._seen)

    def dependency(self, name: str, files: dict[str, bytes]) -> None:
        """Create or change a Work with dependencies of a Promise."""
        self.platform.work(name, group(files), promise="redis")

    def request(self, name: str, files: dict[str, bytes]) -> None:
        """Create or change the Work of a resource request."""
        self.platform.work(name, group(files), promise="redis", resource=name, pipeline="instance-configure")

    def _seen(self) -> object:
        sources = "/apis/source.toolkit.fluxcd.io/v1"
        found = [
            self.target.api.call("GET", path)["items"]
            for path in (f"{sources}/buckets", f"{sources}/gitrepositories", KUSTOMIZATIONS)
        ]
        return [(obj["metadata"]["name"], obj.get("status")) for objs in found for obj in objs], sorted(self.tree())
