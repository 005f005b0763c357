"""Two Works of one Promise at one Destination: the directory is the older one's, in whatever batches.

See docs/failure-modes.md#53-shared-directories.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from shared.messages import Reference
from shared.reconcile.deliveries import write_documents
from tests.integration.by_hand import MERGE, PLACEMENTS, ByHand, by_hand, placement
from tests.integration.platform_team import Platform
from tests.integration.test_documents import group
from tests.servers.kubernetes import KubernetesApi

pytestmark = pytest.mark.asyncio(loop_scope="module")

FIRST, SECOND = "first.worker-1-5058f", "second.worker-1-5058f"
DIRECTORY = "worker-1/dependencies/redis/5058f"
OF_FIRST = {f"{DIRECTORY}/first.yaml": b"first"}
OF_SECOND = {f"{DIRECTORY}/second.yaml": b"second"}
LABEL = "landfall.kratix.io/directory"


@pytest_asyncio.fixture(loop_scope="module")
async def hands(cluster: KubernetesApi, platform: Platform) -> AsyncIterator[ByHand]:
    async with by_hand(cluster, platform) as running:
        platform.destination("worker-1", "bucket/default")
        yield running


async def two_works(hands: ByHand) -> None:
    """Place a Work, and one a second later: API servers tell ages in seconds."""
    hands.work("first", group({"first.yaml": b"first"}), promise="redis")
    await hands.place()
    await asyncio.sleep(1.1)
    hands.work("second", group({"second.yaml": b"second"}), promise="redis")
    await hands.place()


def says(hands: ByHand, name: str) -> tuple[str, str]:
    condition = hands.platform.condition("workplacements", name, "WriteSucceeded")
    return condition[0], condition[2]


@pytest.mark.parametrize(
    "batches", [[[FIRST, SECOND]], [[FIRST], [SECOND]], [[SECOND], [FIRST]], [[SECOND], [FIRST], [SECOND], [FIRST]]]
)
@pytest.mark.parametrize("labelled", [True, False], ids=["ours", "made by others"])
async def test_the_older_one_has_the_directory_whatever_the_order(
    hands: ByHand, batches: list[list[str]], labelled: bool
) -> None:
    await two_works(hands)
    for name, obj in hands.placements().items():
        assert LABEL in obj["metadata"]["labels"]
        if not labelled:
            path = f"{PLACEMENTS}/{name}"
            hands.platform.api.call("PATCH", path, {"metadata": {"labels": {LABEL: None}}}, content_type=MERGE)
    for batch in batches:
        await hands.write(*batch)
    assert hands.store.files == OF_FIRST
    assert says(hands, FIRST)[0] == "True"
    status, why = says(hands, SECOND)
    assert status == "False"
    assert f"WorkPlacement default/{FIRST}" in why
    assert f"WorkPlacement default/{SECOND}" in why
    await hands.place(m=placement(SECOND))  # as status-report sends it on
    assert hands.says("second")[0] == "WorkplacementsFailing"


async def test_who_was_refused_is_written_in_the_changeset_that_lets_the_first_one_go(hands: ByHand) -> None:
    await two_works(hands)
    await hands.write(FIRST, SECOND)
    hands.platform.delete_object("works", "first")
    await hands.place()
    await hands.write(FIRST)
    assert hands.store.files == OF_SECOND
    assert says(hands, SECOND)[0] == "True"
    assert hands.placements().keys() == {SECOND}


async def test_a_refused_one_that_is_deleted_takes_nothing_with_it(hands: ByHand) -> None:
    await two_works(hands)
    await hands.write(FIRST, SECOND)
    hands.platform.delete_object("works", "second")
    await hands.place()
    await hands.write(SECOND)
    assert hands.store.files == OF_FIRST
    assert hands.placements().keys() == {FIRST}


async def test_who_shares_with_none_costs_two_lists_of_nothing_but_metadata(hands: ByHand) -> None:
    hands.work("first", group({"first.yaml": b"first"}), promise="redis")
    hands.work("second", group({"second.yaml": b"second"}), promise="postgres")
    await hands.place()
    await hands.write(FIRST)
    hands.store.files.clear()
    hands.proxy.reset()
    await hands.write(FIRST)
    lists = [asked for asked in hands.proxy.asked if asked.is_("list", "workplacements")]
    assert len([asked for asked in lists if LABEL in asked.query.get("labelSelector", "")]) == 2
    assert not any(asked.is_("get", "workplacements", SECOND) for asked in hands.proxy.asked)
    assert hands.store.files == OF_FIRST


async def test_a_resync_of_the_state_store_finds_both(hands: ByHand) -> None:
    await two_works(hands)
    store = Reference(kind="BucketStateStore", name="default")
    for _ in range(2):
        failures, sent = await hands.run(write_documents, m=store)
        assert failures == {}
        await hands.report(sent)
        assert hands.store.files == OF_FIRST
    assert (says(hands, FIRST)[0], says(hands, SECOND)[0]) == ("True", "False")
