"""The servers in memory give the answers that the real ones give, to the same calls in the same order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from aiobotocore.session import get_session
from botocore.exceptions import ClientError

from shared.deadline import Deadline
from shared.plan import Edit
from shared.resources import GitAuthor
from shared.settings import Settings
from shared.writers.git.branch import Moved, Refused
from shared.writers.git.changeset import Changeset
from shared.writers.git.repository import Repository
from shared.writers.git.session import Session
from tests.contract.harness import LOOPBACK, secret_of
from tests.interleavings.git_remote import Endpoint, Remote
from tests.interleavings.kubernetes_api import BY_NAME, ApiClient, Objects
from tests.interleavings.machine import Actor, Machine
from tests.interleavings.s3 import Bucket, S3Client
from tests.interleavings.sqs import Queues, SqsClient
from tests.servers.git import GitServer
from tests.servers.kubernetes import KubernetesApi
from tests.servers.s3 import Minio
from tests.servers.sqs import AwsServer

_GROUP = "/apis/platform.kratix.io/v1alpha1"
_PATCH = "application/merge-patch+json"
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


def drive(machine: Machine, coroutine: Any) -> Any:
    """Run a coroutine whose calls are carried out in their order."""
    task = machine.start(coroutine, Actor(1, "test"))
    while not task.done():
        if machine.pending:
            machine.perform(machine.pending[0])
        else:
            assert machine.next_timer is not None, "it waits for what never comes"
            machine.advance(machine.next_timer)
    return task.result()


def _destination(name: str, **spec: Any) -> dict[str, Any]:
    reference = {"kind": "BucketStateStore", "name": "store"}
    return {
        "apiVersion": "platform.kratix.io/v1alpha1",
        "kind": "Destination",
        "metadata": {"name": name, "finalizers": ["kratix.io/destination-cleanup"], "labels": {"tier": name}},
        "spec": {"stateStoreRef": reference, "cleanup": "all", **spec},
    }


def _lease(**spec: Any) -> dict[str, Any]:
    metadata = {"name": "place"}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}


Answers = list[tuple[int, Any]]
# What earlier answers have told, by their number.
_OLD = {"resourceVersion": "$1.resourceVersion"}
_NOW = {"resourceVersion": "$10.resourceVersion"}
_LEASE = {"resourceVersion": "$35.resourceVersion"}
# Method, path and body, in this order.
_CALLS: Sequence[tuple[str, str, Any]] = (
    ("GET", f"{_GROUP}/destinations/one", None),
    ("POST", f"{_GROUP}/destinations", _destination("one")),
    ("POST", f"{_GROUP}/destinations", _destination("one")),
    ("POST", f"{_GROUP}/destinations", {**_destination("two"), "status": {"conditions": []}}),
    ("POST", f"{_GROUP}/destinations", _destination("bad", cleanup="some")),
    # A change of the spec raises the generation, one of the labels does not, one of the status neither.
    ("PATCH", f"{_GROUP}/destinations/one", {"spec": {"path": "a"}}),
    ("PATCH", f"{_GROUP}/destinations/one", {"metadata": {"labels": {"more": "yes"}}}),
    ("PATCH", f"{_GROUP}/destinations/one", {"spec": {"path": "a"}}),
    ("PATCH", f"{_GROUP}/destinations/one/status", {"status": {"conditions": [{"type": "Ready", "status": "True",
        "reason": "R", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 2}]}}),
    ("PATCH", f"{_GROUP}/destinations/one/status", {"spec": {"path": "ignored"}, "status": {"conditions": []}}),
    ("PATCH", f"{_GROUP}/destinations/one", {"status": {"conditions": [{"type": "Ignored"}]}}),
    # A resourceVersion that is not the newest is a conflict, in either part of the object; the newest is none.
    ("PATCH", f"{_GROUP}/destinations/one", {"metadata": _OLD, "spec": {"path": "b"}}),
    ("PATCH", f"{_GROUP}/destinations/one/status", {"metadata": _OLD, "status": {}}),
    ("PATCH", f"{_GROUP}/destinations/one", {"metadata": _NOW, "spec": {"path": "b"}}),
    ("GET", f"{_GROUP}/destinations", None),
    ("GET", f"{_GROUP}/destinations?labelSelector=tier%3Dtwo", None),
    ("GET-METADATA", f"{_GROUP}/destinations/one", None),
    ("GET-METADATA", f"{_GROUP}/destinations?labelSelector=tier%3Done", None),
    # A deletion with another uid or resourceVersion as a precondition; one that waits for finalizers; again; then gone.
    ("DELETE", f"{_GROUP}/destinations/one", {"preconditions": {"uid": "another"}}),
    ("DELETE", f"{_GROUP}/destinations/one", {"preconditions": {"resourceVersion": "$1.resourceVersion"}}),
    ("DELETE", f"{_GROUP}/destinations/one", None),
    ("GET", f"{_GROUP}/destinations/one", None),
    ("DELETE", f"{_GROUP}/destinations/one", None),
    ("PATCH", f"{_GROUP}/destinations/one", {"spec": {"path": "c"}}),
    ("PATCH", f"{_GROUP}/destinations/one", {"metadata": {"finalizers": None}}),
    ("GET", f"{_GROUP}/destinations/one", None),
    ("PATCH", f"{_GROUP}/destinations/one", {"metadata": {"finalizers": None}}),
    ("POST", f"{_GROUP}/destinations", _destination("one")),
    ("DELETE", f"{_GROUP}/destinations/nothing", None),
    # Namespaces have to be there.
    ("POST", "/api/v1/namespaces/nowhere/secrets", {"metadata": {"name": "s"}, "data": {"a": "eA=="}}),
    ("POST", "/api/v1/namespaces/default/secrets", {"metadata": {"name": "s"}, "data": {"a": "eA=="}}),
    ("PATCH", "/api/v1/namespaces/default/secrets/s", {"data": {"a": None, "b": "eQ=="}}),
    ("DELETE", "/api/v1/namespaces/default/secrets/s", None),
    # Leases: no generation; times with six digits and no others; a positive term; 409 as everywhere.
    ("GET", f"{_LEASES}/place", None),
    ("POST", _LEASES, _lease(renewTime="2026-01-01T00:00:00Z")),
    ("POST", _LEASES, _lease(holderIdentity="a", leaseDurationSeconds=60, renewTime="2026-01-01T00:00:00.000000Z")),
    ("POST", _LEASES, _lease(holderIdentity="b", leaseDurationSeconds=60)),
    ("PATCH", f"{_LEASES}/place", {"metadata": _LEASE, "spec": {"holderIdentity": "b"}}),
    ("PATCH", f"{_LEASES}/place", {"metadata": _LEASE, "spec": {"holderIdentity": "c"}}),
    ("PATCH", f"{_LEASES}/place", {"spec": {"renewTime": "2026-01-01T00:00:00Z"}}),
    ("PATCH", f"{_LEASES}/place", {"spec": {"acquireTime": "2026-01-01T00:00:00.123Z"}}),
    ("PATCH", f"{_LEASES}/place", {"spec": {"leaseDurationSeconds": 0}}),
    ("PATCH", f"{_LEASES}/place", {"spec": {"holderIdentity": None}, "metadata": {"annotations": {"waiting": "d"}}}),
    ("GET", f"{_LEASES}/place", None),
    ("DELETE", f"{_LEASES}/place", None),
)  # fmt: skip


def _filled(body: Any, answers: Answers) -> Any:
    """Return a body with what earlier answers have told."""
    text = json.dumps(body)
    for number, (_, answer) in enumerate(answers):
        for field in ("resourceVersion", "uid"):
            value = ((answer or {}).get("metadata") or {}).get(field)
            if isinstance(value, str):
                text = text.replace(f'"${number}.{field}"', json.dumps(value))
    return json.loads(text)


def _same(answers: Answers) -> list[Any]:
    """Return answers without what no two servers have in common, but with what of it changes and what stays."""
    seen: dict[str, int] = {}

    def number(value: str) -> str:
        return f"#{seen.setdefault(value, len(seen))}"

    def shown(obj: Mapping[str, Any]) -> Any:
        metadata = obj.get("metadata") or {}
        kept = ("name", "namespace", "labels", "annotations", "finalizers", "generation")
        told: dict[str, Any] = {name: metadata[name] for name in kept if name in metadata}
        told |= {name: number(metadata[name]) for name in ("uid", "resourceVersion") if metadata.get(name)}
        told |= {name: True for name in ("creationTimestamp", "deletionTimestamp") if metadata.get(name)}
        return [told, obj.get("spec"), obj.get("status"), obj.get("data")]

    found: list[Any] = []
    for status, answer in answers:
        if "items" in answer:
            found.append((status, answer["kind"], [shown(item) for item in answer["items"]]))
        elif answer.get("kind") == "Status":
            found.append((status, answer.get("status"), answer.get("reason") if status >= 400 else None))
        else:
            found.append((status, answer["kind"], shown(answer)))
    return found


async def _asked(ask: Callable[[str, str, Any], Awaitable[tuple[int, Any]]]) -> Answers:
    answers: Answers = []
    for method, path, body in _CALLS:
        answers.append(await ask(method, path, _filled(body, answers)))
    return answers


def _in_memory() -> Answers:
    machine, store = Machine(), Objects()
    for name in ("default", "landfall"):
        store.create(BY_NAME["Namespace"], "", {"metadata": {"name": name}})
    client = ApiClient(machine, store)

    async def ask(method: str, path: str, body: Any) -> tuple[int, Any]:
        path, _, query = path.partition("?")
        accept = "application/json"
        if method == "GET-METADATA":
            method, accept = "GET", _METADATA_LIST if query else _METADATA
        parameters = [tuple(part.replace("%3D", "=").split("=", 1)) for part in query.split("&") if part]
        answer = await client.call_api(
            path, method, query_params=parameters, header_params={"Accept": accept}, body=body
        )
        return int(answer.status), json.loads(b"".join([chunk async for chunk in answer.content.iter_any()]))

    found: Answers = drive(machine, _asked(ask))
    return found


def test_the_kubernetes_api_in_memory_answers_as_the_real_one(cluster: KubernetesApi) -> None:
    from tests.servers import web

    async def ask(method: str, path: str, body: Any) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {cluster.token}", "Content-Type": "application/json"}
        if method == "PATCH":
            headers["Content-Type"] = _PATCH
        if method == "GET-METADATA":
            method, headers["Accept"] = "GET", _METADATA_LIST if "?" in path else _METADATA
        data = b"" if body is None else json.dumps(body).encode()
        answer = web.request(method, cluster.url + path, headers=headers, body=data, ca=cluster.ca)
        return answer.status, answer.json()

    try:
        real = asyncio.run(_asked(ask))
    finally:
        for name in ("one", "two"):
            path = f"{_GROUP}/destinations/{name}"
            cluster.request("PATCH", path, {"metadata": {"finalizers": None}}, content_type=_PATCH)
            cluster.request("DELETE", path)
    for call, ours, theirs in zip(_CALLS, _same(_in_memory()), _same(real), strict=True):
        assert ours == theirs, f"{call[0]} {call[1]} {json.dumps(call[2])[:200]}\n{ours}\n{theirs}"


def _sqs_story(receive: Callable[[], list[Any]], act: Callable[..., Any], wait: Callable[[float], None]) -> list[Any]:
    """Tell of a queue with a visibility timeout of 2 s and two receives, call by call."""
    told: list[Any] = []

    def look() -> list[Any]:
        found = receive()
        told.append(sorted((m["Body"], m["Attributes"]["ApproximateReceiveCount"]) for m in found))
        return found

    act("send", "a", 0)
    act("send", "b", 3)
    first = look()  # b is not there yet, and a is hidden from now on
    look()
    wait(2.5)
    second = look()  # a again, by another receipt
    act("hide", first[0]["ReceiptHandle"], 0)  # an old receipt does not show it earlier …
    told.append(bool(second))
    wait(2.5)
    act("delete", second[0]["ReceiptHandle"])
    look()  # b alone: a is settled
    wait(2.5)
    found = look()
    act("hide", found[0]["ReceiptHandle"], 1)
    look()
    wait(1.5)
    look()  # two receives were allowed: it is put aside instead
    return told


def test_the_queues_in_memory_answer_as_sqs(sqs: AwsServer) -> None:
    queue = sqs.create_queue(receives=2, visibility_timeout=2)

    def real(what: str, *given: Any) -> None:
        match what:
            case "send":
                sqs.send(queue.url, given[0], DelaySeconds=given[1])
            case "hide":
                sqs.sqs(
                    "ChangeMessageVisibility", QueueUrl=queue.url, ReceiptHandle=given[0], VisibilityTimeout=given[1]
                )
            case _:
                sqs.delete(queue.url, given[0])

    def real_receive() -> list[Any]:
        return sqs.receive(queue.url, AttributeNames=["ApproximateReceiveCount"])

    machine = Machine()
    queues = Queues(machine, most_receives=2)
    client = SqsClient(queues)

    def ours(what: str, *given: Any) -> None:
        match what:
            case "send":
                drive(machine, client.send_message_batch(QueueUrl="documents", Entries=[_entry(*given)]))
            case "hide":
                entries = [{"Id": "0", "ReceiptHandle": given[0], "VisibilityTimeout": given[1]}]
                drive(machine, client.change_message_visibility_batch(QueueUrl="documents", Entries=entries))
            case _:
                entries = [{"Id": "0", "ReceiptHandle": given[0]}]
                drive(machine, client.delete_message_batch(QueueUrl="documents", Entries=entries))

    def our_receive() -> list[Any]:
        call = client.receive_message(QueueUrl="documents", MaxNumberOfMessages=10, VisibilityTimeout=2)
        return list(drive(machine, call)["Messages"])

    told = _sqs_story(our_receive, ours, lambda seconds: machine.advance(machine.now + seconds))
    assert told == _sqs_story(real_receive, real, time.sleep)
    assert [message.body for message in queues.dead] == [m["Body"] for m in sqs.receive(queue.dead_letter_url)] == ["b"]


def _entry(body: str, delay: int) -> dict[str, Any]:
    return {"Id": "0", "MessageBody": body, "DelaySeconds": delay}


async def _s3_story(s3: Any, bucket: str) -> list[Any]:
    """Tell of a bucket, call by call."""
    told: list[Any] = []

    async def listed(**more: Any) -> None:
        page = await s3.list_objects_v2(Bucket=bucket, **more)
        found = [(item["Key"], item["ETag"], item["Size"]) for item in page.get("Contents", ())]
        told.append((found, page["IsTruncated"]))

    async def tried(call: Awaitable[Any]) -> None:
        try:
            told.append(sorted(await call)[:0])
        except ClientError as error:
            told.append((error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]))

    await listed(Prefix="")
    for key in ("a/b", "a/c", "a0", "ab", "A"):
        await s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    await s3.put_object(Bucket=bucket, Key="a/b", Body=b"another")
    await listed(Prefix="a/")
    await listed(Prefix="a", MaxKeys=2)
    page = await s3.list_objects_v2(Bucket=bucket, Prefix="a", MaxKeys=2)
    await listed(Prefix="a", MaxKeys=2, ContinuationToken=page["NextContinuationToken"])
    await tried(s3.get_object(Bucket=bucket, Key="none"))
    await tried(s3.head_object(Bucket=bucket, Key="none"))
    async with (await s3.get_object(Bucket=bucket, Key="a/b"))["Body"] as body:
        told.append(b"".join([chunk async for chunk in body.iter_chunks(3)]))
    await s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a/b"}, {"Key": "none"}], "Quiet": True})
    await listed(Prefix="")
    upload = await s3.create_multipart_upload(Bucket=bucket, Key="upload")
    await s3.abort_multipart_upload(Bucket=bucket, Key="upload", UploadId=upload["UploadId"])
    await listed(Prefix="")
    return told


async def test_the_bucket_in_memory_answers_as_a_real_one(minio: Minio) -> None:
    real_bucket = minio.create_bucket()
    async with get_session().create_client(
        "s3",
        endpoint_url=minio.url,
        region_name="us-east-1",
        aws_access_key_id=minio.root.access_key,
        aws_secret_access_key=minio.root.secret_key,
    ) as s3:
        real = await _s3_story(s3, real_bucket)
    assert await asyncio.to_thread(_s3_in_memory) == real


def _s3_in_memory() -> list[Any]:
    machine = Machine()
    told: list[Any] = drive(machine, _s3_story(S3Client(Bucket(machine, "bucket")), "bucket"))
    return told


def _git_story(open_repository: Callable[[], Repository], changeset: Callable[[], Changeset]) -> Iterator[Any]:
    """Tell of two writers of one branch, call by call."""
    first = changeset()
    yield sorted(first.write([_edit("one", "a/x", b"1")]))
    stale = open_repository()
    before = stale.fetch()
    yield sorted(path for path in before.trees(lambda: None).under(""))
    changeset().write([_edit("two", "a/y", b"2")])
    # Whoever looked before that is told that the branch has moved, before anything is sent.
    with pytest.raises(Moved):
        stale.push(before.tip, before.tip or b"", [])  # type: ignore[arg-type]
    yield "moved"
    # A writer with a snapshot that is out of date looks again and loses nothing.
    first.write([_edit("three", "b", b"3")])
    yield sorted(open_repository().fetch().trees(lambda: None).under(""))
    found = changeset().find_files(["a/x", "a/y", "none"])
    yield sorted(found)
    yield sorted(changeset().blobs({sha: path for path, sha in found.items()}).values())
    yield changeset().write([_edit("three", "b", b"3")])["three"].changed  # type: ignore[union-attr]


def _edit(name: str, path: str, content: bytes) -> Edit:
    return Edit(name, name, "", files={path: content})


def test_the_git_remote_in_memory_answers_as_a_real_server(git_server: GitServer) -> None:
    from shared.resources import GitStateStore
    from shared.writers.git.endpoint import open_endpoint

    repository = git_server.create_repository()
    repository.commit_files({"README.md": b"x"})
    spec = {"url": repository.https_url, "branch": repository.default_branch}
    settings = Settings(allowed_networks=LOOPBACK, ca_bundle=git_server.ca)
    store = GitStateStore.parse({"kind": "GitStateStore", "metadata": {"name": "real"}, "spec": spec})
    secret = secret_of(username=git_server.username, password=git_server.password)
    endpoint = open_endpoint(store, secret, settings)
    author = GitAuthor()

    with contextlib.ExitStack() as sessions:

        def session() -> Session:
            return sessions.enter_context(Session(settings, Deadline.after(60)))

        real = list(
            _git_story(
                lambda: Repository(endpoint, repository.default_branch, session()),
                lambda: Changeset(endpoint, repository.default_branch, author, session(), None, lambda _: None),
            )
        )
    machine = Machine(time.time())
    ours_at = Endpoint(Remote.with_files(machine, "remote", {"README.md": b"x"}), "https://git.example.com/r.git")

    def story() -> list[Any]:
        return list(
            _git_story(
                lambda: Repository(ours_at, "main", Session(settings, Deadline.after(60))),
                lambda: Changeset(ours_at, "main", author, Session(settings, Deadline.after(60)), None, lambda _: None),
            )
        )

    async def run() -> list[Any]:
        found: list[Any] = await machine.run_in_executor(None, story)
        return found

    assert drive(machine, run()) == real


def test_a_push_that_the_server_got_after_another_is_refused_as_by_a_real_one(git_server: GitServer) -> None:
    """The race that no client can see: the branch moves after it was advertised. On the real one, a hook makes it."""
    repository = git_server.create_repository()
    repository.commit_files({"README.md": b"x"})
    other = repository.commit_files({"other": b"y"}, branch=f"other-{secrets.token_hex(3)}")
    move = f"env -u GIT_QUARANTINE_PATH git update-ref refs/heads/{repository.default_branch} {other}"
    repository.set_hook("pre-receive", f"#!/bin/sh\n{move}\n")
    refused = _pushed_too_late_to_a_real_one(git_server, repository)
    machine = Machine(time.time())
    remote = Remote.with_files(machine, "remote", {"README.md": b"x"})
    assert _pushed_too_late_in_memory(machine, remote) == refused == "failed to update ref"


def _pushed_too_late_to_a_real_one(git_server: GitServer, repository: Any) -> str:
    from shared.resources import GitStateStore
    from shared.writers.git.endpoint import open_endpoint

    spec = {"url": repository.https_url, "branch": repository.default_branch}
    settings = Settings(allowed_networks=LOOPBACK, ca_bundle=git_server.ca)
    store = GitStateStore.parse({"kind": "GitStateStore", "metadata": {"name": "real"}, "spec": spec})
    endpoint = open_endpoint(store, secret_of(username=git_server.username, password=git_server.password), settings)
    with Session(settings, Deadline.after(60)) as session:
        return _push_something(Repository(endpoint, repository.default_branch, session))


def _pushed_too_late_in_memory(machine: Machine, remote: Remote) -> str:
    settings = Settings()
    endpoint = Endpoint(remote, "https://git.example.com/r.git")

    async def run() -> str:
        opened = Repository(endpoint, "main", Session(settings, Deadline.after(60)))
        refused: str = await machine.run_in_executor(None, _push_something, opened)
        return refused

    task = machine.start(run(), Actor(1, "test"))
    while not task.done():
        if machine.pending[0].name == "push":
            remote.commit({"other": b"y"}, ())
        machine.perform(machine.pending[0])
    return str(task.result())


def _push_something(opened: Repository) -> str:
    from shared.writers.git import commit
    from shared.writers.git.trees import build

    before = opened.fetch()
    built = build(before.trees(lambda: None), {"mine": b"z"}, ())
    made = commit.make(built.root, before.parent, GitAuthor(), ["mine"])
    with pytest.raises(Refused) as refused:
        opened.push(before.tip, made.id, [made, *built.trees.values(), *built.blobs.values()])
    return refused.value.status
