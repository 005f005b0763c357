"""What the check of a bucket proves is what its writes need, under policies that allow no more than that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from shared.errors import AccessDenied, StateStoreNotReady
from shared.plan import Written
from tests.contract.fault_proxy import Answer, Asked, Faulty, fault_proxy
from tests.contract.harness import BucketStore, edit, soon
from tests.servers.s3 import minio as run_minio

if TYPE_CHECKING:
    from aiohttp.abc import ResolveResult

    from tests.contract.fault_proxy import Forward
    from tests.servers.s3 import Minio, Versitygw
    from tests.servers.sigv4 import Credentials

WRITES = ("s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:AbortMultipartUpload")


def allow(user: Credentials, *actions: str, resource: str, **more: Any) -> dict[str, Any]:
    who = {"AWS": [user.access_key]}
    return {
        "Effect": "Allow",
        "Principal": who,
        "Action": list(actions),
        "Resource": f"arn:aws:s3:::{resource}",
        **more,
    }


def below(user: Credentials, bucket: str, *directories: str) -> list[dict[str, Any]]:
    """Return the policy that AWS's guide gives for a user's own directory: listing is allowed below it alone."""
    prefixes = {"StringLike": {"s3:prefix": [f"{directory}/*" for directory in directories]}}
    objects = [allow(user, *WRITES, resource=f"{bucket}/{directory}/*") for directory in directories]
    return [allow(user, "s3:ListBucket", resource=bucket, Condition=prefixes), *objects]


async def test_listing_below_a_prefix_is_enough_for_the_check_and_for_every_write(versitygw: Versitygw) -> None:
    store, user = BucketStore(versitygw), versitygw.create_user()
    versitygw.put_bucket_policy(store.bucket, *below(user, store.bucket, "mine"))
    store.seed({"mine/dev/old/x": b"old", "theirs/x": b"theirs"})
    files = {f"mine/dev/new/{number}": b"%d" % number for number in range(60)}
    async with store.writer(credentials=user) as writer:
        await writer.check("mine", soon())
        one = edit({"mine/dev/a": b"a"}, id="flat", root="mine/dev", remove={"mine/dev/b"}, record="mine/dev/a")
        many = edit(files, id="many", root="mine/dev", prune={"mine/dev/new", "mine/dev/old"})
        other = edit({"mine/prod/x": b"x"}, id="other", root="mine/prod", prune={"mine/prod"})
        outcomes = await writer.write([one, many, other], soon())
        assert {type(outcome) for outcome in outcomes.values()} == {Written}
        assert await writer.read_many(["mine/dev/a", "mine/dev/none"], soon()) == {"mine/dev/a": b"a"}
        with pytest.raises(AccessDenied, match="s3:ListBucket"):
            await writer.check("theirs", soon())
        elsewhere = await writer.write([edit({"mine/dev/a": b"b"}, root="mine/dev")], soon())
        assert isinstance(elsewhere["one"], Written)
    expected = {**files, "mine/dev/a": b"b", "mine/prod/x": b"x", "theirs/x": b"theirs"}
    assert store.files() == expected


async def test_two_directories_that_may_be_listed_are_written_in_one_batch(versitygw: Versitygw) -> None:
    store, user = BucketStore(versitygw), versitygw.create_user()
    versitygw.put_bucket_policy(store.bucket, *below(user, store.bucket, "one", "two"))
    edits = [
        edit({f"{root}/{n}/x": b"x" for n in range(30)}, id=root, root=root, prune={f"{root}/{n}" for n in range(30)})
        for root in ("one", "two")
    ]
    async with store.writer(credentials=user) as writer:
        outcomes = await writer.write(edits, soon())
    assert [type(outcome) for outcome in outcomes.values()] == [Written, Written]
    assert len(store.files()) == 60


async def test_a_file_above_the_directory_is_in_the_way_where_it_may_be_seen(versitygw: Versitygw) -> None:
    store = BucketStore(versitygw)
    store.seed({"mine": b"a file"})
    async with store.open() as writer:
        outcomes = await writer.write([edit({"mine/dev/x": b"x"}, root="mine/dev")], soon())
    assert "mine" in str(outcomes["one"])
    assert store.files() == {"mine": b"a file"}


@pytest.mark.parametrize(
    ("missing", "words"), [("s3:ListBucket", "allow these credentials s3:ListBucket"), ("s3:PutObject", "s3:PutObject")]
)
async def test_the_check_fails_for_each_right_that_every_write_needs(
    versitygw: Versitygw, missing: str, words: str
) -> None:
    store, user = BucketStore(versitygw), versitygw.create_user()
    rights = {"s3:ListBucket", *WRITES} - {missing}
    objects = allow(user, *sorted(rights - {"s3:ListBucket"}), resource=f"{store.bucket}/*")
    bucket = [allow(user, "s3:ListBucket", resource=store.bucket)] if "s3:ListBucket" in rights else []
    versitygw.put_bucket_policy(store.bucket, objects, *bucket)
    async with store.writer(credentials=user) as writer:
        with pytest.raises(AccessDenied, match=words):
            await writer.check("a", soon())
    assert not store.leftovers


async def test_the_check_asks_for_no_right_that_writes_do_not_need(versitygw: Versitygw) -> None:
    store, user = BucketStore(versitygw), versitygw.create_user()
    objects = allow(user, "s3:PutObject", resource=f"{store.bucket}/*")
    versitygw.put_bucket_policy(store.bucket, objects, allow(user, "s3:ListBucket", resource=store.bucket))
    async with store.writer(credentials=user) as writer:
        await writer.check("a", soon())
        assert isinstance((await writer.write([edit({"a/x": b"x"}, root="a")], soon()))["one"], Written)


async def test_an_object_that_is_forbidden_because_it_is_not_there_is_not_there(minio: Minio) -> None:
    """S3 answers so where the credentials may not list all of the bucket (API reference, GetObject, Permissions)."""
    async with fault_proxy(minio) as proxy:
        store = Faulty(minio, proxy)
        store.seed({"a/x": b"x", "a/xy": b"xy"})

        async def fault(asked: Asked, forward: Forward) -> Answer | None:
            del forward
            hidden = asked.operation == "Get" and not asked.target.partition("?")[0].endswith("/a/x")
            return Answer.error(403, "AccessDenied") if hidden else None

        proxy.fault = fault
        async with store.open() as writer:
            assert await writer.read_many(["a/x", "a/none"], soon()) == {"a/x": b"x"}
            with pytest.raises(AccessDenied, match="s3:GetObject"):
                await writer.read("a/xy", soon())


async def test_a_bucket_in_front_of_a_host_of_ones_own_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    class Resolver:
        async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
            return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": 2, "proto": 0, "flags": 0}]

        async def close(self) -> None:
            """Nothing was opened."""

    monkeypatch.setattr("shared.writers.s3.http.DefaultResolver", Resolver)
    with run_minio(domain="s3.example.test") as server:
        store = BucketStore(server)
        port = server.endpoint.rpartition(":")[2]
        async with store.writer(endpoint=f"s3.example.test:{port}") as writer:
            await writer.check("a", soon())
        async with store.writer(endpoint=f"{store.bucket}.s3.example.test:{port}") as writer:
            with pytest.raises(StateStoreNotReady, match=f"names the bucket already: write s3.example.test:{port}$"):
                await writer.check("a", soon())
        assert store.files() == {}
