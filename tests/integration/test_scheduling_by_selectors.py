"""What a change of a Work or of a Destination reads, and what becomes of it where both change at once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from shared.deadline import Deadline
from shared.errors import KubernetesUnavailable
from shared.events import Change
from shared.messages import Reference
from shared.queues import Outgoing
from shared.reconcile.changes import decide_changes
from shared.reconcile.works import place_works
from tests.integration.by_hand import EVERYTHING, PLACEMENTS, ByHand, by_hand, placement, work
from tests.integration.kubernetes_proxy import Answer, Asked, Forward
from tests.integration.platform_team import GROUP, Platform
from tests.integration.test_documents import group
from tests.servers.kubernetes import KubernetesApi

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORKS = f"{GROUP}/namespaces/default/works"
MERGE = "application/merge-patch+json"
STORE = "bucket/default"
UNSCHEDULED = "landfall.kratix.io/unscheduled"


@pytest_asyncio.fixture(loop_scope="module")
async def hands(cluster: KubernetesApi, platform: Platform) -> AsyncIterator[ByHand]:
    async with by_hand(cluster, platform) as running:
        yield running


def destination(name: str) -> Reference:
    return Reference(kind="Destination", name=name)


def request(hands: ByHand, name: str, **labels: str) -> None:
    """Declare a Work of a resource request, labelled as Kratix labels it."""
    hands.work(name, group({"f": b"1"}, **labels), promise="p", resource=name)
    named = {"metadata": {"labels": {"kratix.io/resource-name": name}}}
    hands.platform.api.call("PATCH", f"{WORKS}/{name}", named, content_type=MERGE)


def listed(hands: ByHand, resource: str) -> list[str]:
    """Return the selectors of the lists of a kind."""
    return [asked.query.get("labelSelector", "") for asked in hands.proxy.asked if asked.is_("list", resource)]


def references(sent: list[Outgoing]) -> list[tuple[str, str, str]]:
    return [(item.queue, item.message.kind, item.message.name) for item in sent if isinstance(item.message, Reference)]


async def test_a_work_reads_the_destinations_that_its_selectors_select_and_its_own_placements(
    hands: ByHand, platform: Platform
) -> None:
    for name in ("a", "b", "c"):
        platform.destination(name, STORE, labels={"env": "dev" if name != "c" else "prod", "name": name})
    hands.work("deps", group({"f": b"1"}, env="dev"), group({"f": b"2"}, id_="22222", env="dev", name="a"))
    hands.work("same", group({"f": b"1"}, env="dev"))
    hands.proxy.reset()
    await hands.place(m=work("deps"), n=work("same"))
    assert hands.placements().keys() == {"deps.a-5058f", "deps.b-5058f", "deps.a-22222", "same.a-5058f", "same.b-5058f"}
    assert sorted(listed(hands, "destinations")) == ["env=dev", "env=dev,name=a"], "each selector once a batch"
    assert listed(hands, "workplacements") == ["kratix.io/work in (deps,same)"]
    assert listed(hands, "works") == []
    assert hands.proxy.calls["get works"] == 4, "each, and its metadata once more after something was created"


async def test_many_selectors_of_a_batch_are_one_look_at_all_destinations(hands: ByHand, platform: Platform) -> None:
    for number in range(3):
        platform.destination(f"d{number}", STORE, labels={"number": str(number)})
    names = [f"w{number}" for number in range(60)]
    for number, name in enumerate(names):
        hands.work(name, group({"f": b"1"}, number=str(number)))
    hands.proxy.reset()
    assert (await hands.place(**{name: work(name) for name in names}))[0] == {}
    assert hands.placements().keys() == {f"w{number}.d{number}-5058f" for number in range(3)}
    assert listed(hands, "destinations").count("") == 1
    assert len(listed(hands, "destinations")) <= 41


async def test_selectors_that_no_destination_can_meet_are_not_sent_to_the_api_server(
    hands: ByHand, platform: Platform
) -> None:
    platform.destination("a", STORE, labels={"env": "dev"})
    hands.work("deps", group({"f": b"1"}, env="dev,other!=x"))
    hands.proxy.reset()
    assert (await hands.place(m=work("deps")))[0] == {}
    assert listed(hands, "destinations") == []
    assert hands.says("deps")[0] == "UnscheduledWorkloads"


async def test_a_change_of_a_destination_reads_no_works_of_resource_requests_but_those_that_are_there(
    hands: ByHand, platform: Platform
) -> None:
    for name in ("a", "b"):
        platform.destination(name, STORE, labels={"at": name})
    hands.work("deps", group({"f": b"1"}, at="a"))
    request(hands, "here", at="a")
    request(hands, "there", at="b")
    await hands.place(m=work("deps"), n=work("here"), o=work("there"))
    assert hands.placements().keys() == {"deps.a-5058f", "here.a-5058f", "there.b-5058f"}
    platform.destination("a", STORE, labels={"at": "elsewhere"})
    hands.proxy.reset()
    failures, sent = await hands.place(m=destination("a"))
    assert failures == {}
    assert references(sent) == []
    assert {name for name, obj in hands.placements().items() if "kratix.io/misplaced" in obj["metadata"]["labels"]} == {
        "deps.a-5058f",
        "here.a-5058f",
    }
    assert listed(hands, "destinations") == []
    assert hands.proxy.calls["get destinations"] == 2, "once, and once more after the writes"
    assert listed(hands, "works") == ["!kratix.io/resource-name", f"kratix.io/resource-name,{UNSCHEDULED}"]
    assert {asked.name for asked in hands.proxy.asked if asked.is_("get", "works")} == {"here"}
    assert hands.says("deps")[0] == hands.says("here")[0] == "DestinationSelectorMismatch"
    assert hands.says("there")[0] == "AllWorkplacementsScheduled"

    platform.destination("a", STORE, labels={"at": "a"})
    await hands.place(m=destination("a"))
    assert not any("kratix.io/misplaced" in obj["metadata"]["labels"] for obj in hands.placements().values())
    assert hands.says("deps")[0] == hands.says("here")[0] == "AllWorkplacementsScheduled"


async def test_a_new_destination_gets_dependencies_without_a_look_at_the_others(
    hands: ByHand, platform: Platform
) -> None:
    platform.destination("a", STORE, labels={"env": "dev"})
    hands.work("deps", group({"f": b"1"}, env="dev"))
    await hands.place(m=work("deps"))
    platform.destination("new", STORE, labels={"env": "dev"})
    hands.proxy.reset()
    await hands.place(m=destination("new"))
    assert hands.placements().keys() == {"deps.a-5058f", "deps.new-5058f"}
    assert listed(hands, "workplacements") == ["kratix.io/targetDestinationName in (new)"]
    assert listed(hands, "destinations") == []
    assert hands.says("deps")[0] == "AllWorkplacementsScheduled"


@pytest.mark.parametrize("kratix", [True, False], ids=["labelled by Kratix", "without labels"])
async def test_a_request_that_no_destination_takes_is_found_when_one_does(
    hands: ByHand, platform: Platform, kratix: bool
) -> None:
    platform.destination("a", STORE, labels={"env": "prod"})
    if kratix:
        request(hands, "mine", env="dev")
    else:
        hands.work("mine", group({"f": b"1"}, env="dev"), promise="p", resource="mine")
    await hands.place(m=work("mine"))
    assert hands.says("mine")[0] == "UnscheduledWorkloads"
    obj = platform.object("works", "mine")
    assert obj is not None
    assert obj["metadata"]["labels"][UNSCHEDULED] == "true"
    platform.destination("a", STORE, labels={"env": "dev"})
    _, sent = await hands.place(m=destination("a"))
    assert references(sent) == [("works", "Work", "mine")]
    await hands.place(m=work("mine"))
    assert hands.placements().keys() == {"mine.a-5058f"}
    obj = platform.object("works", "mine")
    assert obj is not None
    assert UNSCHEDULED not in (obj["metadata"].get("labels") or {})
    assert references((await hands.place(m=destination("a")))[1]) == []


async def test_a_destination_that_begins_to_match_before_a_request_is_marked_takes_it(
    hands: ByHand, platform: Platform
) -> None:
    platform.destination("a", STORE, labels={"env": "prod"})
    request(hands, "mine", env="dev")
    relabelled: list[Asked] = []

    async def relabel(asked: Asked, forward: Forward) -> Answer | None:
        if not asked.is_("patch", "works", "mine") or relabelled:
            return None
        relabelled.append(asked)
        platform.destination("a", STORE, labels={"env": "dev"})  # its own message finds no mark
        return None

    hands.proxy.fault = relabel
    await hands.place(m=work("mine"))
    assert relabelled
    assert hands.placements().keys() == {"mine.a-5058f"}
    assert hands.says("mine")[0] == "AllWorkplacementsScheduled"


@pytest.mark.parametrize("what", ["relabelled", "deleted"])
@pytest.mark.parametrize("resource", ["", "mine"], ids=["a dependency", "a resource request"])
async def test_a_destination_that_changes_before_the_write_has_the_placement_looked_at_again(
    hands: ByHand, platform: Platform, what: str, resource: str
) -> None:
    platform.destination("a", STORE, labels={"env": "dev"})
    hands.work("w", group({"f": b"1"}, env="dev"), promise="p", resource=resource)
    changed: list[Asked] = []

    async def change(asked: Asked, forward: Forward) -> Answer | None:
        if not asked.is_("create", "workplacements") or changed:
            return None
        changed.append(asked)
        if what == "deleted":
            platform.delete("destinations", "a")
        else:
            platform.destination("a", STORE, labels={"env": "prod"})
        assert await place_works({"d": destination("a")}, hands.connections, Deadline.after(20)) == {}
        return None

    hands.proxy.fault = change
    _, sent = await hands.place(m=work("w"))
    assert changed
    assert ("works", "WorkPlacement", "w.a-5058f") in references(sent)
    await hands.place(m=placement("w.a-5058f"))
    if what == "relabelled":
        assert hands.placements()["w.a-5058f"]["metadata"]["labels"]["kratix.io/misplaced"] == "true"
        if resource:  # it is placed as a whole
            assert hands.says("w")[0] == "DestinationSelectorMismatch"
    else:
        assert "deletionTimestamp" in hands.placements()["w.a-5058f"]["metadata"]


@pytest.mark.parametrize("resource", ["", "mine"], ids=["a dependency", "a resource request"])
async def test_of_a_placement_that_is_gone_the_name_says_whose_it_was(
    hands: ByHand, platform: Platform, resource: str
) -> None:
    platform.destination("eu.a", STORE, labels={"env": "dev"})
    hands.work("w", group({"f": b"1"}, env="dev"), promise="p", resource=resource)
    await hands.place(m=work("w"))
    name = "w.eu.a-5058f"
    assert hands.placements().keys() == {name}
    platform.api.call("PATCH", f"{PLACEMENTS}/{name}", {"metadata": {"finalizers": []}}, content_type=MERGE)
    platform.api.call("DELETE", f"{PLACEMENTS}/{name}")
    gone = Change(placement(name), deleted=True)
    hands.queues.messages = []
    assert await decide_changes({"m": [gone]}, hands.connections, Deadline.after(20)) == {}
    (sent,) = references(hands.queues.messages)
    assert sent == ("works", "WorkPlacement", name)
    hands.proxy.reset()
    assert (await hands.place(m=placement(name)))[0] == {}
    assert hands.placements().keys() == {name}
    assert "" not in listed(hands, "works")


async def test_the_last_placement_of_a_group_that_goes_with_its_destination_is_said(
    hands: ByHand, platform: Platform
) -> None:
    platform.destination("a", STORE, labels={"env": "dev"})
    hands.work("deps", group({"f": b"1"}, env="dev"))
    await hands.place(m=work("deps"))
    assert hands.says("deps")[0] == "AllWorkplacementsScheduled"
    platform.delete("destinations", "a")
    platform.api.call("PATCH", f"{PLACEMENTS}/deps.a-5058f", {"metadata": {"finalizers": []}}, content_type=MERGE)
    platform.api.call("DELETE", f"{PLACEMENTS}/deps.a-5058f")
    await hands.place(m=placement("deps.a-5058f"))
    assert hands.says("deps")[0] == "UnscheduledWorkloads"


async def test_a_request_whose_destination_was_deleted_under_it_goes_to_another_one_at_once(
    hands: ByHand, platform: Platform
) -> None:
    """Before anything was written: as if it was placed after the cleanup had looked."""
    for name in ("a", "b"):
        platform.destination(name, STORE, labels={"at": name})
    request(hands, "mine", at="a")
    await hands.place(m=work("mine"))
    platform.delete("destinations", "a")
    request(hands, "mine", at="b")
    await hands.place(m=placement("mine.a-5058f"))
    found = hands.placements()
    assert found.keys() == {"mine.a-5058f", "mine.b-5058f"}
    assert "deletionTimestamp" in found["mine.a-5058f"]["metadata"]
    obj = platform.object("works", "mine")
    assert obj is not None
    assert UNSCHEDULED not in obj["metadata"]["labels"]


async def test_a_new_work_is_placed_at_once_and_held_by_its_finalizer_before(hands: ByHand, platform: Platform) -> None:
    platform.destination("a", STORE)
    platform.work("deps", group({"f": b"1"}), promise="p")
    await hands.place(m=work("deps"))
    assert hands.placements().keys() == {"deps.a-5058f"}
    order = [f"{asked.verb} {asked.resource}" for asked in hands.proxy.asked]
    assert order.index("patch works") < order.index("create workplacements")
    obj = platform.object("works", "deps")
    assert obj is not None
    assert obj["metadata"]["finalizers"] == ["kratix.io/work-cleanup"]


async def test_where_roles_do_not_allow_the_finalizer_yet_status_report_sets_it(
    hands: ByHand, platform: Platform
) -> None:
    """As after an update of the functions alone."""
    platform.destination("a", STORE)
    platform.work("deps", group({"f": b"1"}), promise="p")
    words = 'works.platform.kratix.io "deps" is forbidden: User "landfall" cannot patch resource "works"'
    hands.proxy.fail("patch", "works", "deps", Answer.error(403, "Forbidden", words))
    assert (await hands.place(m=work("deps")))[0] == {}
    assert hands.placements() == {}
    obj = platform.object("works", "deps")
    assert obj is not None
    assert obj["metadata"]["finalizers"] == ["kratix.io/work-cleanup"]
    await hands.place(m=work("deps"))
    assert hands.placements().keys() == {"deps.a-5058f"}


async def test_a_destination_whose_works_cannot_be_read_comes_back(hands: ByHand, platform: Platform) -> None:
    platform.destination("a", STORE)
    hands.work("deps", group({"f": b"1"}))
    hands.proxy.fail("list", "works", "", *[Answer.error(503, "Forced", "later", Retry_After="3600")] * 4)
    failures, _ = await hands.place(m=destination("a"))
    assert isinstance(failures["m"], KubernetesUnavailable)
    hands.proxy.reset()
    assert (await hands.place(m=destination("a")))[0] == {}
    assert hands.placements().keys() == {"deps.a-5058f"}


async def test_messages_of_an_older_version_still_mean_all_works(hands: ByHand, platform: Platform) -> None:
    platform.destination("a", STORE)
    hands.work("one", group({"f": b"1"}))
    hands.work("two", group({"f": b"1"}, id_="22222"))
    await hands.place(m=EVERYTHING, n=work("one"), o=destination("a"), p=placement("one.a-5058f"))
    assert hands.placements().keys() == {"one.a-5058f", "two.a-22222"}
