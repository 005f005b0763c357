"""TLS, redirects, addresses, SSH keys and host keys; and that nobody ever reads a secret."""

import base64
import logging
import subprocess
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from shared.errors import (
    AccessDenied,
    LandfallError,
    QuotaExceeded,
    StateStoreNotReady,
    StoreNotFound,
    StoreUnavailable,
    WriteRejected,
)
from shared.plan import Written
from shared.resources import Secret
from shared.writers.base import Writer
from tests.contract.harness import edit, secret_of, soon
from tests.integration.git_servers import Answer, Received, Rule, small_server, spy_before, writer_to
from tests.servers.certificates import Authority, Certificate, write_private_key
from tests.servers.git import GitServer
from tests.servers.repository import Repository
from tests.servers.ssh import SshServer


async def failure(writer: Writer) -> LandfallError:
    """Write something that must fail as a whole, and return why."""
    async with writer:
        with pytest.raises(LandfallError) as caught:
            await writer.write([edit({"a": b"1"})], soon(15))
    return caught.value


async def written(writer: Writer, repository: Repository) -> None:
    """Write something that must succeed."""
    async with writer:
        outcome = (await writer.write([edit({"a": b"1"})], soon()))["one"]
    assert isinstance(outcome, Written)
    assert outcome.version == repository.head()


@pytest.mark.parametrize(
    ("url", "words"),
    [("https_url", "issuer certificate"), ("wrong_host_url", "not valid for 'localhost'"), ("expired_url", "expired")],
    ids=["unknown-authority", "wrong-host", "expired"],
)
async def test_a_certificate_that_cannot_be_trusted_is_refused_and_says_where_the_ca_goes(
    git_server: GitServer, url: str, words: str
) -> None:
    repository = git_server.create_repository()
    ca = None if url == "https_url" else git_server.ca
    error = await failure(writer_to(git_server, getattr(repository, url), ca_bundle=ca))
    assert isinstance(error, StoreUnavailable)
    for part in ("localhost", words, "LANDFALL_CA_BUNDLE", "ca.crt"):
        assert part in str(error)


async def test_a_self_signed_certificate_is_refused(git_server: GitServer, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    write_private_key(tmp_path / "ca.key", authority._key)
    with small_server(lambda _: (200, {}, b""), Certificate(authority.ca, tmp_path / "ca.key")) as (base, received):
        error = await failure(writer_to(git_server, f"{base}/x.git"))
    assert "self-signed" in str(error)
    assert received == []


async def test_a_ca_in_the_secret_is_trusted_for_this_store(git_server: GitServer) -> None:
    repository = git_server.create_repository()
    secret = secret_of(
        username=git_server.username, password=git_server.password, **{"ca.crt": git_server.ca.read_bytes()}
    )
    await written(writer_to(git_server, repository.https_url, secret, ca_bundle=None), repository)


async def test_loopback_is_refused_after_dns_unless_the_operator_allows_it(git_server: GitServer) -> None:
    repository = git_server.create_repository()
    error = await failure(writer_to(git_server, repository.https_url, allowed_networks=()))
    assert isinstance(error, StateStoreNotReady)
    assert "LANDFALL_ALLOWED_NETWORKS" in str(error)


async def test_no_proxy_of_the_environment_is_asked(git_server: GitServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    repository = git_server.create_repository()
    await written(writer_to(git_server, repository.https_url), repository)


async def test_credentials_follow_no_redirect_to_another_host_or_port(git_server: GitServer) -> None:
    with small_server(lambda _: (200, {}, b"")) as (elsewhere, stolen):

        def redirect(request: Received) -> Answer:
            return 302, {"Location": f"{elsewhere}{request.path}"}, b""

        with small_server(redirect) as (base, received):
            error = await failure(writer_to(git_server, f"{base}/x.git"))
    assert isinstance(error, StateStoreNotReady)
    assert f"redirects to {elsewhere}, where credentials are not sent" in str(error)
    assert "Authorization" in received[0].headers
    assert stolen == []


async def test_a_redirect_within_the_same_server_is_followed(git_server: GitServer) -> None:
    """As forges do from a repository's old name, or from a URL without .git."""
    repository = git_server.create_repository()
    moved = f"Location: /{repository.name}.git/info/refs?service=git-upload-pack\r\nContent-Length: 0\r\n\r\n"
    with spy_before(repository.http_url) as spy:
        spy.rules = [Rule("GET /old/info/refs", reply=f"HTTP/1.1 301 Moved\r\n{moved}".encode(), times=9)]
        async with writer_to(git_server, f"http://localhost:{spy.port}/old") as writer:
            assert await writer.read("README.md", soon()) == b"# A repository for tests\n"
    assert spy.count("POST /old") == 0


async def test_redirects_without_end_are_broken_off(git_server: GitServer) -> None:
    with small_server(lambda request: (302, {"Location": request.path}, b"")) as (base, received):
        error = await failure(writer_to(git_server, f"{base}/x.git"))
    assert "redirects without end" in str(error)
    assert len(received) < 10


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, AccessDenied), (403, AccessDenied), (404, StoreNotFound), (429, StoreUnavailable), (503, StoreUnavailable)],
)
async def test_a_status_becomes_an_error_that_keeps_the_servers_words_but_no_secret(
    git_server: GitServer, status: int, kind: type[LandfallError]
) -> None:
    def echo(request: Received) -> Answer:
        said = f"you sent {request.headers['Authorization']} alias {git_server.password}"
        return status, {"Content-Type": "text/plain"}, said.encode()

    with small_server(echo) as (base, _):
        error = await failure(writer_to(git_server, f"{base}/x.git"))
    assert type(error) is kind or isinstance(error, kind)
    assert "you sent Basic *** alias ***" in str(error)


