"""A paused Destination, or one of a paused State Store, is neither written nor cleaned until it goes on.

See docs/kinds/destination.md#pausing-and-reconciling-now.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from shared.events import Change
from shared.messages import Reference
from shared.reconcile.changes import decide_changes
from shared.steering import PAUSED_ANNOTATION, REQUEST_ANNOTATION
from tests.integration.by_hand import FOLLOWS, ByHand, by_hand
from tests.integration.platform_team import GROUP, Platform
from tests.servers.kubernetes import KubernetesApi

pytestmark = pytest.mark.asyncio(loop_scope="module")

DESTINATION = f"{GROUP}/destinations/worker-1"
STORE = f"{GROUP}/bucketstatestores/default"


@pytest_asyncio.fixture(loop_scope="module")
async def hands(cluster: KubernetesApi, platform: Platform) -> AsyncIterator[ByHand]:
    """One Destination that is Ready, with one document."""
    async with by_hand(cluster, platform) as running:
        platform.destination("worker-1", "bucket/default", cleanup="all")
        await happens(running, "Destination", "worker-1")
        running.placement("w", {"a.yaml": b"a\n"})
        await happens(running, "WorkPlacement", "w")
        assert platform.ready("worker-1")[0] == "True"
        assert "worker-1/dependencies/w/5058f/a.yaml" in running.store.files
        yield running


async def happens(hands: ByHand, *objects: str) -> None:
    """Let the functions follow events about objects, `kind, name, kind, name, …`, until nothing is left to do."""
    changes = [
        Change(Reference(kind=kind, name=name, namespace="default" if kind == "WorkPlacement" else ""))
        for kind, name in zip(objects[::2], objects[1::2], strict=True)
    ]
    failures, sent = await hands.run(decide_changes, event=changes)  # type: ignore[arg-type]
    assert failures == {}
    await hands.settle(sent)


def annotate(platform: Platform, path: str, name: str, value: str | None) -> None:
    patch = {"metadata": {"annotations": {name: value}}}
    answer = platform.api.request("PATCH", path, patch, content_type="application/merge-patch+json")
    assert answer.status == 200, answer


def paused_by(what: str) -> str:
    return DESTINATION if what == "destination" else STORE


def answer_of(platform: Platform) -> str | None:
    obj = platform.get("worker-1")
    assert obj is not None
    return next((c["message"] for c in obj["status"]["conditions"] if c["type"] == "Reconciled"), None)


async def look_at_all(hands: ByHand) -> None:
    """Let every kind of message about them reach every function, as a resync and late messages do."""
    everything = ("Destination", "worker-1", "BucketStateStore", "default", "WorkPlacement", "w")
    await happens(hands, *everything)
    for queue in FOLLOWS.values():
        reference = Reference(kind="Destination", name="worker-1")
        failures, sent = await hands.run(queue, late=reference)
        assert failures == {}
        assert await hands.report(sent) == {}


@pytest.mark.parametrize("what", ["destination", "store"])
async def test_what_is_paused_is_not_written_and_goes_on_where_it_was(
    hands: ByHand, platform: Platform, what: str
) -> None:
    annotate(platform, paused_by(what), PAUSED_ANNOTATION, "true")
    before = dict(hands.store.files)
    hands.placement("w", {"a.yaml": b"changed\n"})
    platform.destination("worker-1", "bucket/default", cleanup="all", path="moved")
    await look_at_all(hands)
    assert hands.store.files == before
    assert platform.ready("worker-1")[:2] == ("Unknown", "Paused")
    annotate(platform, paused_by(what), PAUSED_ANNOTATION, None)
    await look_at_all(hands)
    assert platform.ready("worker-1")[0] == "True"
    assert hands.store.files["moved/dependencies/w/5058f/a.yaml"] == b"changed\n"
    assert not any(path.startswith("worker-1/") for path in hands.store.files)


@pytest.mark.parametrize("what", ["destination", "store"])
async def test_the_deletion_of_what_is_paused_waits_with_an_event(hands: ByHand, platform: Platform, what: str) -> None:
    annotate(platform, paused_by(what), PAUSED_ANNOTATION, "true")
    before = dict(hands.store.files)
    platform.delete_object("workplacements", "w")
    platform.delete("destinations", "worker-1")
    await look_at_all(hands)
    assert hands.store.files == before
    assert "w" in hands.placements()
    assert platform.get("worker-1") is not None
    assert any(event[:2] == ("Warning", "Paused") for event in platform.events("worker-1"))
    annotate(platform, paused_by(what), PAUSED_ANNOTATION, None)
    for _ in range(2):  # the WorkPlacements go first
        await look_at_all(hands)
    assert platform.get("worker-1") is None
    assert hands.store.files == {}


async def test_files_that_a_moved_destination_left_at_a_paused_state_store_stay(
    hands: ByHand, platform: Platform
) -> None:
    platform.bucket_store("other", endpoint="nowhere", bucketName="other", authMethod="IAM")
    annotate(platform, STORE, PAUSED_ANNOTATION, "true")
    platform.destination("worker-1", "bucket/other", cleanup="all", path="moved")
    await look_at_all(hands)
    assert "moved/dependencies/w/5058f/a.yaml" in hands.store.files
    assert "worker-1/dependencies/w/5058f/a.yaml" in hands.store.files
    annotate(platform, STORE, PAUSED_ANNOTATION, None)
    await look_at_all(hands)
    assert not any(path.startswith("worker-1/") for path in hands.store.files)


async def test_a_request_is_answered_when_it_was_carried_out_and_not_while_paused(
    hands: ByHand, platform: Platform
) -> None:
    annotate(platform, DESTINATION, PAUSED_ANNOTATION, "true")
    annotate(platform, DESTINATION, REQUEST_ANNOTATION, "2026-01-01T00:00:00Z")
    hands.store.files["worker-1/dependencies/w/5058f/a.yaml"] = b"by hand\n"
    await look_at_all(hands)
    assert answer_of(platform) is None
    annotate(platform, DESTINATION, PAUSED_ANNOTATION, None)
    await look_at_all(hands)
    assert answer_of(platform) == "2026-01-01T00:00:00Z"
    assert hands.store.files["worker-1/dependencies/w/5058f/a.yaml"] == b"a\n"
