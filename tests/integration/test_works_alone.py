"""One Work, group or placement that cannot be placed fails alone, with its sentence.

See docs/failure-modes.md#33-dangling-groups, #35-placed-while-deleted, #38-long-names, #39-colliding-names,
#40-webhooks-and-quotas.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from shared.deadline import Deadline
from shared.errors import KubernetesUnavailable
from shared.events import Change
from shared.messages import Reference, Verdict
from shared.queues import Outgoing
from shared.reconcile import placements
from shared.reconcile.canaries import write_canaries
from shared.reconcile.changes import decide_changes
from shared.reconcile.works import place_works
from tests.integration.by_hand import EVERYTHING, MERGE, PLACEMENTS, ByHand, by_hand, work
from tests.integration.kubernetes_proxy import Answer, Asked, Forward
from tests.integration.platform_team import API_VERSION, Platform
from tests.integration.test_documents import group
from tests.servers.kubernetes import KubernetesApi
from tests.servers.process import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
BINDINGS = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
QUOTAS = "/api/v1/namespaces/default/resourcequotas"
DENIED = 'admission webhook "policy.example.com" denied the request: no'
NOT_ALLOWED = 'workplacements.platform.kratix.io is forbidden: User "landfall" cannot create resource "workplacements"'


@pytest_asyncio.fixture(loop_scope="module")
async def hands(cluster: KubernetesApi, platform: Platform) -> AsyncIterator[ByHand]:
    async with by_hand(cluster, platform) as running:
        yield running


@contextlib.contextmanager
def policy(platform: Platform, refused: str, reason: str) -> Iterator[None]:
    """Let the API server's own admission refuse WorkPlacements of that name while the block runs."""
    api = platform.api
    rule = {
        "apiGroups": ["platform.kratix.io"],
        "apiVersions": ["*"],
        "operations": ["CREATE", "UPDATE"],
        "resources": ["workplacements"],
    }
    validation = {"expression": f"object.metadata.name != '{refused}'", "message": "not here", "reason": reason}
    spec = {"matchConstraints": {"resourceRules": [rule]}, "validations": [validation]}
    api.call("POST", POLICIES, {"metadata": {"name": "no"}, "spec": spec})
    api.call(
        "POST", BINDINGS, {"metadata": {"name": "no"}, "spec": {"policyName": "no", "validationActions": ["Deny"]}}
    )
    probe = {"apiVersion": API_VERSION, "kind": "WorkPlacement", "metadata": {"name": refused}}
    body = probe | {"spec": {"targetDestinationName": "probe"}}

    def is_refused() -> bool:
        return api.request("POST", f"{PLACEMENTS}?dryRun=All", body).status in {403, 422}

    try:
        wait_until("the policy", is_refused, timeout=20)
        yield
    finally:
        api.call("DELETE", f"{BINDINGS}/no")
        api.call("DELETE", f"{POLICIES}/no")
        wait_until("the policy's end", lambda: not is_refused(), timeout=20)


def three(platform: Platform) -> None:
    for name in ("worker-1", "worker-2", "worker-3"):
        platform.destination(name, "bucket/default")


ALL_THREE = {f"deps.worker-{number}-5058f" for number in (1, 2, 3)}


@pytest.mark.parametrize("reason", ["Invalid", "Forbidden"])
async def test_what_an_admission_policy_refuses_fails_alone(hands: ByHand, platform: Platform, reason: str) -> None:
    three(platform)
    hands.work("deps", group({"f": b"1"}))
    refused = "deps.worker-2-5058f"
    with policy(platform, refused, reason):
        failures, _ = await hands.place(m=work("deps"))
        assert failures == {}, "no delivery mends it"
        assert hands.placements().keys() == ALL_THREE - {refused}
        told, why = hands.says("deps")
        assert told == "FailedToScheduleWorkloads"
        assert refused in why
        assert "ValidatingAdmissionPolicy 'no'" in why
        assert "not here" in why
        for name in ALL_THREE - {refused}:
            assert platform.condition("workplacements", name, "ScheduleSucceeded")[0] == "True"
    await hands.place()
    assert hands.placements().keys() == ALL_THREE
    assert hands.says("deps")[0] == "AllWorkplacementsScheduled"


async def test_what_a_quota_refuses_fails_alone(hands: ByHand, platform: Platform) -> None:
    three(platform)
    hands.work("deps", group({"f": b"1"}))
    hard = {"count/workplacements.platform.kratix.io": "2"}
    platform.api.call("POST", QUOTAS, {"metadata": {"name": "two"}, "spec": {"hard": hard}})
    used = {"count/workplacements.platform.kratix.io": "0"}  # there is no controller to count them
    status = {"status": {"hard": hard, "used": used}}
    platform.api.call("PATCH", f"{QUOTAS}/two/status", status, content_type=MERGE)
    try:
        failures, _ = await hands.place(m=work("deps"))
        assert failures == {}
        assert len(hands.placements()) == 2
        told, why = hands.says("deps")
        assert told == "FailedToScheduleWorkloads"
        assert "exceeded quota: two" in why
    finally:
        platform.api.call("DELETE", f"{QUOTAS}/two")
    await hands.place()
    assert hands.placements().keys() == ALL_THREE


