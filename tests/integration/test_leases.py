"""The Leases by which functions take turns at a State Store, on a real kube-apiserver."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from shared.deadline import Deadline
from shared.errors import KubernetesError, KubernetesForbidden
from shared.kube import Cluster
from shared.reconcile.leases import Held, Leases, lease_name
from shared.settings import Settings
from tests.servers.kubernetes import KubernetesApi

NAMESPACE = "landfall"


@pytest.fixture
def settings(cluster: KubernetesApi) -> Settings:
    return Settings(kubeconfig=cluster.kubeconfig, lease_wait_seconds=0.2)


@pytest_asyncio.fixture
async def api(settings: Settings) -> AsyncIterator[Cluster]:
    connected = await Cluster.connect(settings)
    yield connected
    await connected.close()


@pytest.fixture
def place() -> str:
    return lease_name(uuid.uuid4().hex)


def soon() -> Deadline:
    return Deadline.after(20)


def stored(cluster: KubernetesApi, place: str) -> dict[str, Any]:
    lease: dict[str, Any] = cluster.call("GET", f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{place}")
    return lease


async def taken(leases: Leases, place: str) -> Held:
    held = await leases.acquire(place, "GitStateStore/fleet", soon())
    assert held is not None
    return held


async def test_a_lease_is_made_taken_released_and_taken_again(
    cluster: KubernetesApi, api: Cluster, settings: Settings, place: str
) -> None:
    leases = Leases(api, settings, "write-canary")
    for transition in (1, 2, 3):
        held = await taken(leases, place)
        spec = stored(cluster, place)["spec"]
        assert spec["holderIdentity"] == held.holder
        assert spec["leaseTransitions"] == transition
        assert spec["leaseDurationSeconds"] == 81, "a store's share of the time, the margin, and a second of rounding"
        await leases.release(held, soon(), settled=True)
        assert stored(cluster, place)["spec"]["holderIdentity"] == ""
    assert stored(cluster, place)["metadata"]["annotations"] == {
        "landfall.kratix.io/state-store": "GitStateStore/fleet"
    }


async def test_of_many_that_want_it_at_once_one_gets_it(api: Cluster, settings: Settings, place: str) -> None:
    everyone = [
        Leases(api, settings, role) for role in ("write-canary", "write-documents", "cleanup") for _ in range(5)
    ]
    got = await asyncio.gather(*(leases.acquire(place, "", soon()) for leases in everyone))
    assert sum(held is not None for held in got) == 1


async def test_a_lease_that_has_run_out_is_taken_over_and_its_old_holder_releases_nothing(
    cluster: KubernetesApi, api: Cluster, settings: Settings, place: str
) -> None:
    short = settings.model_copy(update={"store_deadline_seconds": 1.0, "lease_margin_seconds": 0.0})
    dead = Leases(api, short, "write-canary")
    old = await taken(dead, place)
    leases = Leases(api, settings.model_copy(update={"lease_wait_seconds": 10.0}), "cleanup")
    new = await taken(leases, place)
    await dead.release(old, soon(), settled=True)
    assert stored(cluster, place)["spec"]["holderIdentity"] == new.holder


async def test_with_a_call_in_doubt_it_is_kept_until_that_cannot_take_effect_any_more(
    cluster: KubernetesApi, api: Cluster, settings: Settings, place: str
) -> None:
    margin = settings.model_copy(update={"lease_margin_seconds": 0.5, "lease_wait_seconds": 10.0})
    leases = Leases(api, margin, "write-documents")
    held = await taken(leases, place)
    await leases.release(held, soon(), settled=False)
    spec = stored(cluster, place)["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"]) == (held.holder, 2)
    assert await Leases(api, settings, "cleanup").acquire(place, "", soon()) is None
    assert await leases.acquire(place, "", soon()) is not None


async def test_who_waits_goes_before_who_has_just_released(api: Cluster, settings: Settings, place: str) -> None:
    stream, cleanup = Leases(api, settings, "write-documents"), Leases(api, settings, "cleanup")
    held = await taken(stream, place)
    assert await cleanup.acquire(place, "", soon()) is None
    await stream.release(held, soon(), settled=True)
    assert await stream.acquire(place, "", soon()) is None, "cleanup's messages are on their way back"
    held = await taken(cleanup, place)
    await cleanup.release(held, soon(), settled=True)
    await taken(stream, place)


async def test_who_has_waited_longest_goes_first(api: Cluster, settings: Settings, place: str) -> None:
    stream, cleanup, canary = (Leases(api, settings, role) for role in ("write-documents", "cleanup", "write-canary"))
    held = await taken(stream, place)
    assert await cleanup.acquire(place, "", soon()) is None
    assert await canary.acquire(place, "", soon()) is None
    await stream.release(held, soon(), settled=True)
    assert await canary.acquire(place, "", soon()) is None
    await taken(cleanup, place)


async def test_who_waits_no_more_keeps_nobody_waiting(
    api: Cluster, settings: Settings, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.reconcile.leases._TURN_SECONDS", 1.0)
    stream, cleanup = Leases(api, settings, "write-documents"), Leases(api, settings, "cleanup")
    held = await taken(stream, place)
    assert await cleanup.acquire(place, "", soon()) is None
    await stream.release(held, soon(), settled=True)
    patient = Leases(api, settings.model_copy(update={"lease_wait_seconds": 10.0}), "write-documents")
    await taken(patient, place)


async def test_without_the_namespace_the_sentence_says_what_to_apply(
    api: Cluster, settings: Settings, place: str
) -> None:
    elsewhere = settings.model_copy(update={"lease_namespace": "is-not-there"})
    with pytest.raises(
        KubernetesError, match=r"namespace is-not-there does not exist; apply infra/kubernetes/rbac\.yaml"
    ):
        await Leases(api, elsewhere, "cleanup").acquire(place, "", soon())


async def test_without_the_right_to_leases_nothing_is_taken(
    cluster: KubernetesApi, settings: Settings, place: str
) -> None:
    token = cluster.create_service_account(cluster.create_namespace(), "nobody", rules=[])
    kubeconfig = cluster.write_kubeconfig(token)
    nobody = await Cluster.connect(settings.model_copy(update={"kubeconfig": kubeconfig}))
    try:
        with pytest.raises(KubernetesForbidden, match="leases"):
            await Leases(nobody, settings, "cleanup").acquire(place, "", soon())
    finally:
        await nobody.close()