async def test_a_server_that_is_no_git_server_is_said_to_be_none(git_server: GitServer) -> None:
    page = b"<html><title>Welcome &amp; more</title><p>Nothing here</p></html>"
    with small_server(lambda _: (200, {"Content-Type": "text/html"}, page)) as (base, _):
        error = await failure(writer_to(git_server, f"{base}/x.git"))
    assert isinstance(error, StoreNotFound)
    assert "no Git repository: check the path of spec.url, and the credentials: Welcome & more" in str(error)


@pytest.mark.parametrize(
    "answer",
    [
        (200, {"Content-Type": "text/html"}, b"<h1>Sign in</h1>"),
        (200, {"Content-Type": "text/html"}, b"<title>Log in</title><form><input type='password'>"),
        (203, {"Content-Type": "text/html"}, b"<html><title>Azure DevOps Services</title>"),
        (302, {"Location": "https://login.example.test/_signin?realm=dev.azure.com"}, b""),
        (302, {"Location": "https://sso.example.test/saml"}, b""),
    ],
    ids=["sign-in", "log-in", "azure-203", "azure-redirect", "saml"],
)
async def test_a_sign_in_page_is_about_the_credentials(git_server: GitServer, answer: Answer) -> None:
    with small_server(lambda _: answer) as (base, _):
        error = await failure(writer_to(git_server, f"{base}/x.git"))
    assert isinstance(error, AccessDenied)
    assert "sign-in page" in str(error)
    assert "correct the Secret" in str(error)


SAYINGS: dict[str, tuple[int, str, bytes, type[LandfallError], str]] = {
    "sso": (403, "text/plain", b"The 'acme' organization has enabled or enforced SAML SSO.", AccessDenied, "(SSO)"),
    "quota": (403, "text/plain; charset=utf-8", b"Quota exceeded", QuotaExceeded, "make room"),
    "archived": (403, "text/plain", b"This repo is archived.", WriteRejected, "unarchive it"),
    "rate": (403, "text/plain", b"You have exceeded a secondary rate limit.", StoreUnavailable, "tried again"),
    "json": (
        403,
        "application/json",
        b'{"message": "TF401027: You need Git rights"}',
        AccessDenied,
        "TF401027: You need",
    ),
    "unknown": (403, "text/plain", b"not on a Sunday", AccessDenied, "not on a Sunday"),
    "page": (403, "text/html", b"<html><title>Web filter</title>", AccessDenied, "Web filter"),
    "billing": (402, "text/plain", b"", QuotaExceeded, "the plan"),
    "gone": (410, "text/plain", b"", StoreNotFound, "spec.url"),
}


@pytest.mark.parametrize(("status", "kind", "said", "expected", "words"), SAYINGS.values(), ids=SAYINGS)
async def test_the_words_of_an_answer_say_who_must_act(  # noqa: PLR0917 -- a row
    git_server: GitServer, status: int, kind: str, said: bytes, expected: type[LandfallError], words: str
) -> None:
    with small_server(lambda _: (status, {"Content-Type": kind}, said)) as (base, _):
        error = await failure(writer_to(git_server, f"{base}/x.git"))
    assert type(error) is expected
    assert words in str(error)


async def test_a_token_without_a_user_name_that_is_refused_may_want_one(git_server: GitServer) -> None:
    with small_server(lambda _: (401, {}, b"")) as (base, received):
        error = await failure(writer_to(git_server, f"{base}/x.git", secret_of(password="t")))
    assert "add the username that the forge wants" in str(error)
    assert received[0].headers["Authorization"] == "Basic OnQ="


