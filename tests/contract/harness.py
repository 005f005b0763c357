"""One harness a backend: makes empty stores, looks into them without our writers, opens writers in every state."""

from __future__ import annotations

import contextlib
import secrets
import sysconfig
import tempfile
from abc import ABC, abstractmethod
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.deadline import Deadline
from shared.errors import AccessDenied, StoreNotFound, StoreUnavailable
from shared.plan import Edit
from shared.resources import BucketStateStore, GitStateStore, Secret
from shared.settings import Settings
from shared.writers import open_writer
from tests.contract.memory import MemoryWriter
from tests.servers.process import free_port, private_environment, running
from tests.servers.s3 import S3Server
from tests.servers.sigv4 import Credentials

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from shared.writers.base import Writer
    from tests.servers.git import GitServer
    from tests.servers.repository import Repository
    from tests.servers.ssh import SshServer

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


def soon(seconds: float = 60) -> Deadline:
    """Return a deadline that a test on a busy machine keeps."""
    return Deadline.after(seconds)


def edit(
    files: Mapping[str, bytes] | None = None,
    *,
    id: str = "one",  # noqa: A002
    label: str = "",
    root: str = "",
    remove: set[str] | None = None,
    prune: set[str] | None = None,
    keep: set[str] | None = None,
    record: str = "",
    interim: bytes = b"",
) -> Edit:
    """Make an edit in few words."""
    return Edit(
        id=id,
        label=label or f"Destination/{id}",
        root=root,
        files=files or {},
        remove=frozenset(remove or ()),
        prune=frozenset(prune or ()),
        keep=frozenset(keep or ()),
        record=record,
        interim=interim,
    )


class Store(ABC):
    """An empty State Store, and what a test may ask of it besides our writers."""

    @abstractmethod
    def open(self) -> Writer:
        """Return a writer with everything right."""

    @abstractmethod
    def open_wrong(self) -> Writer:
        """Return a writer whose credentials are wrong."""

    @abstractmethod
    def open_missing(self) -> Writer:
        """Return a writer to a bucket or repository that does not exist."""

    @abstractmethod
    def open_unreachable(self) -> Writer:
        """Return a writer to where nothing listens."""

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """Return everything that is in the store."""

    @abstractmethod
    def seed(self, files: Mapping[str, bytes]) -> None:
        """Put files there as somebody else."""

    @property
    def secrets(self) -> list[str]:
        """What no message may show."""
        return []

    @property
    def leftovers(self) -> object:
        """What a check may have left behind besides files: uploads, branches."""
        return None


class MemoryStore(Store):
    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}

    def open(self) -> Writer:
        return MemoryWriter(self._files)

    def open_wrong(self) -> Writer:
        return self._failing(AccessDenied("no"))

    def open_missing(self) -> Writer:
        return self._failing(StoreNotFound("gone"))

    def open_unreachable(self) -> Writer:
        return self._failing(StoreUnavailable("down"))

    def files(self) -> dict[str, bytes]:
        return dict(self._files)

    def seed(self, files: Mapping[str, bytes]) -> None:
        self._files.update(files)

    def _failing(self, error: Exception) -> Writer:
        writer = MemoryWriter(self._files)
        writer.failure = error
        return writer


class BucketStore(Store):
    """A bucket on a running server."""

    def __init__(self, server: S3Server, *, versioned: bool = False) -> None:
        self.server = server
        self.bucket = server.create_bucket(versioned=versioned)
        self.wrong = Credentials(f"wrong{secrets.token_hex(6)}", secrets.token_hex(20))

    def open(self) -> Writer:
        return self.writer()

    def open_wrong(self) -> Writer:
        return self.writer(credentials=self.wrong)

    def open_missing(self) -> Writer:
        return self.writer(bucketName=f"missing-{secrets.token_hex(6)}")

    def open_unreachable(self) -> Writer:
        return self.writer(endpoint=f"127.0.0.1:{free_port()}")

    def files(self) -> dict[str, bytes]:
        return self.server.objects(self.bucket)

    def seed(self, files: Mapping[str, bytes]) -> None:
        for path, content in files.items():
            self.server.put(self.bucket, path, content)

    @property
    def secrets(self) -> list[str]:
        return [
            self.server.root.secret_key,
            self.wrong.access_key,
            self.wrong.secret_key,
        ]

    @property
    def leftovers(self) -> object:
        answer = self.server.request("GET", self.bucket, query={"uploads": ""})
        return b"<Upload>" in answer.body

    def settings(self, **more: Any) -> Settings:
        return Settings(allowed_networks=LOOPBACK, ca_bundle=self.server.ca, **more)

    def writer(
        self, *, credentials: Credentials | None = None, settings: Settings | None = None, **spec: Any
    ) -> Writer:
        """Open a writer with fields of the spec changed."""
        who = credentials or self.server.root
        store = BucketStateStore.parse(
            {
                "kind": "BucketStateStore",
                "metadata": {"name": "contract"},
                "spec": {
                    "endpoint": self.server.endpoint,
                    "insecure": self.server.insecure,
                    "bucketName": self.bucket,
                    **spec,
                },
            }
        )
        secret = secret_of(accessKeyID=who.access_key, secretAccessKey=who.secret_key)
        return open_writer(store, secret, settings or self.settings())


