"""What write-canary does for a State Store between two writers; the API server is played, so that it can refuse."""

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from shared import handover
from shared.deadline import Deadline
from shared.errors import KubernetesConflict, KubernetesForbidden, LandfallError
from shared.events import decode
from shared.kube import Cluster, Object
from shared.messages import Reference, Verdict
from shared.queues import Outgoing
from shared.reconcile.batch import fold
from shared.reconcile.changes import _concerned
from shared.reconcile.locations import LOCATIONS_ANNOTATION
from shared.reconcile.managed import HandedOver, hand_over, only_ours
from shared.reconcile.view import View
from shared.settings import Settings
from tests.unit.test_handover import GIT, asked, destination, merged, store, until_it_rests

KEY = ("GitStateStore", "", "fleet")
MANAGED = Settings(state_stores="managed", handover_seconds=30)


class Api:
    """Takes patches, or refuses them."""

    def __init__(self, refuses: LandfallError | None = None) -> None:
        self.refuses, self.patched = refuses, list[tuple[str, Object]]()

    async def patch(self, obj: Object, patch: Object, deadline: Deadline) -> Object:
        if self.refuses is not None:
            raise self.refuses
        self.patched.append((obj["metadata"]["name"], patch))
        return merged(obj, patch)


def world(obj: dict[str, Any], *destinations: dict[str, Any]) -> View:
    view = View("test", {("", one["metadata"]["name"]): one for one in destinations}, {KEY: obj})
    return only_ours(view, MANAGED)


async def step(view: View, api: Api, place: str | None = None) -> HandedOver:
    reference = Reference(cluster="test", kind=KEY[0], name=KEY[2])
    at = view.store_place(KEY) if place is None else place
    tasks, cluster = fold({"id": reference}), cast("Cluster", api)
    return await hand_over(tasks, at, view, cluster, settings=MANAGED, deadline=Deadline.after(10))


def queued(done: HandedOver) -> list[tuple[str, int]]:
    return [(outgoing.queue, outgoing.delay) for outgoing in done.outgoing]


async def test_each_step_is_one_patch_and_a_later_look() -> None:
    obj, api = store("GitStateStore", GIT, managed=True), Api()
    view = world(obj)
    assert queued(await step(view, api)) == [("canary", handover.HOLD_SECONDS)]
    assert handover.is_held(view.stores[KEY])
    assert not handover.is_parked(view.stores[KEY]), "API servers do not know the label yet"
    (waits,) = queued(await step(view, api))
    assert waits[0] == "canary"
    assert 0 < waits[1] <= handover.HOLD_SECONDS
    assert len(api.patched) == 1
    earlier = (datetime.now(UTC) - timedelta(seconds=handover.HOLD_SECONDS)).isoformat()
    view.stores[KEY] = merged(
        view.stores[KEY], {"metadata": {"annotations": {handover.HANDOVER_ANNOTATION: f'{{"since":"{earlier}"}}'}}}
    )
    assert queued(await step(view, api)) == [("canary", 30)]
    assert handover.is_parked(view.stores[KEY])


async def test_a_state_store_that_goes_back_takes_our_memories_off_its_own_destinations_first() -> None:
    over, _ = until_it_rests(store("GitStateStore", GIT, managed=True))
    memory = {"annotations": {LOCATIONS_ANNOTATION: "[]"}}
    mine, bare, others = (
        destination("mine", "fleet", "a"),
        destination("bare", "fleet", "b"),
        destination("o", "x", "c"),
    )
    for one in (mine, others):
        one["metadata"] |= memory
    api, view = Api(), world(asked(over, managed=False), mine, bare, others)
    await step(view, api)
    assert [name for name, _ in api.patched] == ["mine", "fleet"]
    assert view.stores[KEY]["spec"] == GIT


async def test_without_the_right_to_it_the_state_store_says_what_to_apply() -> None:
    view = world(store("GitStateStore", GIT, managed=True))
    done = await step(view, Api(KubernetesForbidden("RBAC does not allow patch")))
    (outgoing,) = done.outgoing
    assert isinstance(outgoing.message, Verdict)
    assert outgoing.message.status == "False"
    assert outgoing.message.message.endswith("RBAC does not allow patch; apply infra/kubernetes/takeover")
    assert done.failures == {}


async def test_a_conflict_is_delivered_again() -> None:
    done = await step(world(store("GitStateStore", GIT, managed=True)), Api(KubernetesConflict("it has changed")))
    assert set(done.failures) == {"id"}


async def test_a_step_is_taken_under_its_own_lease_alone() -> None:
    view, api = world(store("GitStateStore", GIT, managed=True)), Api()
    done = await step(view, api, place="another")
    assert api.patched == []
    (outgoing,) = done.outgoing
    assert isinstance(outgoing.message, Reference)
    assert outgoing.message.place == view.store_place(KEY)


@pytest.mark.parametrize(
    ("obj", "looked_at"),
    [
        pytest.param(store("GitStateStore", GIT, managed=True), True, id="asked for"),
        pytest.param(
            asked(until_it_rests(store("GitStateStore", GIT, managed=True))[0], managed=False), True, id="back"
        ),
        pytest.param(store("GitStateStore", GIT), False, id="Kratix's"),
    ],
)
def test_an_annotation_is_seen_though_the_event_looks_like_an_echo(obj: dict[str, Any], looked_at: bool) -> None:
    ready = {"type": "Ready", "status": "True", "observedGeneration": 1}
    shown = {"apiVersion": "platform.kratix.io/v1alpha1", **obj, "status": {"conditions": [ready]}}
    (change,) = decode({"type": "MODIFIED", "object": shown}, "test")
    assert change.echo
    view = world(obj)
    sent: list[Outgoing] = list(_concerned([("id", change)], view, frozenset()).outgoing(MANAGED))
    assert [outgoing.queue for outgoing in sent] == (["canary"] if looked_at else [])
