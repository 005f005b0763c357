"""Secrets with a mark in them, every failure that we know forced at DEBUG, and no mark anywhere.

See docs/failure-modes.md#22-leaked-secrets.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from infra.local.runtime import LocalRuntime
from tests.contract import fault_proxy as s3
from tests.integration.flow import Tap, running, tapped
from tests.integration.git_servers import Answer, Received, small_server
from tests.integration.platform_team import GROUP, Platform
from tests.servers.certificates import Authority
from tests.servers.git import GitServer
from tests.servers.kubernetes import KubernetesApi
from tests.servers.process import free_port
from tests.servers.s3 import Minio
from tests.servers.ssh import SshServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

WARNING = re.compile(r'"level": ?"WARNING"')
# With what is encoded differently in URLs, in base64, in JSON and in XML.
_HARD = "/+&%=<\"'ü "


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runtime(cluster: KubernetesApi, git_server: GitServer) -> AsyncIterator[LocalRuntime]:
    async with running(
        cluster,
        git_server,
        POWERTOOLS_LOG_LEVEL="DEBUG",
        AWS_LAMBDA_LOG_LEVEL="DEBUG",
        LANDFALL_RETRY_DELAYS_SECONDS="1",
        LANDFALL_CLEANUP_GRACE_SECONDS="1",
    ) as running_:
        yield running_


class Marks:
    """Makes secrets and knows what must be found nowhere."""

    def __init__(self) -> None:
        self.secrets: list[str] = []

    def new(self, name: str, hard: str = _HARD) -> str:
        """Return a secret that holds a mark of its own."""
        self.secrets.append(f"x{name}Mark{len(self.secrets)}x7Zq{hard}9k")
        return self.secrets[-1]

    def take(self, secret: str) -> str:
        """Watch for a secret that was made elsewhere."""
        self.secrets.append(secret)
        return secret

    def forms(self) -> Iterator[str]:
        """Yield every secret as it is, by line, URL-encoded, in JSON, and in base64 at each of its three offsets."""
        for secret in self.secrets:
            lines = [line for line in secret.splitlines() if len(line) > 12 and not line.startswith("-----")]
            marks = re.findall(r"x\w+Mark\d+x7Zq", secret)
            for text in {secret, *lines, *marks}:
                yield from {
                    text,
                    quote(text),
                    quote(text, safe=""),
                    quote_plus(text),
                    json.dumps(text)[1:-1],
                    repr(text)[1:-1],
                }
                for offset in range(3):
                    encoded = base64.b64encode(b"\0" * offset + text.encode()).decode().rstrip("=")
                    yield encoded[(0, 2, 3)[offset] : -2]

    def found_in(self, text: str) -> list[str]:
        return [form for form in self.forms() if form in text]


def echo(request: Received) -> Answer:
    """Answer as the least careful server would: with all that it was sent."""
    told = json.dumps({**request.headers, "message": str(request.headers), "token": "", "path": request.path})
    return 401, {"WWW-Authenticate": f'Basic realm="{request.headers.get("Authorization", "")}"'}, told.encode()


def everything(runtime: LocalRuntime, platform: Platform, tap: Tap) -> dict[str, str]:
    """Return all that anybody could read of us: the log, the objects' statuses, the Events, the messages."""
    api = platform.api
    statuses: list[Any] = []
    for plural in ("destinations", "bucketstatestores", "gitstatestores"):
        statuses += [item.get("status") for item in api.call("GET", f"{GROUP}/{plural}")["items"]]
    events = [(item["reason"], item["message"]) for item in api.call("GET", "/api/v1/events")["items"]]
    return {
        "log": runtime.log.path.read_text(),
        "conditions": json.dumps(statuses, ensure_ascii=False),
        "Events": json.dumps(events, ensure_ascii=False),
        "messages": "\n".join(body for bodies in tap.sent.values() for body in bodies),
    }


class Stores:
    """Declares State Stores that do not work, and remembers their names."""

    def __init__(self, platform: Platform, marks: Marks) -> None:
        self.names: dict[str, str] = {}
        self.marks = marks
        self._platform = platform

    def bucket(self, name: str, endpoint: str, **secret: str) -> None:
        self._platform.secret(name, **secret)
        spec = {"endpoint": endpoint, "bucketName": "bucket", "insecure": True, "secretRef": {"name": name}}
        self._platform.bucket_store(name, **spec)
        self.names[name] = f"bucket/{name}"

    def git(self, name: str, url: str, method: str = "basicAuth", **secret: str) -> None:
        self._platform.secret(name, **secret)
        self._platform.git_store(name, url=url, branch="main", authMethod=method, secretRef={"name": name})
        self.names[name] = f"git/{name}"


def bad_buckets(stores: Stores, minio: Minio, proxy: s3.FaultProxy) -> None:
    """Declare buckets with wrong, unusable and missing keys, one behind a server that repeats all it was sent."""
    marks = stores.marks

    async def echo_s3(asked: s3.Asked, forward: s3.Forward) -> s3.Answer | None:
        told = f"{asked.headers} {marks.secrets}"
        return s3.Answer.error(403, "SignatureDoesNotMatch", told.replace("&", "&amp;").replace("<", "&lt;"))

    proxy.fault = echo_s3
    key, wrong = marks.new("key", ""), marks.new("wrong")
    stores.bucket("s3-wrong", minio.endpoint, accessKeyID=key, secretAccessKey=wrong)
    stores.bucket("s3-echo", proxy.endpoint, accessKeyID=key, secretAccessKey=wrong)
    stores.bucket("s3-lines", minio.endpoint, accessKeyID=marks.new("a\nb"), secretAccessKey=wrong)
    stores.bucket("s3-half", minio.endpoint, secretAccessKey=marks.new("half"))
    stores.bucket("s3-down", f"127.0.0.1:{free_port()}", accessKeyID=key, secretAccessKey=wrong)


