"""Two real S3 servers of different families: MinIO, and versitygw with its posix backend."""

from __future__ import annotations

import contextlib
import html
import json
import re
import secrets
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from tests.servers import web
from tests.servers.certificates import Authority
from tests.servers.golang import go_binary
from tests.servers.process import ServerFailed, free_port, private_environment, running
from tests.servers.sigv4 import Credentials, sign

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_REGION = "us-east-1"


@dataclass(frozen=True)
class S3Server:
    """A running S3 server, its root credentials and the calls that prepare and inspect buckets."""

    name: str
    url: str
    root: Credentials
    ca: Path | None
    """What a client has to trust when the URL is https."""
    region: str = _REGION
    data: Path = field(default=Path(), repr=False)

    @property
    def endpoint(self) -> str:
        """The URL without its scheme, as a BucketStateStore has it."""
        return self.url.partition("://")[2]

    @property
    def insecure(self) -> bool:
        """Whether this is plain http."""
        return self.url.startswith("http://")

    def request(
        self,
        method: str,
        bucket: str = "",
        key: str = "",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        credentials: Credentials | None = None,
        service: str = "s3",
    ) -> web.Response:
        """Make one signed call, as root unless other credentials are given."""
        path = "/".join(["", *([bucket] if bucket else []), *([quote(key, safe="/-_.~")] if key else [])]) or "/"
        url = self.url + path + (f"?{urlencode(query, quote_via=quote)}" if query else "")
        who = credentials or self.root
        signed = sign(method, url, who, headers=headers, body=body, region=self.region, service=service)
        return web.request(method, url, headers=signed, body=body, ca=self.ca)

    def create_bucket(self, name: str | None = None, *, versioned: bool = False) -> str:
        """Create a bucket, with a name of its own unless one is given, and return its name."""
        bucket = name or f"bucket-{secrets.token_hex(6)}"
        self._call("PUT", bucket)
        if versioned:
            configuration = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
            self._call("PUT", bucket, query={"versioning": ""}, body=configuration)
        return bucket

    def put(self, bucket: str, key: str, body: bytes) -> None:
        """Write an object."""
        self._call("PUT", bucket, key, body=body)

    def get(self, bucket: str, key: str) -> bytes | None:
        """Read an object; None if there is none."""
        answer = self.request("GET", bucket, key)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise ServerFailed(f"{self.name}: GET {bucket}/{key} answered {answer}")
        return answer.body

    def delete(self, bucket: str, key: str) -> None:
        """Delete an object."""
        self._call("DELETE", bucket, key)

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """Return the keys of a bucket in order."""
        found: list[str] = []
        # Not URL-encoded: servers do not agree on whether a plus sign is one then, or a space.
        query = {"list-type": "2", "prefix": prefix}
        while True:
            text = self._call("GET", bucket, query=query).body.decode()
            found += [html.unescape(key) for key in re.findall(r"<Key>(.*?)</Key>", text)]
            token = re.search(r"<NextContinuationToken>(.*?)</NextContinuationToken>", text)
            if token is None:
                return found
            query["continuation-token"] = html.unescape(token[1])

    def objects(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        """Return every object below a prefix."""
        return {key: self.get(bucket, key) or b"" for key in self.keys(bucket, prefix)}

    def put_bucket_policy(self, bucket: str, *statements: Mapping[str, Any]) -> None:
        """Set a bucket's policy; root is above it on both servers."""
        policy = {"Version": "2012-10-17", "Statement": list(statements)}
        self._call("PUT", bucket, query={"policy": ""}, body=json.dumps(policy).encode())

    def _call(self, method: str, bucket: str = "", key: str = "", **more: Any) -> web.Response:
        answer = self.request(method, bucket, key, **more)
        if answer.status >= 300:
            raise ServerFailed(f"{self.name}: {method} /{bucket}/{key} answered {answer}")
        return answer


class Minio(S3Server):
    """MinIO: checks much as AWS does, and gives temporary credentials."""

    def limited_credentials(self, *statements: Mapping[str, Any]) -> Credentials:
        """Return temporary credentials that may do only what these policy statements allow."""
        policy = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
        form = {"Action": "AssumeRole", "Version": "2011-06-15", "DurationSeconds": "3600", "Policy": policy}
        body = urlencode(form).encode()
        headers = {"content-type": "application/x-www-form-urlencoded"}
        answer = self.request("POST", headers=headers, body=body, service="sts")
        found = [
            re.search(f"<{name}>(.*?)</{name}>", answer.body.decode(errors="replace"))
            for name in ("AccessKeyId", "SecretAccessKey", "SessionToken")
        ]
        values = [html.unescape(match[1]) for match in found if match]
        if answer.status != 200 or len(values) != 3:
            raise ServerFailed(f"{self.name}: AssumeRole answered {answer}")
        return Credentials(*values)


class Versitygw(S3Server):
    """versitygw: stores objects as files, so a key cannot be both a file and a folder; has users of its own."""

    def create_user(self, access_key: str | None = None) -> Credentials:
        """Create a user who may do nothing until a bucket policy names the access key as its principal."""
        user = Credentials(access_key or f"user{secrets.token_hex(6)}", secrets.token_hex(16))
        account = (
            f"<Account><Access>{user.access_key}</Access><Secret>{user.secret_key}</Secret><Role>user</Role></Account>"
        )
        self._call("PATCH", "create-user", body=account.encode())
        return user


@contextlib.contextmanager
def minio(*, https: bool = False, domain: str = "") -> Iterator[Minio]:
    """Run a MinIO; with a `domain`, hosts below it name buckets (virtual-hosted style)."""
    with tempfile.TemporaryDirectory(prefix="landfall-minio-") as folder:
        directory, port, root = Path(folder), free_port(), _root()
        certificates = directory / "certificates"
        authority = _https(certificates, "public", "private") if https else None
        command: list[object] = [go_binary("minio"), "server", "--quiet", f"--address=127.0.0.1:{port}"]
        # Its console would take one more port; a folder is always named, or it looks into the person's home.
        command += [f"--certs-dir={certificates}", directory / "data"]
        env = private_environment(
            MINIO_ROOT_USER=root.access_key,
            MINIO_ROOT_PASSWORD=root.secret_key,
            MINIO_BROWSER="off",
            MINIO_UPDATE="off",
            MINIO_REGION=_REGION,
            **({"MINIO_DOMAIN": domain} if domain else {}),
        )
        ca = authority.ca if authority else None
        url = f"{'https' if https else 'http'}://127.0.0.1:{port}"
        server = Minio("minio", url, root, ca, data=directory / "data")

        def ready() -> bool:
            live = web.request("GET", f"{url}/minio/health/ready", ca=ca, timeout=5)
            return live.status == 200 and server.request("GET").status == 200

        with running("minio", command, directory=directory, ready=ready, env=env):
            yield server


@contextlib.contextmanager
def versitygw(*, https: bool = False) -> Iterator[Versitygw]:
    """Run a versitygw."""
    with tempfile.TemporaryDirectory(prefix="landfall-versitygw-") as folder:
        directory, port, root = Path(folder), free_port(), _root()
        for name in ("data", "metadata", "users", "versions"):
            (directory / name).mkdir()
        command: list[object] = [go_binary("versitygw"), "--port", f"127.0.0.1:{port}", "--region", _REGION]
        command += ["--iam-dir", directory / "users", "--quiet"]
        ca = None
        if https:
            authority = _https(directory / "certificates", "server", "server")
            ca = authority.ca
            command += ["--cert", directory / "certificates/server.crt", "--key", directory / "certificates/server.key"]
        # Metadata in files of its own, since not every file system of a temp folder has extended attributes.
        command += ["posix", "--sidecar", directory / "metadata", "--versioning-dir", directory / "versions"]
        command += [directory / "data"]
        env = private_environment(ROOT_ACCESS_KEY=root.access_key, ROOT_SECRET_KEY=root.secret_key)
        url = f"{'https' if https else 'http'}://127.0.0.1:{port}"
        server = Versitygw("versitygw", url, root, ca, data=directory / "data")

        def ready() -> bool:
            return server.request("GET").status == 200

        with running("versitygw", command, directory=directory, ready=ready, env=env):
            yield server


def _root() -> Credentials:
    return Credentials(f"root{secrets.token_hex(6)}", secrets.token_hex(20))


def _https(folder: Path, certificate: str, key: str) -> Authority:
    """Put a server's certificate and key under the names that it looks for."""
    authority = Authority(folder.parent / "authority")
    issued = authority.issue("server")
    folder.mkdir()
    (folder / f"{certificate}.crt").write_bytes(issued.certificate.read_bytes())
    (folder / f"{key}.key").write_bytes(issued.key.read_bytes())
    return authority
