"""One Work or placement that the API server refuses fails alone, with its sentence.

See docs/failure-modes.md#40-webhooks-and-quotas.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from shared.errors import KubernetesUnavailable
from shared.messages import Reference, Verdict
from shared.queues import Outgoing
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
