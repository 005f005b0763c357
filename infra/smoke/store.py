"""Which State Store the delivery goes to, and a look into its bucket with the credentials at hand."""

import re
from dataclasses import dataclass
from typing import Any, Final

from infra.checks.lines import NotChecked
from infra.checks.look import Look
from shared.deadline import Deadline
from shared.errors import LandfallError
from shared.plan import Edit
from shared.resources import API_VERSION, BucketStateStore, Secret
from shared.writers.s3 import BucketWriter

LABEL: Final = "landfall.kratix.io/smoke"
STORES: Final = "/apis/platform.kratix.io/v1alpha1/bucketstatestores"
_SECONDS: Final = 20.0
_DIRECTORY: Final = "landfall-smoke"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the caller asked for: an existing BucketStateStore, or a bucket for one of our own.

    Attributes:
        store: name of an existing BucketStateStore; empty for one of our own.
        bucket: of our own.
        endpoint: of it; empty for Amazon S3 in the stack's region.
        secret: namespace and name of a Secret with its access key; None for authMethod IAM.
        path: directory in it; empty for one that IamObjectArns allows, else `landfall-smoke`.
    """

    store: str = ""
    bucket: str = ""
    endpoint: str = ""
    secret: tuple[str, str] | None = None
    path: str = ""

    def __bool__(self) -> bool:
        return bool(self.store or self.bucket)

    def __str__(self) -> str:
        return self.store or f"one of its own, in bucket {self.bucket}" if self else "none was named"

    def declared(self, name: str, look: Look) -> dict[str, Any]:
        """Return a BucketStateStore of our own.

        Args:
            name: of this run.
            look: at the stack, whose region and parameters fill in what was left out.
        """
        region = look.stack.region
        suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        spec: dict[str, Any] = {
            "bucketName": self.bucket,
            "endpoint": self.endpoint.removeprefix("https://").removeprefix("http://") or f"s3.{region}.{suffix}",
            "insecure": self.endpoint.startswith("http://"),
            "path": self.path or self._allowed_path(look.stack.parameters.get("IamObjectArns", "")),
        }
        if self.secret is None:
            spec["authMethod"] = "IAM"
        else:
            spec |= {"secretRef": {"namespace": self.secret[0], "name": self.secret[1]}}
        metadata = {"name": name, "labels": {LABEL: name}}
        return {"apiVersion": API_VERSION, "kind": "BucketStateStore", "metadata": metadata, "spec": spec}

    def _allowed_path(self, arns: str) -> str:
        found = re.search(rf"arn:[^:]+:s3:::{re.escape(self.bucket)}/([^,*]*[^,*/])/\*", arns)
        return found[1] if found and self.secret is None else _DIRECTORY


class Contents:
    """The files of a State Store, seen from here with its Secret, or for authMethod IAM with AWS's credentials.

    Attributes:
        secrets: the values that it read, so that they can be kept out of what is written.
    """

    def __init__(self, writer: BucketWriter, secrets: list[str]) -> None:
        self.secrets = secrets
        self._writer = writer

    @classmethod
    async def open(cls, store: BucketStateStore, look: Look) -> "Contents":
        """Return the contents of a BucketStateStore; the bucket is not asked yet.

        Raises:
            NotChecked: its Secret is not readable, or it cannot be used as it is declared.
        """
        secret: Secret | None = None
        try:
            if (reference := store.spec.secret_ref) is not None and reference.name:
                found = await look.kubernetes.read(f"/api/v1/namespaces/{reference.namespace}/secrets/{reference.name}")
                if found is None:
                    raise NotChecked(f"there is no Secret {reference.namespace}/{reference.name}")
                secret = Secret.parse(found)
            writer = BucketWriter.open(store, secret, look.stack.settings())
        except LandfallError as error:
            raise NotChecked(str(error)) from None
        values = secret.data.values() if secret is not None else ()
        return cls(writer, [value.get_secret_value().decode(errors="replace").strip() for value in values])

    async def read(self, *paths: str) -> dict[str, bytes]:
        """Return the contents of those files that are there.

        Raises:
            NotChecked: the bucket does not show them to the credentials at hand.
        """
        try:
            return await self._writer.read_many(paths, Deadline.after(_SECONDS))
        except LandfallError as error:
            raise NotChecked(f"the bucket could not be read from here: {error}") from None

    async def empty(self, directory: str) -> bool:
        """Remove everything below a directory of ours; return whether anything was there.

        Raises:
            NotChecked: the bucket does not allow it to the credentials at hand.
        """
        edit = Edit("left", directory, directory, prune=frozenset({directory}))
        try:
            outcome = (await self._writer.write([edit], Deadline.after(_SECONDS)))["left"]
        except LandfallError as error:
            outcome = error
        if isinstance(outcome, Exception):
            raise NotChecked(f"the bucket could not be looked through from here: {outcome}")
        return outcome.changed

    async def close(self) -> None:
        """Give back connections."""
        await self._writer.close()
