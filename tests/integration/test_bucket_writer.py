"""The bucket writer on real servers: permissions, TLS, versions, bad networks.

See docs/failure-modes.md#14-bucket-refusals, #18-frozen-connections, #23-tls-and-host-keys, #24-forbidden-addresses.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from shared.errors import (
    AccessDenied,
    LandfallError,
    StateStoreError,
    StateStoreNotReady,
    StoreNotFound,
    StoreUnavailable,
    TooLarge,
)
from shared.plan import Edit, Written
from shared.resources import BucketStateStore, parse_state_store
from shared.settings import Settings
from shared.writers import open_writer
from tests.contract.harness import LOOPBACK, BucketStore, edit, secret_of, soon
from tests.servers.sigv4 import Credentials

if TYPE_CHECKING:
    from pathlib import Path

    from shared.writers.base import Writer
    from tests.servers.s3 import Minio, Versitygw


async def failure(writer: Writer, *edits: Edit) -> StateStoreError:
    async with writer:
        with pytest.raises(StateStoreError) as caught:
            await writer.write(edits or [edit({"a": b""})], soon())
    return caught.value


# --- what is more than a function reads


async def test_a_directory_of_endless_objects_is_refused_to_those_who_prune_it_alone(
    minio: Minio, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BucketStore(minio)
    async with store.open() as writer:
        many = {f"a/big/{number}": b"" for number in range(1100)}
        await writer.write([edit({**many, "a/small/x": b"", "b/x": b""})], soon())
        monkeypatch.setattr("shared.writers.s3.survey.MAX_WALKED", 1000)
        edits = [
            edit({"a/big/new": b""}, id="big", root="a/big", prune={"a/big"}),
            edit({"b/y": b""}, id="other", root="b", prune={"b"}),
            edit({"a/small/y": b""}, id="beside", root="a/small", prune={"a/small"}),
        ]
        outcomes = await writer.write(edits, soon())
        assert isinstance(outcomes["big"], TooLarge)
        assert "'a/big' holds over" in str(outcomes["big"])
        assert isinstance(outcomes["other"], Written)
        assert isinstance(outcomes["beside"], Written)
    assert set(store.files()) == {*many, "a/small/y", "b/y"}


async def test_files_that_are_too_much_together_are_not_read(minio: Minio, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BucketStore(minio)
    store.seed({"x": b"x" * 600, "y": b"y" * 600})
    async with store.open() as writer:
        assert await writer.read_many(["x", "y"], soon()) == {"x": b"x" * 600, "y": b"y" * 600}
        monkeypatch.setattr("shared.writers.s3.writer.MAX_READ_BYTES", 1000)
        assert await writer.read("x", soon()) == b"x" * 600
        with pytest.raises(TooLarge, match="2 files of the bucket are over 1000 bytes together"):
            await writer.read_many(["x", "y"], soon())


# --- who may what


async def test_each_way_of_being_refused_says_what_to_correct(minio: Minio) -> None:
    store = BucketStore(minio)
    right = minio.root
    unknown = await failure(store.writer(credentials=Credentials("nobody-knows-me", right.secret_key)))
    wrong = await failure(store.writer(credentials=Credentials(right.access_key, "wrong-secret-key")))
    missing = await failure(store.open_missing())
    assert (type(unknown), type(wrong), type(missing)) == (AccessDenied, AccessDenied, StoreNotFound)
    assert "correct accessKeyID in the Secret" in str(unknown)
    assert "correct secretAccessKey in the Secret" in str(wrong)
    assert "create it, or correct spec.bucketName" in str(missing)
    for error in (unknown, wrong):
        assert f"bucket {store.bucket} at {minio.endpoint}" in str(error)


def _allow(user: Credentials, *actions: str, resource: str) -> dict[str, Any]:
    who = {"AWS": [user.access_key]}
    return {"Effect": "Allow", "Principal": who, "Action": list(actions), "Resource": f"arn:aws:s3:::{resource}"}


async def test_credentials_that_may_only_read_fail_the_check_and_the_edit_that_writes(versitygw: Versitygw) -> None:
    store, user = BucketStore(versitygw), versitygw.create_user()
    bucket = store.bucket
    versitygw.put_bucket_policy(
        bucket, _allow(user, "s3:ListBucket", resource=bucket), _allow(user, "s3:GetObject", resource=f"{bucket}/*")
    )
    store.seed({"a/x": b"x"})
    async with store.writer(credentials=user) as writer:
        assert await writer.read("a/x", soon()) == b"x"
        with pytest.raises(AccessDenied, match="s3:PutObject"):
            await writer.check("a", soon())
        outcomes = await writer.write([edit({"a/x": b"x"}, id="same"), edit({"a/y": b"y"}, id="new")], soon())
    assert isinstance(outcomes["same"], Written)
    assert isinstance(outcomes["new"], AccessDenied)
    assert store.files() == {"a/x": b"x"}


async def test_credentials_for_one_prefix_write_there_and_fail_the_other_edits_alone(versitygw: Versitygw) -> None:
    store, user = BucketStore(versitygw), versitygw.create_user()
    bucket = store.bucket
    versitygw.put_bucket_policy(
        bucket, _allow(user, "s3:ListBucket", resource=bucket), _allow(user, "s3:*", resource=f"{bucket}/mine/*")
    )
    store.seed({"mine/old": b"old", "theirs/old": b"old"})
    edits = [edit({f"{name}/new": b"new"}, id=name, root=name, prune={name}) for name in ("mine", "theirs")]
    async with store.writer(credentials=user) as writer:
        await writer.check("mine", soon())
        outcomes = await writer.write(edits, soon())
    assert isinstance(outcomes["mine"], Written)
    assert isinstance(outcomes["theirs"], AccessDenied)
    assert store.files() == {"mine/new": b"new", "theirs/old": b"old"}


async def test_credentials_that_may_do_nothing_fail_the_whole_batch(versitygw: Versitygw) -> None:
    store, user = BucketStore(versitygw), versitygw.create_user()
    error = await failure(store.writer(credentials=user))
    assert isinstance(error, AccessDenied)
    assert "s3:ListBucket" in str(error)


# --- TLS


async def test_a_certificate_of_an_unknown_ca_is_refused_with_two_ways_out(minio_https: Minio) -> None:
    store = BucketStore(minio_https)
    error = await failure(store.writer(settings=Settings(allowed_networks=LOOPBACK)))
    assert isinstance(error, StoreUnavailable)
    assert "ca.crt" in str(error)
    assert "LANDFALL_CA_BUNDLE" in str(error)
    assert "unable to get local issuer certificate" in str(error)


def _over_tls(server: Minio, bucket: str, settings: Settings, **more: bytes) -> Writer:
    spec = {"endpoint": server.endpoint, "bucketName": bucket}
    store = parse_state_store({"kind": "BucketStateStore", "metadata": {"name": "tls"}, "spec": spec})
    keys = secret_of(accessKeyID=server.root.access_key, secretAccessKey=server.root.secret_key, **more)
    return open_writer(store, keys, settings)


async def test_a_ca_of_your_own_counts_from_the_operator_and_from_the_secret(minio_https: Minio) -> None:
    store = BucketStore(minio_https)
    assert minio_https.ca is not None
    from_operator = _over_tls(minio_https, store.bucket, store.settings())
    settings, pem = Settings(allowed_networks=LOOPBACK), minio_https.ca.read_bytes()
    from_secret = _over_tls(minio_https, store.bucket, settings, **{"ca.crt": pem})
    for number, writer in enumerate((from_operator, from_secret)):
        async with writer:
            outcomes = await writer.write([edit({f"a/{number}": b"x"})], soon())
            assert isinstance(outcomes["one"], Written)
    assert store.files() == {"a/0": b"x", "a/1": b"x"}


async def test_a_ca_that_is_none_is_named(minio_https: Minio, tmp_path: Path) -> None:
    settings = Settings(allowed_networks=LOOPBACK)
    for pem in (b"no certificate", b"\xff\xfe"):
        error = await failure(_over_tls(minio_https, "bucket", settings, **{"ca.crt": pem}))
        assert isinstance(error, StateStoreNotReady)
        assert "key ca.crt of the Secret" in str(error)
    for bundle in (tmp_path / "missing.pem", tmp_path):
        error = await failure(_over_tls(minio_https, "bucket", Settings(allowed_networks=LOOPBACK, ca_bundle=bundle)))
        assert isinstance(error, StateStoreNotReady)
        assert "LANDFALL_CA_BUNDLE" in str(error)


async def test_tls_to_a_server_that_speaks_plain_http_says_so(minio: Minio) -> None:
    store = BucketStore(minio)
    error = await failure(store.writer(insecure=False))
    assert isinstance(error, StoreUnavailable)
    assert "spec.insecure" in str(error)


async def test_plain_http_to_a_server_that_speaks_tls_fails(minio_https: Minio) -> None:
    store = BucketStore(minio_https)
    error = await failure(store.writer(insecure=True))
    assert isinstance(error, LandfallError)
    assert store.files() == {}


# --- where a name leads


async def test_a_name_that_leads_to_the_function_itself_is_refused_after_the_look_up(minio: Minio) -> None:
    store = BucketStore(minio)
    port = minio.endpoint.rpartition(":")[2]
    error = await failure(store.writer(endpoint=f"localhost:{port}", settings=Settings()))
    assert isinstance(error, StateStoreNotReady)
    assert "LANDFALL_ALLOWED_NETWORKS" in str(error)
    async with store.writer(endpoint=f"localhost:{port}") as writer:
        assert isinstance((await writer.write([edit({"a": b""})], soon()))["one"], Written)


async def test_a_name_that_does_not_resolve_says_so(minio: Minio) -> None:
    error = await failure(BucketStore(minio).writer(endpoint="no-such-host.invalid:9000"))
    assert isinstance(error, StoreUnavailable)
    assert "cannot be resolved" in str(error)


async def test_a_port_where_nothing_listens_says_so_within_a_moment(minio: Minio) -> None:
    started = time.monotonic()
    error = await failure(BucketStore(minio).open_unreachable())
    assert isinstance(error, StoreUnavailable)
    assert "connection is refused" in str(error)
    assert time.monotonic() - started < 20, "less than a call's time-out"


# --- versions


@pytest.mark.parametrize("server", ["minio", "versitygw"])
async def test_a_versioned_bucket_works_like_any_other(server: str, request: pytest.FixtureRequest) -> None:
    store = BucketStore(request.getfixturevalue(server), versioned=True)
    async with store.open() as writer:
        await writer.write([edit({"a/x": b"1", "a/y": b"1"}, prune={"a"})], soon())
        await writer.write([edit({"a/x": b"2"}, prune={"a"})], soon())
        assert store.files() == {"a/x": b"2"}
        again = await writer.write([edit({"a/x": b"2"}, prune={"a"})], soon())
        assert isinstance(again["one"], Written)
        assert not again["one"].changed
        await writer.write([edit(prune={"a"})], soon())
        assert await writer.read("a/x", soon()) is None
    assert store.files() == {}


async def test_a_file_comes_back_over_its_delete_marker(minio: Minio) -> None:
    store = BucketStore(minio, versioned=True)
    async with store.open() as writer:
        for files in ({"a/x": b"1"}, {}, {"a/x": b"1"}):
            await writer.write([edit(files, prune={"a"})], soon())
            assert store.files() == files


# --- objects that others made


async def test_markers_of_directories_go_with_a_prune_and_otherwise_stay(minio: Minio) -> None:
    store = BucketStore(minio)
    store.seed({"a/": b"", "a/empty/": b"", "a/wanted/": b"", "a/kept/": b"", "b/": b"", "b/x/": b""})
    async with store.open() as writer:
        done = await writer.write(
            [
                edit({"a/wanted/f": b"f"}, id="a", root="a", prune={"a"}, keep={"a/kept"}),
                edit({"b/x": b"file"}, id="b", root="b"),
            ],
            soon(),
        )
        assert isinstance(done["a"], Written)
        keys = set(minio.keys(store.bucket))
        assert {"a/", "a/wanted/", "a/wanted/f", "a/kept/", "b/"} <= keys
        assert "a/empty/" not in keys
        await writer.write([edit(root="a", prune={"a"})], soon())
    assert not [key for key in minio.keys(store.bucket) if key.startswith("a/")]


async def test_odd_keys_of_others_in_a_pruned_directory_are_deleted(minio: Minio) -> None:
    store = BucketStore(minio)
    odd = ["a/with space", "a/plus+", "a/per%20cent", "a/<&>\"'", "a/ümlaut", "a/question?", "a/#hash"]
    store.seed(dict.fromkeys([*odd, "b/stays"], b""))
    async with store.open() as writer:
        await writer.write([edit(root="a", prune={"a"})], soon())
    assert store.files() == {"b/stays": b""}


async def test_large_files_are_written_and_compared(minio: Minio) -> None:
    store = BucketStore(minio)
    content = bytes(range(256)) * 40_000
    async with store.open() as writer:
        await writer.write([edit({"a/large": content})], soon())
        assert await writer.read("a/large", soon()) == content
        again = await writer.write([edit({"a/large": content})], soon())
    assert isinstance(again["one"], Written)
    assert not again["one"].changed


async def test_reading_more_than_the_limit_is_refused(minio: Minio) -> None:
    store = BucketStore(minio)
    store.seed({"a": b"x" * 1001, "b": b"x" * 1000})
    async with store.writer(settings=store.settings(max_file_bytes=1000)) as writer:
        assert await writer.read("b", soon()) == b"x" * 1000
        with pytest.raises(StateStoreError, match="LANDFALL_MAX_FILE_BYTES"):
            await writer.read("a", soon())


async def test_a_role_without_credentials_is_denied_access(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    spec = {"endpoint": "s3.eu-west-1.amazonaws.com", "bucketName": "bucket", "authMethod": "IAM"}
    store = BucketStateStore.parse({"metadata": {"name": "iam"}, "spec": spec})
    error = await failure(open_writer(store, None, Settings()))
    assert isinstance(error, AccessDenied)
    assert "role" in str(error)
