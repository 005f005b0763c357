"""One change reads what it concerns: it makes the same calls beside 100 and beside 2,000 other Destinations."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from shared.events import Change
from shared.messages import Reference
from shared.reconcile.changes import decide_changes
from shared.reconcile.deliveries import write_documents
from tests.integration.by_hand import ByHand, by_hand, placement
from tests.integration.platform_team import Platform
from tests.servers.kubernetes import KubernetesApi

pytestmark = pytest.mark.asyncio(loop_scope="module")

FLEETS = (100, 2000)
# Three functions read the claim of a directory, of the one or two around it, and who waits. Those are in one ConfigMap
# in a small fleet, and in as many as they are in a large one.
# A Lease that another function has had since is read again before it is taken.
_FEW = {
    "get configmaps": 3 * 4,
    "patch configmaps": 2 * 3,
    "create configmaps": 0,
    "get leases": 4,
    "patch leases": 3 * 4,
}


@pytest_asyncio.fixture(loop_scope="module")
async def hands(cluster: KubernetesApi, platform: Platform) -> AsyncIterator[ByHand]:
    async with by_hand(cluster, platform) as running:
        yield running


async def change(hands: ByHand, kind: str, name: str, *, deleted: bool = False) -> tuple[Counter[str], int]:
    """Let the functions follow an event; return the calls that they make, and the bytes that they read."""
    hands.proxy.reset()
    namespace = "default" if kind == "WorkPlacement" else ""
    event = Change(Reference(kind=kind, namespace=namespace, name=name), deleted=deleted)
    failures, sent = await hands.run(decide_changes, event=[event])  # type: ignore[arg-type]
    assert failures == {}
    await hands.settle(sent)
    return hands.proxy.calls, hands.proxy.bytes_read


async def grow(hands: ByHand, platform: Platform, first: int, last: int) -> None:
    """Create Destinations with a WorkPlacement each, and let them be written."""
    names = [f"worker-{number}" for number in range(first, last)]

    def create() -> None:
        for name in names:
            platform.destination(name, "bucket/default")
            hands.placement(f"of-{name}", {"a.yaml": b"a"}, name)

    await asyncio.to_thread(create)
    for at in range(0, len(names), 500):
        batch = names[at : at + 500]
        events = {name: [Change(Reference(kind="Destination", name=name))] for name in batch}
        failures, sent = await hands.run(decide_changes, **events)  # type: ignore[arg-type]
        assert failures == {}
        await hands.settle(sent)
        failures, sent = await hands.run(write_documents, **{name: placement(f"of-{name}") for name in batch})
        assert failures == {}
        await hands.settle(sent)


def one_change(calls: Counter[str]) -> Counter[str]:
    """Return the calls but for those to claims and Leases, which are few in any fleet."""
    for call, most in _FEW.items():
        assert calls[call] <= most, calls
    return Counter({call: count for call, count in calls.items() if call not in _FEW})


@pytest.mark.timeout(1800)
async def test_one_change_makes_the_same_calls_in_every_fleet(hands: ByHand, platform: Platform) -> None:
    made: dict[str, list[Counter[str]]] = {}
    read: dict[str, list[int]] = {}
    existing = 0
    for count in FLEETS:
        await grow(hands, platform, existing, count)
        existing = count
        lone = f"lone-{count}"

        async def note(what: str, kind: str, name: str, *, deleted: bool = False) -> None:
            calls, size = await change(hands, kind, name, deleted=deleted)
            made.setdefault(what, []).append(one_change(calls))
            read.setdefault(what, []).append(size)

        platform.destination(lone, "bucket/default", cleanup="all")
        await note("a new Destination", "Destination", lone)
        assert platform.ready(lone)[0] == "True"
        hands.placement(lone, {"a.yaml": b"a"}, lone)
        await note("a new WorkPlacement", "WorkPlacement", lone)
        assert f"{lone}/dependencies/{lone}/5058f/a.yaml" in hands.store.files
        platform.destination(lone, "bucket/default", cleanup="all", path=f"moved-{count}")
        await note("a Destination that moves", "Destination", lone)
        assert f"moved-{count}/dependencies/{lone}/5058f/a.yaml" in hands.store.files
        assert not any(path.startswith(f"{lone}/") for path in hands.store.files)
        platform.delete_object("workplacements", lone)
        await note("a WorkPlacement that is deleted", "WorkPlacement", lone)
        assert f"moved-{count}/dependencies/{lone}/5058f/a.yaml" not in hands.store.files
        platform.delete("destinations", lone)
        await note("a Destination that is deleted", "Destination", lone)
        assert not any(path.startswith(f"moved-{count}/") for path in hands.store.files)
    for what, (few, many) in made.items():
        assert few == many, what
        assert not any(call.startswith("list destinations") for call in many), (what, many)
    for what, sizes in read.items():
        assert max(sizes) < 200_000, (what, sizes)
