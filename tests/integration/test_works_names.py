"""A group, a name or a placement of a Work that cannot be as it is: it is said, and what others have stays theirs.

See docs/failure-modes.md#33-dangling-groups, #35-placed-while-deleted, #38-long-names, #39-colliding-names.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from shared.deadline import Deadline
from shared.events import Change
from shared.messages import Reference
from shared.reconcile import placements
from shared.reconcile.canaries import write_canaries
from shared.reconcile.changes import decide_changes
from shared.reconcile.works import place_works
from tests.integration.by_hand import EVERYTHING, MERGE, PLACEMENTS, ByHand, by_hand, work
from tests.integration.kubernetes_proxy import Answer, Asked, Forward
from tests.integration.platform_team import Platform
from tests.integration.test_documents import group
from tests.servers.kubernetes import KubernetesApi

pytestmark = pytest.mark.asyncio(loop_scope="module")


LONG = "a" * 64


@pytest_asyncio.fixture(loop_scope="module")
async def hands(cluster: KubernetesApi, platform: Platform) -> AsyncIterator[ByHand]:
    async with by_hand(cluster, platform) as running:
        yield running


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        pytest.param({"id": LONG}, f"id '{LONG}' cannot be the value of a label", id="over 63 characters"),
        pytest.param({"id": "a/b"}, "'a/b' cannot be the value of a label", id="a slash"),
        pytest.param({"id": "-abcde"}, "'-abcde' cannot be the value of a label", id="no letter first"),
        pytest.param({"id": "ABCDE"}, "'deps.worker-1-ABCDE' cannot be the name of a WorkPlacement", id="capitals"),
        pytest.param({"id": "abcd-efg"}, "'deps.worker-1-abcd-' cannot be the name", id="a name that ends in a dash"),
        pytest.param({"id": ""}, "workloadGroups[0]: id is empty", id="empty"),
        pytest.param({}, "workloadGroups[0]: id is required", id="missing"),
        pytest.param({"id": "5058f1af8388633f"}, "'5058f1af8388633f' is there twice", id="twice"),
    ],
)
async def test_a_bad_workload_group_leaves_the_good_one_alone(
    hands: ByHand, platform: Platform, bad: dict[str, Any], says: str
) -> None:
    platform.destination("worker-1", "bucket/default")
    hands.work("deps", {**group({"f": b"bad"}), "id": None, **bad} if bad else {"directory": "."}, group({"f": b"1"}))
    assert (await hands.place())[0] == {}
    assert hands.placements().keys() == {"deps.worker-1-5058f"}
    told, why = hands.says("deps")
    assert told == "FailedToScheduleWorkloads"
    assert says in why


async def test_a_group_that_cannot_be_read_any_more_keeps_what_it_has(hands: ByHand, platform: Platform) -> None:
    platform.destination("worker-1", "bucket/default")
    first = group({"f": b"1"}, id_="first")
    hands.work("deps", first, group({"f": b"1"}, id_="other"))
    await hands.place()
    hands.work("deps", first, group({"f": b"2"}, id_="first"))
    await hands.place()
    await hands.write("deps.worker-1-other")  # lets it go
    found = hands.placements()
    assert found.keys() == {"deps.worker-1-first"}, "the group that is gone goes, not the one that is doubled"
    assert found["deps.worker-1-first"]["spec"]["workloads"] == first["workloads"]


async def test_a_destination_with_a_name_that_no_label_holds_says_so_and_takes_nothing(
    hands: ByHand, platform: Platform
) -> None:
    platform.destination(LONG, "bucket/default")
    platform.destination("a" * 63, "bucket/default")
    hands.work("deps", group({"f": b"1"}))
    hands.work("b" * 64, group({"f": b"1"}, id_="other"))
    failures, _ = await hands.place()
    assert failures == {}
    assert hands.placements().keys() == {f"deps.{'a' * 63}-5058f"}
    assert hands.says("deps")[0] == "AllWorkplacementsScheduled"
    assert "metadata.name" in hands.says("b" * 64)[1]
    assert "over 63 characters" in hands.says("b" * 64)[1]
    hands.queues.messages = []
    changes = {"m": [Change(Reference(kind="Destination", name=LONG))]}
    assert await decide_changes(changes, hands.connections, Deadline.after(20)) == {}
    sent = [item for item in hands.queues.messages if item.queue == "canary"]
    _, sent = await hands.run(write_canaries, **{str(at): item.message for at, item in enumerate(sent)})  # type: ignore[arg-type]
    await hands.report(sent)
    status, reason, message = platform.ready(LONG)
    assert (status, reason) == ("False", "InvalidDestination")
    assert "over 63 characters" in message


async def test_a_name_that_another_work_has_is_refused_with_both_names(hands: ByHand, platform: Platform) -> None:
    platform.destination("worker-1", "bucket/default", labels={"d": "1"})
    platform.destination("eu.worker-1", "bucket/default", labels={"d": "2"})
    name = "app.eu.worker-1-5058f"
    hands.work("app", group({"f": b"app"}, d="2"))
    await hands.place(m=work("app"))
    before = hands.placements()
    assert before.keys() == {name}
    hands.work("app.eu", group({"f": b"app.eu"}, d="1"))
    for message in (work("app.eu"), EVERYTHING):
        assert (await hands.place(m=message))[0] == {}
        told, why = hands.says("app.eu")
        assert told == "FailedToScheduleWorkloads"
        assert f"WorkPlacement '{name}' belongs to Work 'app', and Work 'app.eu' needs the name" in why
        assert "'worker-1'" in why
        assert hands.says("app")[0] == "AllWorkplacementsScheduled"
    assert hands.placements()[name]["spec"] == before[name]["spec"]
    hands.work("app.eu", group({"f": b"app.eu"}, d="nowhere"))
    await hands.place()
    platform.delete_object("works", "app.eu")
    await hands.place()
    assert platform.object("works", "app.eu") is None
    assert hands.placements()[name]["metadata"] == before[name]["metadata"], "it was never the other's to delete"


async def test_what_an_earlier_work_of_the_name_left_is_not_taken_over(hands: ByHand, platform: Platform) -> None:
    platform.destination("worker-1", "bucket/default")
    hands.work("app", group({"f": b"old"}))
    await hands.place()
    platform.work_finalizers("app", [])
    platform.delete_object("works", "app")  # and no garbage collector has come yet
    hands.work("app", group({"f": b"new"}))
    before = hands.placements()
    await hands.place()
    assert hands.placements() == before
    assert "belongs to an earlier Work 'app'" in hands.says("app")[1]


async def test_groups_whose_ids_begin_alike_are_told_apart(hands: ByHand, platform: Platform) -> None:
    platform.destination("worker-1", "bucket/default")
    hands.work("w", group({"f": b"1"}, id_="group-one"), group({"f": b"2"}, id_="group-two"))
    for _ in range(2):
        await hands.place()
        (one,) = hands.placements().values()
        assert one["spec"]["id"] == "group-one", "who has the name keeps it"
        told, why = hands.says("w")
        assert told == "FailedToScheduleWorkloads"
        assert "group-one" in why
        assert "group-two" in why
    hands.work("w", group({"f": b"2"}, id_="group-two"), group({"f": b"1"}, id_="group-one"))
    await hands.place()
    assert hands.placements()["w.worker-1-group"]["spec"]["id"] == "group-one", "whatever the order"


async def test_a_group_that_comes_while_all_works_are_placed_is_not_taken_for_one_that_is_gone(
    hands: ByHand, platform: Platform
) -> None:
    platform.destination("worker-1", "bucket/default")
    hands.work("w", group({"f": b"1"}, id_="aaaaa"))
    await hands.place()
    came: list[Asked] = []

    async def change_the_work_once_it_is_listed(asked: Asked, forward: Forward) -> Answer | None:
        if not asked.is_("list", "works") or came or asked.query.get("limit") == "1":
            return None
        came.append(asked)
        old = await forward()
        hands.work("w", group({"f": b"1"}, id_="aaaaa"), group({"f": b"2"}, id_="bbbbb"))
        assert await place_works({"b": work("w")}, hands.connections, Deadline.after(20)) == {}
        return old

    hands.proxy.fault = change_the_work_once_it_is_listed
    await hands.run(place_works, all=EVERYTHING)
    assert came, "the Works were listed"
    found = hands.placements()
    assert found.keys() == {"w.worker-1-aaaaa", "w.worker-1-bbbbb"}
    assert not any(obj["metadata"].get("deletionTimestamp") for obj in found.values())


async def test_a_placement_of_a_newer_work_or_of_another_place_by_now_is_not_deleted(
    hands: ByHand, platform: Platform
) -> None:
    platform.destination("worker-1", "bucket/default")
    hands.work("w", group({"f": b"1"}, id_="aaaaa"))
    await hands.place()
    api = await hands.connections.clusters.get("")
    soon = Deadline.after(20)
    old = await api.get("Work", "default", "w", soon)
    assert old is not None
    hands.work("w", group({"f": b"2"}, id_="aaaaa"))
    await hands.place()
    newer = hands.placements()["w.worker-1-aaaaa"]
    await placements.remove(newer, old, api, soon, dangling=True)
    assert hands.placements()["w.worker-1-aaaaa"] == newer, "the Work that was read knows less"

    now = await api.get("Work", "default", "w", soon)
    assert now is not None
    moved = {"metadata": {"labels": {"kratix.io/workload-group-id": "other"}}}
    platform.api.call("PATCH", f"{PLACEMENTS}/w.worker-1-aaaaa", moved, content_type=MERGE)
    await placements.remove(newer, now, api, soon, dangling=True)
    assert "deletionTimestamp" not in hands.placements()["w.worker-1-aaaaa"]["metadata"], "it has changed since"

    touched = hands.placements()["w.worker-1-aaaaa"]
    label = {"metadata": {"labels": {"mark": "1"}}}
    platform.api.call("PATCH", f"{PLACEMENTS}/w.worker-1-aaaaa", label, content_type=MERGE)
    await placements.remove(touched, now, api, soon, dangling=True)
    assert "deletionTimestamp" in hands.placements()["w.worker-1-aaaaa"]["metadata"], "what does not matter has changed"


@pytest.mark.parametrize("resource", ["", "mine"], ids=["a dependency", "a resource request"])
async def test_what_was_placed_while_its_destination_was_being_deleted_goes_and_its_work_is_placed_anew(
    hands: ByHand, platform: Platform, resource: str
) -> None:
    for name in ("worker-1", "worker-2"):
        platform.destination(name, "bucket/default", labels={"at": name})
    hands.work("w", group({"f": b"1"}, at="worker-1"), promise="p", resource=resource)
    await hands.place()
    platform.delete("destinations", "worker-1")  # before anything is written: as if placed after its cleanup had looked
    hands.work("w", group({"f": b"1"}), promise="p", resource=resource)
    sent = await hands.write("w.worker-1-5058f")  # finds no Destination, and wakes the Work
    woken = [item.message for item in sent if isinstance(item.message, Reference)]
    assert [(item.kind, item.name) for item in woken] == [("WorkPlacement", "w.worker-1-5058f")]
    await hands.place(m=woken[0])
    await hands.write("w.worker-1-5058f")  # which is being deleted by now, and so loses its finalizers
    await hands.place()
    assert hands.placements().keys() == {"w.worker-2-5058f"}
    assert hands.says("w")[0] == "AllWorkplacementsScheduled"


async def test_what_was_written_at_a_destination_that_is_gone_stays_misplaced(
    hands: ByHand, platform: Platform
) -> None:
    platform.destination("worker-1", "bucket/default")
    hands.work("w", group({"f": b"1"}), resource="mine")
    await hands.place()
    await hands.write("w.worker-1-5058f")
    platform.delete("destinations", "worker-1")
    platform.destination("worker-2", "bucket/default")
    await hands.place()
    assert hands.placements().keys() == {"w.worker-1-5058f"}, "a resource request stays where it is"
    assert hands.says("w")[0] == "DestinationSelectorMismatch"
