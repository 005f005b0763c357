"""AWS's own endpoints: the names are real, and a server of ours stands where they lead."""

from __future__ import annotations

import re
import socket
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from shared.errors import StateStoreNotReady
from shared.plan import Written
from shared.resources import BucketStateStore
from shared.settings import Settings
from shared.writers import open_writer
from shared.writers.s3 import http as s3_http
from tests.contract.harness import LOOPBACK, edit, secret_of, soon
from tests.servers.certificates import Authority

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from shared.writers.base import Writer

REGIONS = ("eu-west-1", "us-east-1", "eu-central-1")
LISTING = "<ListBucketResult><Name>b</Name><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"


@dataclass
class FakeAws:
    """Answers for every bucket as if it were in `home`, and keeps who asked what of which host."""

    ca: Path
    home: str = "eu-west-1"
    home_of_puts: str = ""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)

    async def answer(self, request: web.Request) -> web.Response:
        host = request.headers["Host"]
        match = re.search(r"/([a-z0-9-]+)/s3/aws4_request", request.headers["Authorization"])
        assert match is not None
        self.asked.append((request.method, host, match[1]))
        self.tokens.add(request.headers.get("x-amz-security-token"))
        home = self.home_of_puts if self.home_of_puts and request.method != "GET" else self.home
        if match[1] != home:
            error = "<Error><Code>PermanentRedirect</Code><Endpoint>elsewhere.example</Endpoint></Error>"
            return web.Response(status=301, text=error, headers={"x-amz-bucket-region": home})
        if request.method == "PUT":
            return web.Response(headers={"ETag": '"x"'})
        return web.Response(text=LISTING)


class EverythingLeadsTo(AbstractResolver):
    def __init__(self, port: int) -> None:
        self._port = port

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = {"hostname": host, "host": "127.0.0.1", "port": self._port, "family": socket.AF_INET}
        return [ResolveResult(**found, proto=0, flags=0)]  # type: ignore[typeddict-item]

    async def close(self) -> None:
        pass


@pytest.fixture
async def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeAws]:
    authority = Authority(tmp_path)
    hosts = ["*.s3.amazonaws.com"]
    for region in REGIONS:
        hosts += [f"*.s3.{region}.amazonaws.com", f"*.s3.dualstack.{region}.amazonaws.com"]
    issued = authority.issue("aws", hosts=hosts)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(issued.certificate, issued.key)
    fake = FakeAws(authority.ca)
    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", fake.answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    port = runner.addresses[0][1]
    monkeypatch.setattr(s3_http, "DefaultResolver", lambda: EverythingLeadsTo(port))
    yield fake
    await runner.cleanup()


def open_at(fake: FakeAws, endpoint: str, **spec: Any) -> Writer:
    spec = {"endpoint": endpoint, "bucketName": "my-bucket", **spec}
    store = BucketStateStore.parse({"metadata": {"name": "aws"}, "spec": spec})
    secret = secret_of(accessKeyID="KEY", secretAccessKey="SECRET")
    return open_writer(store, secret, Settings(allowed_networks=LOOPBACK, ca_bundle=fake.ca))


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        ("s3.eu-west-1.amazonaws.com", "my-bucket.s3.eu-west-1.amazonaws.com"),
        ("s3-eu-west-1.amazonaws.com", "my-bucket.s3.eu-west-1.amazonaws.com"),
        ("s3.dualstack.eu-west-1.amazonaws.com", "my-bucket.s3.dualstack.eu-west-1.amazonaws.com"),
    ],
)
async def test_a_regional_endpoint_is_asked_for_the_bucket_by_its_own_name(
    aws: FakeAws, endpoint: str, host: str
) -> None:
    async with open_at(aws, endpoint) as writer:
        outcomes = await writer.write([edit({"a": b"x"})], soon())
    assert isinstance(outcomes["one"], Written)
    assert aws.asked == [("GET", host, "eu-west-1"), ("PUT", host, "eu-west-1")]
    assert aws.tokens == {None}


async def test_the_field_use_dual_stack_leads_to_the_dual_stack_host(aws: FakeAws) -> None:
    async with open_at(aws, "s3.eu-west-1.amazonaws.com", useDualStack=True) as writer:
        await writer.write([edit({"a": b"x"})], soon())
    assert {host for _, host, _ in aws.asked} == {"my-bucket.s3.dualstack.eu-west-1.amazonaws.com"}


@pytest.mark.parametrize("endpoint", ["s3.amazonaws.com", "s3.eu-central-1.amazonaws.com"])
async def test_a_bucket_of_another_region_is_found_there_and_nowhere_else(aws: FakeAws, endpoint: str) -> None:
    async with open_at(aws, endpoint) as writer:
        await writer.write([edit({"a": b"x"})], soon())
        await writer.write([edit({"b": b"x"})], soon())
    assert {(host, region) for _, host, region in aws.asked[1:]} == {
        ("my-bucket.s3.eu-west-1.amazonaws.com", "eu-west-1")
    }
    assert len(aws.asked) == 5  # the redirect, then a look-up and a put twice


async def test_a_bucket_that_moves_between_listing_and_put_is_followed(aws: FakeAws) -> None:
    async with open_at(aws, "s3.eu-west-1.amazonaws.com") as writer:
        await writer.write([edit({"a": b"x"})], soon())
        aws.asked.clear()
        aws.home_of_puts = "eu-central-1"
        outcomes = await writer.write([edit({"b": b"x"})], soon())
    assert isinstance(outcomes["one"], Written)
    assert aws.asked[-1] == ("PUT", "my-bucket.s3.eu-central-1.amazonaws.com", "eu-central-1")


async def test_the_functions_role_signs_for_aws_with_its_token(aws: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ROLEKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "ROLESECRET")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "ROLETOKEN")
    async with open_at(aws, "s3.eu-west-1.amazonaws.com", authMethod="IAM") as writer:
        outcomes = await writer.write([edit({"a": b"x"})], soon())
    assert isinstance(outcomes["one"], Written)
    assert aws.tokens == {"ROLETOKEN"}


async def test_the_functions_role_stays_out_of_stores_that_have_keys(
    aws: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ROLEKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "ROLESECRET")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "ROLETOKEN")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://elsewhere.example")
    async with open_at(aws, "s3.eu-west-1.amazonaws.com") as writer:
        await writer.write([edit({"a": b"x"})], soon())
    assert aws.tokens == {None}
    assert {host for _, host, _ in aws.asked} == {"my-bucket.s3.eu-west-1.amazonaws.com"}


async def test_a_name_of_aws_that_leads_to_the_function_itself_is_refused(aws: FakeAws) -> None:
    spec = {"endpoint": "s3.eu-west-1.amazonaws.com", "bucketName": "my-bucket"}
    store = BucketStateStore.parse({"metadata": {"name": "aws"}, "spec": spec})
    secret = secret_of(accessKeyID="KEY", secretAccessKey="SECRET")
    async with open_writer(store, secret, Settings(ca_bundle=aws.ca)) as writer:
        with pytest.raises(StateStoreNotReady, match="LANDFALL_ALLOWED_NETWORKS"):
            await writer.write([edit({"a": b"x"})], soon())
    assert aws.asked == []