def refuse(hands: ByHand, verb: str, name: str, answer: Answer) -> None:
    """Refuse every such call on the WorkPlacements whose names begin so."""

    async def fault(asked: Asked, forward: Forward) -> Answer | None:
        hit = asked.verb == verb and asked.resource == "workplacements" and asked.subject.startswith(name)
        return answer if hit else None

    hands.proxy.fault = fault


@pytest.mark.parametrize(
    ("status", "reason"), [(403, "Forbidden"), (422, "Invalid"), (400, "BadRequest"), (413, "RequestEntityTooLarge")]
)
@pytest.mark.parametrize("verb", ["create", "patch", "delete"])
async def test_one_refused_call_of_a_batch_is_said_and_returns_no_message(
    hands: ByHand, platform: Platform, verb: str, status: int, reason: str
) -> None:
    platform.destination("worker-1", "bucket/default")
    for name in ("bad", "good"):
        hands.work(name, group({"f": b"1"}, id_="11111"))
    if verb != "create":
        await hands.place()
        for name in ("bad", "good"):
            hands.work(name, group({"f": b"2"}, id_="11111" if verb == "patch" else "22222"))
    refuse(hands, verb, "bad.worker-1-11111", Answer.error(status, reason, DENIED))
    failures, sent = await hands.place()
    assert failures == {}
    assert all(isinstance(item.message, Verdict) for item in sent), "nothing is tried again that a person has to mend"
    assert hands.says("good")[0] == "AllWorkplacementsScheduled"
    told, why = hands.says("bad")
    assert told == "FailedToScheduleWorkloads"
    assert DENIED in why
    hands.proxy.reset()
    await hands.place()
    assert hands.says("bad")[0] == "AllWorkplacementsScheduled"


@pytest.mark.parametrize(
    ("status", "message"),
    [
        pytest.param(503, "later", id="503"),
        pytest.param(403, NOT_ALLOWED, id="RBAC"),
    ],
)
async def test_what_passes_by_itself_returns_its_own_message_alone(
    hands: ByHand, platform: Platform, status: int, message: str
) -> None:
    platform.destination("worker-1", "bucket/default")
    platform.destination("worker-2", "bucket/default")
    for name in ("bad", "good"):
        hands.work(name, group({"f": b"1"}))
    refuse(hands, "create", "bad.worker-1", Answer.error(status, "Forbidden", message, Retry_After="3600"))
    failures, _ = await hands.place(bad=work("bad"), good=work("good"))
    assert failures.keys() == {"bad"}
    assert isinstance(failures["bad"], KubernetesUnavailable)
    assert hands.says("good")[0] == "AllWorkplacementsScheduled"
    assert hands.says("bad") == ("", ""), "it is not known yet"
    sibling = platform.condition("workplacements", "bad.worker-2-5058f", "ScheduleSucceeded")
    assert sibling[0] == "True", "what was placed says so"

    failures, sent = await hands.place(all=EVERYTHING)
    assert failures == {}, "a message for all Works comes back for none of them"
    again = [(item.queue, item.message) for item in sent if isinstance(item.message, Reference)]
    assert [(queue, message.name, message.attempt) for queue, message in again] == [("works", "bad", 1)]
    hands.proxy.reset()
    assert (await hands.place(m=again[0][1]))[0] == {}
    assert hands.says("bad")[0] == "AllWorkplacementsScheduled"


LONG = "a" * 64


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


@pytest.mark.parametrize(
    ("status", "message"),
    [
        pytest.param(403, DENIED, id="a webhook"),
        pytest.param(422, "finalizers are not allowed here", id="422"),
        pytest.param(403, 'destinations is forbidden: User "landfall" cannot patch resource "destinations"', id="RBAC"),
    ],
)
async def test_a_finalizer_that_is_refused_is_said_on_its_object_alone(
    hands: ByHand, platform: Platform, status: int, message: str
) -> None:
    """For each kind of object, and beside one that is not refused."""
    platform.destination("bad", "bucket/default")
    platform.destination("good", "bucket/default")
    platform.work("bad", group({"f": b"1"}), promise="p")
    platform.work("good", group({"f": b"1"}), promise="p")
    hands.placement("bad", {"f": b"1"})
    hands.placement("good", {"f": b"1"})

    async def fault(asked: Asked, forward: Forward) -> Answer | None:
        hit = asked.verb == "patch" and asked.name == "bad" and not asked.resource.endswith("/status")
        return Answer.error(status, "Forbidden", message) if hit else None

    hands.proxy.fault = fault
    verdicts: list[Any] = []
    for kind, plural in (("Destination", ""), ("Work", "works"), ("WorkPlacement", "workplacements")):
        for name in ("bad", "good"):
            obj = platform.object(plural, name) if plural else platform.get(name)
            assert obj is not None
            verdicts.append(Verdict(reference=Reference.to(obj, kind, ""), add_finalizers=("example.com/ours",)))
    assert await hands.report(Outgoing("status", verdict, frozenset()) for verdict in verdicts) == {}
    assert platform.ready("bad")[:2] == ("False", "DestinationFinalizerUpdateFailed")
    assert message in platform.ready("bad")[2]
    assert message in platform.condition("works", "bad", "ScheduleSucceeded")[2]
    assert message in platform.condition("workplacements", "bad", "WriteSucceeded")[2]
    for obj in (platform.get("good"), platform.object("works", "good"), platform.object("workplacements", "good")):
        assert obj is not None
        assert "example.com/ours" in obj["metadata"]["finalizers"]
