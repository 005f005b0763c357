"""The forwarder among failures: lost connections, expired versions, restarts, AWS away; and what it never sends."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CRDS
from tests.integration.forwarder_process import Inbox, forwarder, service_account
from tests.integration.platform_team import GROUP, Platform
from tests.servers import web
from tests.servers.kubernetes import KubernetesApi, kubernetes_api
from tests.servers.process import ServerProcess, wait_until
from tests.servers.proxy import Toxiproxy
from tests.servers.sqs import AwsServer, Queue


@pytest.fixture
def queue(sqs: AwsServer) -> Queue:
    return sqs.create_queue()


@pytest.fixture
def inbox(sqs: AwsServer, queue: Queue) -> Inbox:
    return Inbox(sqs, queue)


@pytest.fixture
def forgetful(toxiproxy: Toxiproxy) -> Iterator[KubernetesApi]:
    """An API server without a watch cache: what etcd has compacted is gone for watchers at once."""
    with kubernetes_api("--watch-cache=false") as api:
        api.apply_crds(CRDS)
        yield api


def test_after_a_cut_connection_it_goes_on_where_it_was_and_tells_nothing_twice(
    platform: Platform, sqs: AwsServer, queue: Queue, inbox: Inbox, toxiproxy: Toxiproxy
) -> None:
    api = platform.api
    platform.destination("stays", "bucket/default")
    platform.destination("changes", "bucket/default")
    platform.destination("goes", "bucket/default")
    with toxiproxy.before(api.url) as proxy:
        kubeconfig = api.write_kubeconfig(service_account(api), url=proxy.url(api.url))
        with forwarder(api, sqs, queue.arn, kubeconfig=kubeconfig):
            inbox.wait_for(("ADDED", "stays"), ("ADDED", "changes"), ("ADDED", "goes"))
            inbox.forget()
            proxy.down()
            platform.destination("changes", "bucket/default", path="elsewhere")
            platform.destination("new", "bucket/default")
            platform.delete("destinations", "goes")
            proxy.up()
            inbox.wait_for(("MODIFIED", "changes"), ("ADDED", "new"), ("DELETED", "goes"))
            inbox.forget()
            toxic = proxy.reset_peer()
            platform.destination("changes", "bucket/default", path="again")
            proxy.remove(toxic)
            inbox.wait_for(("MODIFIED", "changes"))
            assert inbox.names() == [("MODIFIED", "changes")]


def test_after_410_gone_it_lists_again_and_tells_only_what_has_changed(
    forgetful: KubernetesApi, sqs: AwsServer, queue: Queue, inbox: Inbox, toxiproxy: Toxiproxy
) -> None:
    platform = Platform(forgetful)
    platform.destination("stays", "bucket/default")
    platform.destination("changes", "bucket/default")
    with toxiproxy.before(forgetful.url) as proxy:
        kubeconfig = forgetful.write_kubeconfig(service_account(forgetful), url=proxy.url(forgetful.url))
        with forwarder(forgetful, sqs, queue.arn, kubeconfig=kubeconfig):
            inbox.wait_for(("ADDED", "stays"), ("ADDED", "changes"))
            inbox.forget()
            before = forgetful.call("GET", f"{GROUP}/destinations")["metadata"]["resourceVersion"]
            proxy.down()
            platform.destination("changes", "bucket/default", path="elsewhere")
            platform.destination("new", "bucket/default")
            compact(forgetful)
            watch = forgetful.request("GET", f"{GROUP}/destinations?watch=true&resourceVersion={before}")
            assert (watch.json()["type"], watch.json()["object"]["code"]) == ("ERROR", 410)
            proxy.up()
            inbox.wait_for(("MODIFIED", "changes"), ("ADDED", "new"))
            platform.destination("later", "bucket/default")
            inbox.wait_for(("ADDED", "later"))
            assert ("ADDED", "stays") not in inbox.names()
            assert ("MODIFIED", "stays") not in inbox.names()


def test_after_a_restart_everything_is_told_again_also_what_came_meanwhile(
    platform: Platform, sqs: AwsServer, queue: Queue, inbox: Inbox
) -> None:
    platform.destination("old", "bucket/default")
    with forwarder(platform.api, sqs, queue.arn) as first:
        inbox.wait_for(("ADDED", "old"))
        assert first.end()["waiting"] == 0
    inbox.forget()
    platform.destination("old", "bucket/default", path="elsewhere")
    platform.destination("meanwhile", "bucket/default")
    with forwarder(platform.api, sqs, queue.arn):
        inbox.wait_for(("ADDED", "old"), ("ADDED", "meanwhile"))


def test_while_aws_is_away_the_newest_of_each_object_waits_and_nothing_is_lost(
    platform: Platform, sqs: AwsServer, queue: Queue, inbox: Inbox, toxiproxy: Toxiproxy
) -> None:
    with (
        toxiproxy.before(sqs.url) as proxy,
        forwarder(platform.api, sqs, queue.arn, aws_url=proxy.url(sqs.url)) as running,
    ):
        platform.destination("first", "bucket/default")
        inbox.wait_for(("ADDED", "first"))
        inbox.forget()
        proxy.down()
        for path in ("a", "b", "c"):
            platform.destination("first", "bucket/default", path=path)
            platform.destination("second", "bucket/default", path=path)
        wait_until("both wait", lambda: "2 events wait" in running.log, timeout=30)
        proxy.up()
        inbox.wait_for(("MODIFIED", "first"), ("ADDED", "second"))
        told = {e["object"]["metadata"]["name"]: e["object"]["metadata"]["generation"] for e in inbox.read()}
        assert told == {"first": 4, "second": 3}
        assert len(inbox.messages) == 2
        assert "Could not connect to the endpoint URL" in running.log


def test_when_it_ends_while_aws_is_away_it_says_how_much_was_not_sent(
    platform: Platform, sqs: AwsServer, queue: Queue, toxiproxy: Toxiproxy
) -> None:
    with toxiproxy.before(sqs.url) as proxy:
        proxy.down()
        with forwarder(platform.api, sqs, queue.arn, aws_url=proxy.url(sqs.url)) as running:
            platform.destination("only", "bucket/default")
            wait_until("it waits", lambda: "1 events wait" in running.log, timeout=30)
            assert running.end()["waiting"] == 1
            assert "1 events were not sent before the end; the next start sends them again" in running.log


def test_a_token_that_is_no_longer_valid_is_read_again(
    platform: Platform, sqs: AwsServer, queue: Queue, inbox: Inbox
) -> None:
    api, name = platform.api, f"rotated-{secrets.token_hex(4)}"
    rules = [{"apiGroups": ["platform.kratix.io", ""], "resources": ["*"], "verbs": ["list", "watch"]}]
    kubeconfig = api.write_kubeconfig(api.create_service_account("default", name, rules))
    with forwarder(api, sqs, queue.arn, kubeconfig=kubeconfig):
        platform.destination("before", "bucket/default")
        inbox.wait_for(("ADDED", "before"))
        api.call("DELETE", f"/api/v1/namespaces/default/serviceaccounts/{name}")
        api.write_kubeconfig(service_account(api)).rename(kubeconfig)
        platform.destination("after", "bucket/default")
        inbox.wait_for(("ADDED", "after"), seconds=60)


def test_an_identity_of_irsa_is_enough(
    platform: Platform, sqs: AwsServer, queue: Queue, inbox: Inbox, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text(platform.api.service_account_token("default", _account(platform.api)))
    irsa: dict[str, Any] = {
        "AWS_ACCESS_KEY_ID": "",
        "AWS_SECRET_ACCESS_KEY": "",
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/landfall-forwarder",
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(token),
    }
    platform.destination("there", "bucket/default")
    with forwarder(platform.api, sqs, queue.arn, **irsa) as running:
        inbox.wait_for(("ADDED", "there"))
        assert token.read_text() not in running.log


def test_500_destinations_are_told_in_batches_once_each(
    platform: Platform, sqs: AwsServer, queue: Queue, inbox: Inbox
) -> None:
    names = [f"many-{number:03}" for number in range(500)]
    with forwarder(platform.api, sqs, queue.arn) as running:
        asyncio.run(platform.create_destinations(names, "bucket/default"))
        wait_until("all were sent", lambda: len(inbox.read()) >= 500, timeout=60)
        print(f"resident: {resident_megabytes(running.process)} MB")
        assert sorted(inbox.names()) == [("ADDED", name) for name in names]
        assert running.end()["sent"] == 500


def test_no_value_and_no_document_leaves_the_api_server(
    platform: Platform, sqs: AwsServer, queue: Queue, inbox: Inbox
) -> None:
    value, annotated, content, password = (f"canary-{secrets.token_hex(12)}" for _ in range(4))
    last_applied = {"kubectl.kubernetes.io/last-applied-configuration": json.dumps({"stringData": {"key": annotated}})}
    api = platform.api
    with forwarder(api, sqs, queue.arn, LANDFALL_CLUSTER="production") as running:
        # Kratix's own CRD lets a password into spec.url, ours does not: nothing of a spec is told, whatever it holds.
        platform.git_store("default", url="https://git.example/r", path=password, secretRef={"name": "creds"})
        platform.work("redis", {"id": "5058f", "workloads": [{"filepath": "a", "content": content}]}, promise="redis")
        placement = {
            "apiVersion": "platform.kratix.io/v1alpha1",
            "kind": "WorkPlacement",
            "metadata": {"name": "redis.worker-1"},
            "spec": {"targetDestinationName": "worker-1", "workloads": [{"filepath": "a", "content": content}]},
        }
        api.call("POST", f"{GROUP}/namespaces/default/workplacements", placement)
        inbox.wait_for(("ADDED", "default"), kind="GitStateStore")
        metadata = {"name": "creds", "namespace": "default", "annotations": last_applied}
        secret = {"metadata": metadata, "stringData": {"key": value}}
        api.call("POST", "/api/v1/namespaces/default/secrets", secret)
        inbox.wait_for(("ADDED", "creds"), kind="Secret")
        inbox.wait_for(("ADDED", "redis"), kind="Work")
        inbox.wait_for(("ADDED", "redis.worker-1"), kind="WorkPlacement")
        told = json.dumps(inbox.messages) + running.log
        memory = memory_of(running.process)
    for hidden in (value, annotated, content, password):
        for form in (hidden, base64.b64encode(hidden.encode()).decode(), base64.b64encode(hidden.encode()).hex()):
            assert form not in told
    assert b"redis.worker-1" in memory, "this is the memory of the process that saw it"
    for hidden in (value, content):
        assert hidden.encode() not in memory
        assert base64.b64encode(hidden.encode()) not in memory
    assert all(event["cluster"] == "production" for event in inbox.read())
    api.call("DELETE", "/api/v1/namespaces/default/secrets/creds")


def test_without_secrets_it_needs_no_right_on_them(
    platform: Platform, sqs: AwsServer, queue: Queue, inbox: Inbox
) -> None:
    resources = ["destinations", "bucketstatestores", "gitstatestores", "works", "workplacements"]
    rules = [{"apiGroups": ["platform.kratix.io"], "resources": resources, "verbs": ["list", "watch"]}]
    token = platform.api.create_service_account("default", f"narrow-{secrets.token_hex(4)}", rules)
    kubeconfig = platform.api.write_kubeconfig(token)
    with forwarder(platform.api, sqs, queue.arn, kubeconfig=kubeconfig, LANDFALL_WATCH_SECRETS="false") as running:
        platform.destination("there", "bucket/default")
        inbox.wait_for(("ADDED", "there"))
        assert "error" not in running.log


def _account(api: KubernetesApi) -> str:
    name = f"irsa-{secrets.token_hex(4)}"
    api.create_service_account("default", name)
    return name


def compact(api: KubernetesApi) -> None:
    """Have etcd forget all versions but the last."""

    def call(path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = web.request("POST", f"{api.etcd}/v3/kv/{path}", body=json.dumps(body).encode())
        assert answer.status == 200, answer
        return dict(answer.json())

    revision = call("range", {"key": base64.b64encode(b"/registry/").decode()})["header"]["revision"]
    call("compaction", {"revision": revision, "physical": True})


def memory_of(process: ServerProcess) -> bytes:
    """Return all that a process has in its writable memory."""
    parts = []
    with Path(f"/proc/{process.pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            if rights.startswith("rw"):
                start, end = (int(part, 16) for part in span.split("-"))
                with contextlib.suppress(OSError):  # given back since
                    memory.seek(start)
                    parts.append(memory.read(end - start))
    return b"".join(parts)


def resident_megabytes(process: ServerProcess) -> int:
    """Return how much memory a process uses."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) // 1024
