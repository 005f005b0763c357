"""What shows that a forwarder is at work, and what does when it is not: heartbeats and /metrics."""

import secrets
import time
from typing import Any

import pytest

from tests.integration.forwarder_process import Forwarder, Inbox, forwarder, service_account
from tests.integration.platform_team import Platform
from tests.servers import web
from tests.servers.process import ServerFailed, free_port, wait_until
from tests.servers.proxy import Toxiproxy
from tests.servers.sqs import AwsServer, Queue

KINDS = ("bucketstatestores", "gitstatestores", "destinations", "works", "workplacements", "secrets")
PREFIX = "landfall_forwarder_"
EACH_SECOND: dict[str, Any] = {"LANDFALL_HEARTBEAT_SECONDS": "1"}


@pytest.fixture
def queue(sqs: AwsServer) -> Queue:
    return sqs.create_queue()


@pytest.fixture
def inbox(sqs: AwsServer, queue: Queue) -> Inbox:
    return Inbox(sqs, queue)


def watching(running: Forwarder) -> dict[str, float]:
    found = running.metrics()
    return {kind: found[f"{PREFIX}watching", kind] for kind in KINDS}


def test_while_it_watches_a_heartbeat_comes_at_its_pace_and_names_the_cluster(
    platform: Platform, sqs: AwsServer, queue: Queue, inbox: Inbox
) -> None:
    with forwarder(platform.api, sqs, queue.arn, LANDFALL_CLUSTER="edge", **EACH_SECOND):
        wait_until("three heartbeats", lambda: inbox.heartbeats() >= 3, timeout=30)
        began, first = time.monotonic(), inbox.heartbeats()
        wait_until("three more", lambda: inbox.heartbeats() >= first + 3, timeout=30)
        assert inbox.heartbeats() - first <= time.monotonic() - began + 2, "no faster than asked for"
    assert {(event["type"], event["cluster"], len(event)) for event in inbox.read()} == {("HEARTBEAT", "edge", 2)}


def test_a_forwarder_that_cannot_watch_every_kind_is_silent(
    platform: Platform, sqs: AwsServer, queue: Queue, inbox: Inbox
) -> None:
    """Alive is not enough: where it may not list Secrets, rotated credentials are told by nobody."""
    api = platform.api
    resources = ["destinations", "bucketstatestores", "gitstatestores", "works", "workplacements"]
    rules = [{"apiGroups": ["platform.kratix.io"], "resources": resources, "verbs": ["list", "watch"]}]
    token = api.create_service_account("default", f"narrow-{secrets.token_hex(4)}", rules)
    with forwarder(api, sqs, queue.arn, kubeconfig=api.write_kubeconfig(token), **EACH_SECOND) as running:
        platform.destination("told", "bucket/default")
        inbox.wait_for(("ADDED", "told"))
        expected = {**dict.fromkeys(KINDS, 1.0), "secrets": 0.0}
        wait_until("all but Secrets are watched", lambda: watching(running) == expected, timeout=30)
        assert running.metrics()[f"{PREFIX}watch_failures_total", "secrets"] >= 1
        time.sleep(3)
        assert inbox.heartbeats() == 0


def test_heartbeats_stop_while_the_api_server_is_away_and_begin_again(
    platform: Platform, sqs: AwsServer, queue: Queue, inbox: Inbox, toxiproxy: Toxiproxy
) -> None:
    api = platform.api
    with toxiproxy.before(api.url) as proxy:
        kubeconfig = api.write_kubeconfig(service_account(api), url=proxy.url(api.url))
        with forwarder(api, sqs, queue.arn, kubeconfig=kubeconfig, **EACH_SECOND) as running:
            wait_until("a heartbeat", lambda: inbox.heartbeats() > 0, timeout=30)
            proxy.down()
            wait_until("no watch is open", lambda: set(watching(running).values()) == {0.0}, timeout=30)
            time.sleep(1)
            silent = inbox.heartbeats()
            time.sleep(3)
            assert inbox.heartbeats() == silent
            proxy.up()
            wait_until("heard again", lambda: inbox.heartbeats() > silent, timeout=60)
            found = running.metrics()
    assert all(found[f"{PREFIX}watch_restarts_total", kind] >= 1 for kind in KINDS)
    assert all(found[f"{PREFIX}watch_failures_total", kind] >= 1 for kind in KINDS)


def test_prometheus_sees_what_was_sent_what_was_not_and_for_how_long_it_waits(
    platform: Platform, sqs: AwsServer, queue: Queue, inbox: Inbox, toxiproxy: Toxiproxy
) -> None:
    with (
        toxiproxy.before(sqs.url) as proxy,
        forwarder(platform.api, sqs, queue.arn, aws_url=proxy.url(sqs.url)) as running,
    ):
        assert running.metrics()[f"{PREFIX}last_sent_timestamp_seconds", "sqs"] == 0
        began = time.time()
        for name in ("a", "b", "c"):
            platform.destination(name, "bucket/default")
        inbox.wait_for(("ADDED", "a"), ("ADDED", "b"), ("ADDED", "c"))
        wait_until("three sent", lambda: running.metrics()[f"{PREFIX}events_sent_total", "sqs"] == 3, timeout=10)
        found = running.metrics()
        assert began <= found[f"{PREFIX}last_sent_timestamp_seconds", "sqs"] <= time.time()
        assert found[f"{PREFIX}events_failed_total", "sqs"] == 0
        assert (found[f"{PREFIX}events_waiting", "sqs"], found[f"{PREFIX}oldest_event_seconds", "sqs"]) == (0, 0)
        proxy.down()
        for name in ("a", "b"):
            platform.destination(name, "bucket/default", path="elsewhere")
        wait_until("a failure", lambda: running.metrics()[f"{PREFIX}events_failed_total", "sqs"] >= 2, timeout=30)
        time.sleep(1)
        found = running.metrics()
        assert found[f"{PREFIX}events_waiting", "sqs"] == 2
        assert found[f"{PREFIX}oldest_event_seconds", "sqs"] >= 1
        proxy.up()
        inbox.wait_for(("MODIFIED", "a"), ("MODIFIED", "b"))
        wait_until("none waits", lambda: running.metrics()[f"{PREFIX}events_waiting", "sqs"] == 0, timeout=10)
        found = running.metrics()
        assert found[f"{PREFIX}oldest_event_seconds", "sqs"] == 0
        assert found[f"{PREFIX}events_sent_total", "sqs"] == 5
        assert found[("process_resident_memory_bytes",)] > 1e6


def test_metrics_are_served_as_text_and_nothing_else_is(platform: Platform, sqs: AwsServer, queue: Queue) -> None:
    with forwarder(platform.api, sqs, queue.arn) as running:
        root = running.metrics_url.removesuffix("/metrics")
        assert web.request("GET", f"{root}/", timeout=5).status == 404
        assert web.request("GET", running.metrics_url, timeout=5).headers["content-type"].startswith("text/plain")


def test_an_address_that_is_taken_ends_it_with_a_sentence(platform: Platform, sqs: AwsServer, queue: Queue) -> None:
    taken = f"127.0.0.1:{free_port()}"
    with (
        forwarder(platform.api, sqs, queue.arn, LANDFALL_METRICS_ADDRESS=taken),
        pytest.raises(ServerFailed, match=r"LANDFALL_METRICS_ADDRESS is .* which cannot be listened to"),
        forwarder(platform.api, sqs, queue.arn, LANDFALL_METRICS_ADDRESS=taken),
    ):
        pass
