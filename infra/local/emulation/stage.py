"""Servers on this machine that functions reach from a container, and the objects that the files in events/ speak of."""

import json
import string
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import yaml

from infra.local.embedded.kubernetes.api import KubernetesApi
from infra.local.embedded.s3 import S3Server
from infra.local.queues import MemoryQueues
from infra.local.template import ROOT, Template

BUCKET: Final = "kratix"  # of manifests/bucket.yaml
KUBECONFIG: Final = "kubeconfig"  # name of the file
_MANIFESTS: Final = ROOT / "infra/local/manifests"
_APPLIED: Final = ("bucket.yaml", "works.yaml")
_WORK_FINALIZER: Final = "kratix.io/work-cleanup"
_OWN_QUEUE: Final = "LANDFALL_OWN_QUEUE_URL"


@dataclass(frozen=True)
class Host:
    """Where servers of this machine are.

    Attributes:
        address: that they listen on.
        name: by which functions reach it; the same unless functions run in a virtual machine of their own.
        network: CIDR of what that name leads to, which State Stores may use.
    """

    address: str = "127.0.0.1"
    name: str = "127.0.0.1"
    network: str = "127.0.0.0/8"


class Stage:
    """A cluster, a bucket and the queues, embedded, for functions that are invoked one at a time.

    Used as `async with Stage(…) as stage:`.

    Attributes:
        folder: where the bucket's objects, the kubeconfig and the environment file are.
        kubernetes: the cluster.
        bucket: the S3 server.
        queues: by logical id of the template.
        template: what the functions are.
    """

    def __init__(self, folder: Path, host: Host | None = None) -> None:
        self.folder = folder
        self.template = Template.load()
        self._host = host or Host()
        self.kubernetes = KubernetesApi(ROOT / "infra/kubernetes/crds", self._host.address)
        self.bucket = S3Server(folder / "s3", self._host.address)
        self.queues = MemoryQueues(self.template.queues, host=self._host.address)
        self._taken: set[str] = set()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            for server in (self.kubernetes, self.queues, self.bucket):
                self._stack.push_async_callback(server.stop)
            self.bucket.create_bucket(BUCKET)
            await self.kubernetes.start()
            await self.queues.start()
            await self.bucket.start()
            self._write_kubeconfig()
            self._apply()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def seen(self, address: str) -> str:
        """Return a URL, or an endpoint, as functions reach it."""
        return address.replace(self._host.address, self._host.name, 1)

    def environment(self, kubeconfig: str) -> dict[str, dict[str, str]]:
        """Return the variables of the functions, in the form that `sam local invoke --env-vars` reads.

        SAM passes on only variables that template.yaml names for the function.

        Args:
            kubeconfig: path of the kubeconfig, as functions see it.
        """
        variables = {
            "LANDFALL_KUBECONFIG": kubeconfig,
            "LANDFALL_ALLOWED_NETWORKS": self._host.network,
            "LANDFALL_SQS_ENDPOINT_URL": self.seen(self.queues.endpoint),
        }
        functions: dict[str, dict[str, str]] = {}
        for id_, function in self.template.functions.items():
            urls = {name: self.seen(self.queues.urls[queue]) for name, queue in function.queue_urls.items()}
            if own := urls.pop(_OWN_QUEUE, None):
                functions[id_] = {_OWN_QUEUE: own}
            variables |= urls
        return {"Parameters": dict(sorted(variables.items())), **functions}

    def objects(self, plural: str, namespace: str = "") -> list[dict[str, Any]]:
        """Return the cluster's objects of a kind."""
        return self.kubernetes.store.list(self.kubernetes.kind(plural), namespace)

    def delete(self, plural: str, name: str, namespace: str = "") -> None:
        """Delete an object, or mark it while it has finalizers."""
        self.kubernetes.store.delete(self.kubernetes.kind(plural), namespace, name, {})

    def change(self, plural: str, name: str, change: Mapping[str, Any], namespace: str = "") -> None:
        """Change fields of an object's `metadata` and `spec`."""
        kind = self.kubernetes.kind(plural)
        old = self.kubernetes.store.get(kind, namespace, name)
        merged = {part: {**old[part], **change.get(part, {})} for part in ("metadata", "spec")}
        self.kubernetes.store.update(kind, namespace, {**old, **merged})

    def take(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Take out of all queues what was not there the last time: the queue's name, and each message's body.

        Delayed messages are among them, and stay.
        """
        for queue in self.queues.queues.values():
            for message in queue.messages:
                if message.id not in self._taken:
                    self._taken.add(message.id)
                    yield queue.name, json.loads(message.body)
            for message in queue.take(len(queue.messages)):
                queue.settle(message.receipt)

    def _write_kubeconfig(self) -> None:
        path = self.folder / KUBECONFIG
        self.kubernetes.write_kubeconfig(path)
        path.write_text(self.seen(path.read_text()))

    def _apply(self) -> None:
        for obj in self._declared():
            metadata = obj["metadata"]
            if obj["kind"] == "Work":
                metadata["finalizers"] = [_WORK_FINALIZER]  # as after on-work-change's first look at it
            kind = self.kubernetes.kind(f"{obj['kind'].lower()}s")
            self.kubernetes.store.create(kind, metadata.get("namespace", ""), obj)

    def _declared(self) -> Iterator[dict[str, Any]]:
        values = {
            "S3_ENDPOINT": self.seen(self.bucket.endpoint),
            "S3_ACCESS_KEY": self.bucket.access_key,
            "S3_SECRET_KEY": self.bucket.secret_key,
        }
        for name in _APPLIED:
            yield from yaml.safe_load_all(string.Template((_MANIFESTS / name).read_text()).substitute(values))