class GitStore(Store):
    """A branch of a repository on a running server, holding nothing."""

    def __init__(self, server: GitServer, ssh: SshServer | None = None) -> None:
        self._server, self._ssh = server, ssh
        self.repository: Repository = server.create_repository()
        self.repository.commit_files({}, force_root=True, message="Nothing")
        self._wrong = secrets.token_urlsafe(16)

    def open(self) -> Writer:
        return self._writer(self._url, self._secret())

    def open_wrong(self) -> Writer:
        return self._writer(self._url, self._secret(wrong=True))

    def open_missing(self) -> Writer:
        return self._writer(self._url.replace(self.repository.name, "missing"), self._secret())

    def open_unreachable(self) -> Writer:
        base = f"https://localhost:{free_port()}" if self._ssh is None else f"ssh://git@127.0.0.1:{free_port()}"
        secret = self._secret()
        if self._ssh is not None:  # a known host, so that its absence is what fails
            port = base.rpartition(":")[2]
            known = self._ssh.known_hosts.replace(f":{self._ssh.port}", f":{port}")
            secret = secret_of(sshPrivateKey=self._ssh.private_key, knownHosts=known)
        return self._writer(f"{base}/nothing.git", secret)

    def files(self) -> dict[str, bytes]:
        return self.repository.tree()

    def seed(self, files: Mapping[str, bytes]) -> None:
        self.repository.commit_files(dict(files))

    @property
    def secrets(self) -> list[str]:
        if self._ssh is None:
            return [self._server.password, self._wrong]
        return [self._ssh.private_key.splitlines()[2], self._ssh.stranger_private_key.splitlines()[2]]

    @property
    def leftovers(self) -> object:
        return (self.repository.branches(), len(self.repository.commits()))

    @property
    def _url(self) -> str:
        return self.repository.https_url if self._ssh is None else self.repository.ssh_url

    def _secret(self, *, wrong: bool = False) -> Secret:
        if self._ssh is None:
            return secret_of(username=self._server.username, password=self._wrong if wrong else self._server.password)
        key = self._ssh.stranger_private_key if wrong else self._ssh.private_key
        return secret_of(sshPrivateKey=key, knownHosts=self._ssh.known_hosts)

    def _writer(self, url: str, secret: Secret) -> Writer:
        method = "basicAuth" if self._ssh is None else "ssh"
        spec = {"url": url, "authMethod": method, "branch": self.repository.default_branch}
        store = GitStateStore.parse({"kind": "GitStateStore", "metadata": {"name": "contract"}, "spec": spec})
        return open_writer(store, secret, Settings(allowed_networks=LOOPBACK, ca_bundle=self._server.ca))


def secret_of(**data: str | bytes) -> Secret:
    """Make the Secret of a State Store."""
    values = {key: value.encode() if isinstance(value, str) else value for key, value in data.items()}
    return Secret.model_validate({"name": "credentials", "namespace": "default", "data": values})


@contextlib.contextmanager
def rclone_s3() -> Iterator[S3Server]:
    """Run `rclone serve s3`, the S3 server that the embedded default runtime uses."""
    binary = Path(sysconfig.get_path("scripts")) / "rclone"
    with tempfile.TemporaryDirectory(prefix="landfall-rclone-") as folder:
        directory, port = Path(folder), free_port()
        (directory / "data").mkdir()
        root = Credentials(f"root{secrets.token_hex(6)}", secrets.token_hex(20))
        server = S3Server("rclone", f"http://127.0.0.1:{port}", root, None, data=directory / "data")
        command = [binary, "serve", "s3", f"--addr=127.0.0.1:{port}", f"--auth-key={root.access_key},{root.secret_key}"]
        command += ["--config=", directory / "data"]
        env = private_environment()

        def ready() -> bool:
            return server.request("GET").status == 200

        with running("rclone", command, directory=directory, ready=ready, env=env):
            yield server