@pytest.mark.parametrize(
    "body", [b"", b"0000", b"zzzz", b"001e# service=git-upload-pack\n0000", b"000eversion 2\n0000"], ids=repr
)
async def test_malformed_answers_are_the_servers_fault(git_server: GitServer, body: bytes) -> None:
    def answer(request: Received) -> Answer:
        kind = "result" if request.method == "POST" else "advertisement"
        return 200, {"Content-Type": f"application/x-git-upload-pack-{kind}"}, body

    with small_server(answer) as (base, _):
        error = await failure(writer_to(git_server, f"{base}/x.git"))
    assert isinstance(error, StoreUnavailable)


async def test_pushing_that_is_switched_off_is_found_by_the_check(git_server: GitServer) -> None:
    repository = git_server.create_repository(config={"http.receivepack": "false"})
    async with writer_to(git_server, repository.https_url) as writer:
        assert await writer.read("README.md", soon()) is not None
        with pytest.raises(AccessDenied):
            await writer.check("", soon())


# SSH


def ssh_secret(server: SshServer, **more: str) -> Secret:
    return secret_of(**{"sshPrivateKey": server.private_key, "knownHosts": server.known_hosts, **more})


def ssh_writer(git_server: GitServer, url: str, secret: Secret) -> Writer:
    return writer_to(git_server, url, secret, authMethod="ssh")


def hashed(server: SshServer, directory: Path) -> str:
    """Return the server's line as `ssh-keygen -H` hashes it."""
    file = directory / "known_hosts"
    file.write_text(server.known_hosts)
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", file], check=True, capture_output=True)
    return file.read_text()


KNOWN: dict[str, Callable[[SshServer, Path], str]] = {
    "host-and-port": lambda server, _: server.known_hosts,
    "hashed": hashed,
    "host-alone": lambda server, _: server.known_hosts.replace(f"[{server.host}]:{server.port}", server.host),
    "pattern-among-others": lambda server, _: (
        "# mine\n\ngithub.com ssh-ed25519 AAAA\n"
        + server.known_hosts.replace(f"[{server.host}]:{server.port}", "nowhere,127.0.0.*")
    ),
    "old-key-beside": lambda server, _: server.changed_known_hosts + server.known_hosts,
}


@pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN)
async def test_a_known_host_is_known_in_every_spelling(
    git_server: GitServer, ssh_git: SshServer, known: Callable[[SshServer, Path], str], tmp_path: Path
) -> None:
    repository = git_server.create_repository()
    secret = ssh_secret(ssh_git, knownHosts=known(ssh_git, tmp_path))
    await written(ssh_writer(git_server, repository.ssh_url, secret), repository)


async def test_a_changed_host_key_is_refused_before_anything_is_shown(
    git_server: GitServer, ssh_git: SshServer
) -> None:
    repository = git_server.create_repository()
    before = ssh_git.log.read_text().count("Accepted publickey")
    secret = ssh_secret(ssh_git, knownHosts=ssh_git.changed_known_hosts)
    error = await failure(ssh_writer(git_server, repository.ssh_url, secret))
    assert isinstance(error, StateStoreNotReady)
    assert "host key" in str(error)
    assert "SHA256:" in str(error)
    assert ssh_git.log.read_text().count("Accepted publickey") == before


async def test_a_host_key_of_another_type_says_which_types_are_known(git_server: GitServer, ssh_git: SshServer) -> None:
    repository = git_server.create_repository()
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    line = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    secret = ssh_secret(ssh_git, knownHosts=f"[{ssh_git.host}]:{ssh_git.port} {line}\n")
    error = await failure(ssh_writer(git_server, repository.ssh_url, secret))
    assert isinstance(error, StateStoreNotReady)
    assert "no host key of the types in knownHosts (ecdsa-sha2-nistp256): add the output of `ssh-keyscan" in str(error)


async def test_a_revoked_host_key_is_refused(git_server: GitServer, ssh_git: SshServer) -> None:
    repository = git_server.create_repository()
    known = f"@revoked * {ssh_git.known_hosts.split(' ', 1)[1]}{ssh_git.known_hosts}"
    error = await failure(ssh_writer(git_server, repository.ssh_url, ssh_secret(ssh_git, knownHosts=known)))
    assert "host key" in str(error)


