"""A GitHub App's installation token, from an endpoint that answers as GitHub documents it."""

import json
import secrets
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from shared.errors import AccessDenied, StateStoreNotReady, StoreUnavailable
from shared.plan import Written
from shared.resources import Secret
from shared.writers.base import Writer
from tests.contract.harness import edit, secret_of, soon
from tests.integration.git_servers import Answer, Received, small_server, writer_to
from tests.servers.certificates import Authority
from tests.servers.git import GitServer

KEY = rsa.generate_private_key(65537, 2048)
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
)


class GitHub:
    """The token endpoint: checks the App's signature, gives tokens and lets the Git server accept the last one."""

    def __init__(self, server: GitServer, *, lifetime: timedelta = timedelta(hours=1)) -> None:
        self.server = server
        self.lifetime = lifetime
        self.tokens: list[str] = []
        self.answer: Answer | None = None
        self.useless = False

    def __call__(self, request: Received) -> Answer:
        if self.answer is not None:
            return self.answer
        assert (request.method, request.path) == ("POST", "/api/v3/app/installations/4711/access_tokens")
        signed = request.headers["Authorization"].removeprefix("Bearer ")
        claims = jwt.decode(signed, KEY.public_key(), algorithms=["RS256"], issuer="815")
        now = time.time()
        assert claims["iat"] <= now - 55
        assert now < claims["exp"] <= now + 600
        self.tokens.append(f"ghs_{secrets.token_hex(18)}")
        if not self.useless:
            self.server.add_token(self.tokens[-1])
        expires = (datetime.now(UTC) + self.lifetime).strftime("%Y-%m-%dT%H:%M:%SZ")
        return 201, {}, json.dumps({"token": self.tokens[-1], "expires_at": expires}).encode()


def app_secret(api: str, server: GitServer, **more: Any) -> Secret:
    ca = server.ca.read_text() + more.pop("ca", "")
    values = {"appID": "815", "installationID": "4711", "privateKey": PEM, "apiURL": f"{api}/api/v3/", "ca.crt": ca}
    return secret_of(**{**values, **more})


def app_writer(server: GitServer, url: str, secret: Secret, **settings: Any) -> Writer:
    return writer_to(server, url, secret, authMethod="githubApp", ca_bundle=None, **settings)


async def write(writer: Writer, content: bytes) -> None:
    outcome = (await writer.write([edit({"a": content})], soon()))["one"]
    assert isinstance(outcome, Written)


async def test_a_token_is_asked_for_over_tls_once_and_used_until_it_nears_its_end(
    git_server: GitServer, tmp_path: Any
) -> None:
    repository, github = git_server.create_repository(), GitHub(git_server)
    authority = Authority(tmp_path)
    with small_server(github, authority.issue("api")) as (api, received):
        secret = app_secret(api, git_server, ca=authority.ca.read_text())
        async with app_writer(git_server, repository.https_url, secret, allow_plain_http_git=False) as writer:
            await write(writer, b"1")
            await write(writer, b"2")
    assert (len(repository.commits()), len(received)) == (3, 1)


@pytest.mark.parametrize(("lifetime", "asked"), [(299, 2), (400, 1)], ids=["in-its-last-minutes", "fresh"])
async def test_a_token_is_renewed_five_minutes_before_it_expires(
    git_server: GitServer, lifetime: int, asked: int
) -> None:
    repository, github = git_server.create_repository(), GitHub(git_server, lifetime=timedelta(seconds=lifetime))
    with small_server(github) as (api, _):
        async with app_writer(git_server, repository.https_url, app_secret(api, git_server)) as writer:
            await write(writer, b"1")
            await write(writer, b"2")
    assert len(github.tokens) == asked


async def test_a_token_that_git_refuses_is_replaced_once(git_server: GitServer) -> None:
    repository, github = git_server.create_repository(), GitHub(git_server)
    with small_server(github) as (api, _):
        async with app_writer(git_server, repository.https_url, app_secret(api, git_server)) as writer:
            await write(writer, b"1")
            git_server.add_token("revoked by somebody")
            await write(writer, b"2")
            assert len(github.tokens) == 2
            github.useless = True
            git_server.set_password("x-access-token", None)
            with pytest.raises(AccessDenied) as caught:
                await writer.write([edit({"a": b"3"})], soon())
    assert len(github.tokens) == 3
    assert not [token for token in github.tokens if token in str(caught.value)]


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (401, {"message": "A JSON web token could not be decoded"}, AccessDenied, "check appID and privateKey: A JSON"),
        (404, {"message": "Not Found"}, AccessDenied, "installation 4711"),
        (403, {"message": "This installation has been suspended"}, AccessDenied, "suspended"),
        (503, {}, StoreUnavailable, "503"),
        (201, {}, StoreUnavailable, "without a token"),
        (201, ["?"], StoreUnavailable, "without a token"),
    ],
    ids=["wrong-key", "no-installation", "suspended", "in-trouble", "no-token", "no-object"],
)
async def test_what_github_refuses_says_who_has_to_act(
    git_server: GitServer, status: int, body: object, kind: type[Exception], words: str
) -> None:
    repository, github = git_server.create_repository(), GitHub(git_server)
    github.answer = (status, {}, json.dumps(body).encode())
    with small_server(github) as (api, _):
        async with app_writer(git_server, repository.https_url, app_secret(api, git_server)) as writer:
            with pytest.raises(kind, match=words):
                await writer.check("", soon())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"appID": ""}, "missing key: appID"),
        ({"installationID": ""}, "missing key: installationID"),
        ({"privateKey": ""}, "missing key: privateKey"),
        ({"privateKey": "-----BEGIN"}, "no RSA key"),
        ({"installationID": "1/../2"}, "no number"),
        ({"apiURL": "ftp://x"}, "no https URL"),
        ({"apiURL": "http://github.example"}, "https://"),
        ({"ca.crt": "-----BEGIN"}, "ca.crt"),
    ],
    ids=["no-app", "no-installation", "no-key", "key", "installation", "scheme", "plain-http", "ca"],
)
def test_a_secret_that_cannot_be_used_is_refused_at_once(
    git_server: GitServer, changed: dict[str, str], words: str
) -> None:
    secret = app_secret("https://api.example", git_server, **changed)
    with pytest.raises(StateStoreNotReady, match=words) as caught:
        app_writer(git_server, "https://git.example/x.git", secret, allow_plain_http_git=False)
    assert PEM.decode().splitlines()[2] not in str(caught.value)
