"""Claims of directories: found by name in fleets of any size, complete after every crash, made anew when lost."""

from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar, cast

import pytest

from shared.deadline import Deadline
from shared.errors import KubernetesUnavailable
from shared.kube import Cluster
from shared.reconcile.claims import Claimant, Claims
from shared.reconcile.leases import CLAIMS_ANNOTATION, Held, Leases
from shared.settings import Settings
from tests.interleavings import seams
from tests.interleavings.kubernetes_api import BY_NAME, Objects
from tests.interleavings.machine import Actor, Machine
from tests.interleavings.sqs import Queues

T = TypeVar("T")
PLACE = "place-0123456789"
OTHER = Claimant(0.0, "", "other", "other")


class Server:
    """A Kubernetes API in memory, and the calls that it gets."""

    def __init__(self) -> None:
        self.machine, self.store = Machine(), Objects()
        self.store.create(BY_NAME["Namespace"], "", {"metadata": {"name": "landfall"}})
        self.settings = Settings()
        self.calls: list[str] = []

    def run(self, coroutine: Coroutine[Any, Any, T], *, writes: int | None = None) -> T:
        """Carry calls out in their order; where `writes` is given, none after so many ConfigMaps were written."""
        task = self.machine.start(coroutine, Actor(1, "test"))
        while not task.done():
            step = self.machine.pending[0]
            self.calls.append(step.name)
            if step.name.startswith(("create ConfigMap", "patch ConfigMap")) and writes is not None:
                writes -= 1
                if writes < 0:
                    raise Killed
            self.machine.perform(step)
        return cast("T", task.result())

    def open(self, *known: tuple[str, Claimant]) -> Claims:
        """Take the Lease, as a new container, and open the claims; they are as given where they are not complete."""
        connections = seams.connections(self.machine, self.store, Queues(self.machine), self.settings)

        async def rebuild() -> list[tuple[str, Claimant]]:
            self.calls.append("rebuild")
            return list(known)

        async def opened() -> Claims:
            cluster: Cluster = await connections.clusters.get("default")
            leases = Leases(cluster, self.settings, "write-canary")
            name = PLACE
            lease = self.store.find("Lease", "landfall", name)
            if lease is not None:  # whoever had it has been killed, and it has run out
                freed = {**lease["spec"], "holderIdentity": ""}
                self.store.update(BY_NAME["Lease"], "landfall", {**lease, "spec": freed})
            held = await leases.acquire(name, "", Deadline.after(1000))
            assert held is not None
            return await Claims.open(name, Held(held.lease, Deadline.after(1000)), leases, rebuild)

        return self.run(opened())

    def take(self, claims: Claims, *roots: str, writes: int | None = None) -> None:
        """Claim directories, each for a Destination of its own."""
        self.run(_take(claims, roots), writes=writes)

    def holders(self, claims: Claims, roots: Iterable[str]) -> dict[str, str]:
        """Return who has directories, by uid."""
        wanted = list(roots)
        self.run(claims.load(wanted))
        return {root: holder.uid for root in wanted if (holder := claims.holder(root)) is not None}

    def shards(self) -> list[int]:
        """Return how many claims each ConfigMap has."""
        return [len(obj.get("data") or {}) for obj in self.store.all("ConfigMap")]


class Killed(Exception):
    """The function has been killed."""


async def _take(claims: Claims, roots: Iterable[str]) -> None:
    wanted = list(roots)
    await claims.load(wanted, around=True)
    for number, root in enumerate(wanted):
        claims.take(root, Claimant(float(number), "", f"destination-{root}", f"uid-{root}"))
    await claims.save()


def names(count: int) -> list[str]:
    return [f"destinations/worker-{number}" for number in range(count)]


def holding(roots: Iterable[str]) -> dict[str, str]:
    return {root: f"uid-{root}" for root in roots}


def test_a_lone_claim_costs_the_same_calls_beside_any_number_of_others() -> None:
    calls = {}
    for count in (100, 2000):
        server = Server()
        claims = server.open()
        for at in range(0, count, 500):
            server.take(claims, *names(count)[at : at + 500])
        fresh = server.open()
        server.calls.clear()
        server.take(fresh, "destinations/lone")
        kinds = [name.partition(" ")[0] for name in server.calls]
        # Its own claim, and those of the two directories around it, which know already that they hold many or write it.
        assert kinds.count("get") <= 3
        calls[count] = kinds.count("patch")
        assert server.holders(server.open(), names(count)) == holding(names(count))
    assert calls[2000] <= calls[100] <= 3


def test_claims_are_spread_so_that_each_object_stays_small() -> None:
    server = Server()
    claims = server.open()
    for at in range(0, 3000, 300):
        server.take(claims, *names(3000)[at : at + 300])
    assert max(server.shards()) <= 250
    assert len(server.shards()) <= 64
    largest = max(len(str(obj["data"])) for obj in server.store.all("ConfigMap"))
    assert largest < 60_000


