"""Certificates of private CAs: what counts for a bucket counts for a repository.

See docs/failure-modes.md#23-tls-and-host-keys.
"""

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.errors import LandfallError, StateStoreNotReady, StoreNotFound, StoreUnavailable
from shared.resources import parse_state_store
from shared.settings import Settings
from shared.writers import open_writer
from shared.writers.base import Writer
from shared.writers.tls import tls_context
from tests.contract.harness import LOOPBACK, edit, secret_of, soon
from tests.integration.git_servers import small_server
from tests.servers.certificates import Authority

NOT_FOUND = (404, {"Content-Type": "application/xml"}, b"<Error><Code>NoSuchBucket</Code></Error>")
STRICT_BY_DEFAULT = bool(ssl.create_default_context().verify_flags & ssl.VERIFY_X509_STRICT)  # since Python 3.13

Open = Callable[..., Writer]


def bucket(url: str, settings: Settings, **secret: bytes) -> Writer:
    spec = {"endpoint": url.removeprefix("https://"), "bucketName": "bucket"}
    store = parse_state_store({"kind": "BucketStateStore", "metadata": {"name": "tls"}, "spec": spec})
    return open_writer(store, secret_of(accessKeyID=b"key", secretAccessKey=b"secret", **secret), settings)


def repository(url: str, settings: Settings, **secret: bytes) -> Writer:
    spec = {"url": f"{url}/repository.git", "branch": "main", "authMethod": "basicAuth"}
    store = parse_state_store({"kind": "GitStateStore", "metadata": {"name": "tls"}, "spec": spec})
    return open_writer(store, secret_of(username=b"user", password=b"secret", **secret), settings)


@pytest.fixture(params=[bucket, repository], ids=["s3", "git"])
def open_store(request: pytest.FixtureRequest) -> Open:
    found: Open = request.param
    return found


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """As an older `openssl req -x509` makes one: without key identifiers, which RFC 5280 wants."""
    return Authority(tmp_path / "authority", identifiers=False)


@pytest.fixture
def server(authority: Authority) -> Iterator[str]:
    """An HTTPS server that knows neither buckets nor repositories."""
    with small_server(lambda _: NOT_FOUND, authority.issue("server")) as (url, _):
        yield url


async def failure(open_it: Callable[[], Writer]) -> LandfallError:
    with pytest.raises(LandfallError) as caught:
        async with open_it() as writer:
            await writer.write([edit({"a": b"1"})], soon())
    return caught.value


@pytest.mark.parametrize("given", ["by the operator", "in the Secret"])
async def test_a_ca_without_key_identifiers_is_trusted_where_it_is_given(
    open_store: Open, server: str, authority: Authority, given: str
) -> None:
    from_operator = given == "by the operator"
    settings = Settings(allowed_networks=LOOPBACK, ca_bundle=authority.ca if from_operator else None)
    secret = {} if from_operator else {"ca.crt": authority.ca.read_bytes()}
    error = await failure(lambda: open_store(server, settings, **secret))
    assert isinstance(error, StoreNotFound), "TLS was fine, and the server's answer was read"


async def test_without_a_ca_of_your_own_certificates_are_checked_as_python_does(
    open_store: Open, server: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))  # as if it were one of the system's CAs
    error = await failure(lambda: open_store(server, Settings(allowed_networks=LOOPBACK)))
    assert isinstance(error, StoreUnavailable if STRICT_BY_DEFAULT else StoreNotFound)
    assert ("Missing" in str(error)) == STRICT_BY_DEFAULT
    assert ("LANDFALL_CA_BUNDLE" in str(error)) == STRICT_BY_DEFAULT, "the way out"


@pytest.mark.parametrize("pem", [b"no certificate", b"\xff\xfe", b" "], ids=["words", "no text", "white space"])
async def test_a_ca_that_is_none_is_named(open_store: Open, server: str, pem: bytes) -> None:
    error = await failure(lambda: open_store(server, Settings(allowed_networks=LOOPBACK), **{"ca.crt": pem}))
    assert isinstance(error, StateStoreNotReady)
    assert "key ca.crt of the Secret" in str(error)


@pytest.mark.parametrize("name", ["missing.pem", "."])
async def test_a_bundle_that_cannot_be_read_is_named(open_store: Open, server: str, tmp_path: Path, name: str) -> None:
    settings = Settings(allowed_networks=LOOPBACK, ca_bundle=tmp_path / name)
    error = await failure(lambda: open_store(server, settings))
    assert isinstance(error, StateStoreNotReady)
    assert "LANDFALL_CA_BUNDLE" in str(error)


def test_only_a_ca_of_your_own_loosens_anything(tmp_path: Path) -> None:
    pem = Authority(tmp_path).ca.read_bytes()
    assert tls_context(None, None).verify_flags == ssl.create_default_context().verify_flags
    assert not tls_context(None, pem).verify_flags & ssl.VERIFY_X509_STRICT
    for context in (tls_context(None, None), tls_context(None, pem)):
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.check_hostname
