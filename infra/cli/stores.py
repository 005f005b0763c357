"""State Stores opened for reading, with the credentials of the cluster's Secrets or of this machine."""

import asyncio
import base64
import contextlib
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from infra.cli.fleet import Fleet
from shared import paths
from shared.deadline import Deadline
from shared.errors import StateStoreNotReady, StoreUnavailable
from shared.kube import Cluster
from shared.plan import Edit
from shared.reconcile.connections import Opener, Writers
from shared.reconcile.view import read_secret, secret_key
from shared.resources import BucketStateStore, GitStateStore, Secret, StateStore
from shared.settings import Settings
from shared.writers import open_writer
from shared.writers.base import Writer
from shared.writers.preview import Preview

Credentials = Literal["cluster", "local"]

_GIT_SECONDS: Final = 20
_KEYS: Final = ("id_ed25519", "id_ecdsa", "id_rsa")


class Stores:
    """Reads State Stores; a writer is opened once for each."""

    def __init__(
        self,
        cluster: Cluster,
        settings: Settings,
        fleet: Fleet,
        credentials: Credentials,
        opener: Opener = open_writer,
    ) -> None:
        self._cluster = cluster
        self._fleet = fleet
        self._credentials = credentials
        self._writers = Writers(settings, opener)
        self._opened: dict[str, tuple[StateStore, Secret | None]] = {}

    async def preview(
        self, store: StateStore, edits: Sequence[Edit], directories: Collection[str], deadline: Deadline
    ) -> Preview:
        """Return what a write of the edits would do.

        Raises:
            StateStoreError, KubernetesError, OutOfTime: the State Store could not be read.
        """
        return await (await self._writer(store, deadline)).preview(edits, directories, deadline)

    async def read(self, store: StateStore, wanted: Collection[str], deadline: Deadline) -> dict[str, bytes]:
        """Return the contents of those files that are there.

        Raises:
            StateStoreError, KubernetesError, OutOfTime: the State Store could not be read.
        """
        return await (await self._writer(store, deadline)).read_many(wanted, deadline) if wanted else {}

    async def check(self, store: StateStore, deadline: Deadline) -> None:
        """Prove that a State Store can be written to, as the functions do; nothing is left behind.

        Raises:
            InvalidObject, StateStoreError, KubernetesError, OutOfTime: it cannot, or it was not found out.
        """
        root = paths.check_directory(store.spec.path, "spec.path")
        await (await self._writer(store, deadline)).check(root, deadline)

    async def close(self) -> None:
        """Give back connections."""
        await self._writers.close()

    async def _writer(self, store: StateStore, deadline: Deadline) -> Writer:
        spec = f"{store.kind}/{store.name} {store.spec.model_dump_json()}"
        if spec not in self._opened:
            self._opened[spec] = await self._with_credentials(store, deadline)
        return await self._writers.get(*self._opened[spec])

    async def _with_credentials(self, store: StateStore, deadline: Deadline) -> tuple[StateStore, Secret | None]:
        if self._credentials == "local":
            if isinstance(store, BucketStateStore):
                return _local_bucket(store)
            return await _local_git(store)
        key = secret_key(store)
        if key is not None and key in self._fleet.secrets:
            return store, Secret.parse(self._fleet.secrets[key])
        return store, await read_secret(store, self._cluster, deadline)


def _local_bucket(store: BucketStateStore) -> tuple[StateStore, Secret | None]:
    access, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    if access and secret and not os.environ.get("AWS_SESSION_TOKEN"):
        keys = {"accessKeyID": access, "secretAccessKey": secret}
        return _with_method(store, "accessKey"), _secret(keys)
    return _with_method(store, "IAM"), None  # AWS's own chain: a profile, a session, a role


async def _local_git(store: GitStateStore) -> tuple[StateStore, Secret | None]:
    if "://" not in store.spec.url or store.spec.url.startswith("ssh://"):
        return _with_method(store, "ssh"), _secret(_ssh())
    found = await _git_credential(store.spec.url)
    if not found.get("username") or not found.get("password"):
        raise StateStoreNotReady(
            f"git knows no credentials for {urlsplit(store.spec.url).hostname}: log in with your credential helper, or"
            " leave out --credentials local"
        )
    return _with_method(store, "basicAuth"), _secret({name: found[name] for name in ("username", "password")})


def _ssh() -> dict[str, str]:
    folder = Path.home() / ".ssh"
    for name in _KEYS:
        with contextlib.suppress(OSError):
            key = (folder / name).read_text()
            return {"sshPrivateKey": key, "knownHosts": (folder / "known_hosts").read_text()}
    raise StateStoreNotReady("~/.ssh has no key without a passphrase and no known_hosts: leave out --credentials local")


async def _git_credential(url: str) -> dict[str, str]:
    """Ask git's credential helpers; they must not ask the person, who sees a progress bar."""
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        process = await asyncio.create_subprocess_exec(
            "git",
            "credential",
            "fill",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment,
        )
        async with asyncio.timeout(_GIT_SECONDS):
            out, _ = await process.communicate(f"url={url}\n\n".encode())
    except (OSError, TimeoutError) as error:
        raise StoreUnavailable(f"`git credential fill` did not answer ({type(error).__name__})") from None
    return dict(line.split("=", 1) for line in out.decode(errors="replace").splitlines() if "=" in line)


def _with_method(store: StateStore, method: str) -> StateStore:
    return store.model_copy(update={"spec": store.spec.model_copy(update={"auth_method": method})})


def _secret(data: Mapping[str, str]) -> Secret:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return Secret.parse({"metadata": {"name": "local", "namespace": "local"}, "data": encoded})