def bad_repositories(stores: Stores, server: GitServer, url: str, echo_url: str, ca: str) -> None:
    """Declare repositories with passwords that are wrong, unusable, missing, told by a hook or put into the URL."""
    word = stores.marks.new("word")
    known = server.create_repository()
    stores.git("git-wrong", known.https_url, username="landfall", password=word)
    stores.git("git-echo", f"{echo_url}/r.git", username="landfall", password=word, **{"ca.crt": ca})
    stores.git("git-lines", known.https_url, username=stores.marks.new("user\nname"), password="a\nb" + word)
    stores.git("git-host", known.wrong_host_url, username="landfall", password=word)
    stores.git("git-half", known.https_url, username=stores.marks.new("only"))
    stores.git("git-url", url, username="landfall", password=word)
    hook = f"#!/bin/sh\necho 'refused: {server.password}' >&2\nenv >&2\nexit 1\n"
    told = server.create_repository(hooks={"pre-receive": hook})
    stores.git("git-hook", told.https_url, username=server.username, password=server.password)


def bad_keys(stores: Stores, server: GitServer, ssh: SshServer, echo_url: str, ca: str) -> None:
    """Declare repositories with private keys that are not let in, broken, or used at a server that repeats all."""
    take, known, repository = stores.marks.take, ssh.known_hosts, server.create_repository()
    stranger, broken = take(ssh.stranger_private_key), take(_broken(ssh.private_key))
    stores.git("ssh-stranger", repository.ssh_url, "ssh", sshPrivateKey=stranger, knownHosts=known)
    stores.git("ssh-broken", repository.ssh_url, "ssh", sshPrivateKey=broken, knownHosts=known)
    stores.git("ssh-host", repository.ssh_url, "ssh", sshPrivateKey=stranger, knownHosts=ssh.changed_known_hosts)
    app = {"appID": "815", "installationID": "4711", "apiURL": echo_url, "ca.crt": ca}
    pem = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    private = take(pem.decode())
    stores.git("app-echo", repository.https_url, "githubApp", privateKey=private, **app)
    stores.git("app-broken", repository.https_url, "githubApp", privateKey=take(_broken(private)), **app)


async def test_no_secret_is_in_any_log_condition_event_or_message_whatever_fails(
    runtime: LocalRuntime,
    platform: Platform,
    minio: Minio,
    git_server: GitServer,
    *,
    ssh_git: SshServer,
    cluster: KubernetesApi,
) -> None:
    marks = Marks()
    marks.take(cluster.token)
    marks.take(git_server.password)
    stores = Stores(platform, marks)
    # A token alone: a password is refused by our CustomResourceDefinitions, before it is stored.
    url = git_server.create_repository().https_url.replace("://", f"://{marks.new('url', '')}@")
    authority = Authority(cluster.kubeconfig.parent / "echo")
    ca = authority.ca.read_text()
    with small_server(echo, authority.issue("echo")) as (echo_url, received), tapped(runtime) as tap:
        async with s3.fault_proxy(minio) as proxy:
            bad_buckets(stores, minio, proxy)
            bad_repositories(stores, git_server, url, echo_url, ca)
            bad_keys(stores, git_server, ssh_git, echo_url, ca)
            for name, store in stores.names.items():
                platform.destination(name, store, cleanup="all")
            expected = {"StateStoreNotReady", "StateStoreWriteFailed"}
            await platform.until(
                lambda: {platform.ready(name)[1] for name in stores.names} <= expected,
                "all have failed",
                90,
                lambda: {name: platform.ready(name)[1] for name in stores.names},
            )
            await runtime.resync()
            await runtime.queues.send("CanaryQueue", ["no message"])
            for name in stores.names:  # their clean-ups fail, too
                platform.delete("destinations", name)
            await platform.until(
                lambda: "CleanupSkipped" in everything(runtime, platform, tap)["Events"], "given up", 60
            )
            await platform.until(
                lambda: bool(WARNING.search(runtime.log.path.read_text())), "the broken message was told", 60
            )
            shown = everything(runtime, platform, tap)
    # A watch event is the object as its author wrote it; what we make of it must not repeat the password.
    shown["messages"] = shown["messages"].replace(url, "")
    assert any("Authorization" in request.headers for request in received), "the careless server was sent credentials"
    assert all(len(text) > 500 for text in shown.values()), {where: len(text) for where, text in shown.items()}
    assert {where: found for where, text in shown.items() if (found := marks.found_in(text))} == {}
    lengths = {where: len(text) for where, text in shown.items()}
    print(f"{len(stores.names)} failing stores; {len(list(marks.forms()))} forms of secrets looked for in {lengths}")


def _broken(key: str) -> str:
    """Return a private key that cannot be read, most of it still there."""
    lines = key.splitlines()
    return "\n".join([lines[0], *lines[2:-1], "!!", lines[-1], ""])