async def test_an_unknown_host_is_refused_when_the_writer_is_opened(git_server: GitServer, ssh_git: SshServer) -> None:
    repository = git_server.create_repository()
    secret = ssh_secret(ssh_git, knownHosts=ssh_git.known_hosts.replace(f"[{ssh_git.host}]", "[elsewhere]"))
    with pytest.raises(StateStoreNotReady, match=r"host key of .* is unknown: add the output of `ssh-keyscan"):
        ssh_writer(git_server, repository.ssh_url, secret)


KEYS: dict[str, tuple[Any, serialization.PrivateFormat]] = {
    "rsa-pem": (lambda: rsa.generate_private_key(65537, 2048), serialization.PrivateFormat.TraditionalOpenSSL),
    "rsa-pkcs8": (lambda: rsa.generate_private_key(65537, 2048), serialization.PrivateFormat.PKCS8),
    "ecdsa-openssh": (lambda: ec.generate_private_key(ec.SECP256R1()), serialization.PrivateFormat.OpenSSH),
    "ecdsa-pem": (lambda: ec.generate_private_key(ec.SECP384R1()), serialization.PrivateFormat.TraditionalOpenSSL),
}


@pytest.mark.parametrize(("make", "form"), KEYS.values(), ids=KEYS)
async def test_private_keys_of_every_usual_type_are_accepted(
    git_server: GitServer, ssh_git: SshServer, make: Callable[[], rsa.RSAPrivateKey], form: serialization.PrivateFormat
) -> None:
    repository, key = git_server.create_repository(), make()
    text = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    with (ssh_git.private_key_file.parent / "authorized_keys").open("ab") as authorized:
        authorized.write(public + b"\n")
    secret = ssh_secret(ssh_git, sshPrivateKey=text.replace("\n", "\r\n").strip())
    await written(ssh_writer(git_server, repository.ssh_url, secret), repository)


async def test_ssh_connections_and_their_threads_end_with_the_operation(
    git_server: GitServer, ssh_git: SshServer
) -> None:
    repository = git_server.create_repository(hooks={"pre-receive": "#!/bin/sh\necho no way >&2\nexit 1\n"})
    before = set(threading.enumerate())
    error = await failure(ssh_writer(git_server, repository.ssh_url, ssh_secret(ssh_git)))
    assert "no way" in str(error)
    assert not [t for t in set(threading.enumerate()) - before if not t.name.startswith("git-writer")]


async def test_an_ssh_address_is_checked_too(git_server: GitServer, ssh_git: SshServer) -> None:
    repository = git_server.create_repository()
    error = await failure(
        writer_to(git_server, repository.ssh_url, ssh_secret(ssh_git), authMethod="ssh", allowed_networks=())
    )
    assert isinstance(error, StateStoreNotReady)


async def test_no_failure_at_debug_level_shows_a_secret(
    git_server: GitServer, ssh_git: SshServer, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Canary secrets, every failure forced, all loggers at DEBUG (docs/failure-modes.md#22-leaked-secrets)."""
    caplog.set_level(logging.DEBUG)
    for name in ("urllib3", "dulwich", "paramiko", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name)
    password = "canary-s3cr3t/+ü&?"
    secret = secret_of(username="landfall", password=password)
    stranger = ssh_secret(ssh_git, sshPrivateKey=ssh_git.stranger_private_key)
    repository = git_server.create_repository(hooks={"pre-receive": "#!/bin/sh\nexit 1\n"})
    other = Authority(tmp_path / "tls").issue("other")
    errors = [
        await failure(writer_to(git_server, repository.https_url, secret)),
        await failure(writer_to(git_server, repository.expired_url, secret)),
        await failure(writer_to(git_server, "https://localhost:9/x.git", secret)),
        await failure(ssh_writer(git_server, repository.ssh_url, stranger)),
        await failure(ssh_writer(git_server, repository.ssh_url, ssh_secret(ssh_git))),
    ]
    with small_server(lambda _: (200, {}, b""), other) as (base, _):
        errors.append(await failure(writer_to(git_server, f"{base}/x.git", secret)))
    with spy_before(repository.http_url) as spy:
        spy.rules = [Rule("", answer="drop", times=100)]
        errors.append(await failure(writer_to(git_server, spy.url(repository.http_url), secret)))
    shown = caplog.text + "".join("".join(traceback.format_exception(error)) for error in errors)
    shown += repr([vars(record) for record in caplog.records])
    assert len(errors) == 7
    assert len(caplog.records) > 20
    for form in (password, quote(password, safe=""), base64.b64encode(f"landfall:{password}".encode()).decode()):
        assert form not in shown
    for key in (ssh_git.private_key, ssh_git.stranger_private_key):
        assert key.splitlines()[2] not in shown