@pytest.mark.parametrize("writes", range(4))
def test_a_function_that_is_killed_while_claims_are_spread_leaves_all_of_them(writes: int) -> None:
    server = Server()
    first, more = names(190), names(450)[190:]
    server.take(server.open(), *first)
    with pytest.raises(Killed):
        server.take(server.open(), *more, writes=writes)
    server.machine.pending.clear()
    server.calls.clear()
    claims = server.open()
    found = server.holders(claims, names(450))
    assert found.items() >= holding(first).items()
    assert found.items() <= holding(names(450)).items()
    assert "rebuild" not in server.calls
    server.take(claims, *more)
    assert server.holders(server.open(), names(450)) == holding(names(450))


def test_the_first_time_claims_are_made_from_the_destinations_and_never_again() -> None:
    server = Server()
    known = [(root, Claimant(0.0, "", "d", f"uid-{root}")) for root in names(500)]
    claims = server.open(*known, (names(1)[0], OTHER))
    assert server.holders(claims, names(500)) == holding(names(500)), "of two for one directory, the first counts"
    assert server.calls.count("rebuild") == 1
    server.open()
    assert server.calls.count("rebuild") == 1


def test_claims_that_someone_deletes_are_made_again() -> None:
    server = Server()
    known = [(root, Claimant(0.0, "", "d", f"uid-{root}")) for root in names(10)]
    server.open(*known)
    (shard,) = server.store.all("ConfigMap")
    server.store.delete(BY_NAME["ConfigMap"], "landfall", shard["metadata"]["name"], {})
    claims = server.open(*known)
    with pytest.raises(KubernetesUnavailable, match="deleted or rewritten"):
        server.run(claims.load(names(1)))
    assert server.holders(server.open(*known), names(10)) == holding(names(10))
    assert server.calls.count("rebuild") == 2


def test_a_lease_that_is_restored_from_a_copy_does_not_vouch_for_claims() -> None:
    """Claims of a backup are older than the Destinations; the copy of a Lease has another uid."""
    server = Server()
    server.open()
    lease = server.store.find("Lease", "landfall", PLACE)
    assert lease is not None
    said = lease["metadata"]["annotations"][CLAIMS_ANNOTATION]
    server.store.delete(BY_NAME["Lease"], "landfall", PLACE, {})
    spec = {"holderIdentity": "", "leaseTransitions": lease["spec"]["leaseTransitions"]}
    copy = {"metadata": {"name": PLACE, "annotations": {CLAIMS_ANNOTATION: said}}, "spec": spec}
    server.store.create(BY_NAME["Lease"], "landfall", copy)
    server.open()
    assert server.calls.count("rebuild") == 2


def test_a_version_without_claims_that_has_held_the_lease_since_does_not_vouch_for_them() -> None:
    """It may have written for a Destination that has no claim: after a downgrade, or while an update is under way."""
    server = Server()
    server.open()
    server.open()
    assert server.calls.count("rebuild") == 1
    lease = server.store.find("Lease", "landfall", PLACE)
    assert lease is not None
    taken = {**lease["spec"], "holderIdentity": "older/1", "leaseTransitions": lease["spec"]["leaseTransitions"] + 1}
    server.store.update(BY_NAME["Lease"], "landfall", {**lease, "spec": taken})
    server.open()
    assert server.calls.count("rebuild") == 2
    server.open()
    assert server.calls.count("rebuild") == 2


@pytest.mark.parametrize("count", [3, 99, 150])
def test_the_claims_inside_a_directory_are_found_from_it(count: int) -> None:
    server = Server()
    claims = server.open()
    inner = [f"outer/worker-{number}/deep" for number in range(count)]
    server.take(claims, *inner, "outer-not", "elsewhere")
    server.take(claims, "outer")
    fresh = server.open()
    server.run(fresh.load(["outer"]))
    inside = server.run(fresh.inside("outer"))
    assert {root: holder.uid for root, holder in inside.holders.items()} == holding(inner)
    assert set(inside.touching(["outer/worker-1", "outer/worker-2/deep/a.yaml", "outer/worker-11x"])) == {
        "outer/worker-1/deep",
        "outer/worker-2/deep",
    }
    server.run(fresh.load(inner[:1], around=True))
    fresh.give_up(inner[0])
    server.run(fresh.save())
    again = server.open()
    server.run(again.load(["outer"]))
    assert server.run(again.inside("outer")).holders.keys() == {*inner[1:]}
    assert server.holders(again, ["outer", *inner]) == holding(["outer", *inner[1:]])


def test_what_is_the_same_is_not_written() -> None:
    server = Server()
    server.take(server.open(), *names(50))
    server.calls.clear()
    claims = server.open()
    opened = len(server.calls)
    server.run(claims.load(names(50), around=True))
    for root in names(50):
        holder = claims.holder(root)
        assert holder is not None
        claims.take(root, holder)
    server.run(claims.save())
    assert [name for name in server.calls[opened:] if not name.startswith("get")] == []
