"""One Destination, with nothing else to do: from its create to its Ready, beside the sum of its own network calls."""

import asyncio
import contextlib
import functools
import ssl
from collections.abc import AsyncIterator, Sequence
from typing import Final

from tests.benchmarks.cluster import DESTINATIONS, Cluster, Kind, Store
from tests.benchmarks.controllers import SETTLE_SECONDS, Controller, Kratix, Landfall
from tests.benchmarks.harness import Round, Side, benchmark
from tests.benchmarks.relay import Relay
from tests.benchmarks.servers import Servers

_A_ROUND: Final = 10
_OWN_CALLS: Final = "its own calls"


async def one_by_one(controller: Controller, servers: Servers, kind: Kind) -> list[Round]:
    """Create ten Destinations, each when the one before has been Ready for a while."""
    cluster = Cluster(servers)
    await cluster.clear()
    store = Store.fresh(servers, kind)
    async with controller.running(servers) as running:
        await cluster.create(DESTINATIONS, [store.destination("warm-up")], seconds=120)
        await running.idle()
        rounds = []
        for number in range(_A_ROUND):
            outcome = await cluster.create(DESTINATIONS, [store.destination(f"worker-{number}")], seconds=120)
            rounds.append(Round(outcome.last, {"creating_seconds": outcome.acting}))
            await asyncio.sleep(SETTLE_SECONDS)
    return rounds


async def own_calls(servers: Servers, kind: Kind) -> list[Round]:
    """Do the same with a relay before each server, and return the sum of what ours had to wait for there.

    Counted are the calls that its functions begin between the create and the Ready: to the Kubernetes API, to the
    State Store, and to the queues; each from the request's first byte to the answer's last, one after the other even
    where ours makes them side by side. The time that this very run takes is longer, and is not used.
    """
    cluster = Cluster(servers)
    await cluster.clear()
    async with relays(servers, kind) as (kubernetes, before_store, queues):
        store = Store.fresh(servers, kind, url=before_store.url)
        kubeconfig = servers.kubernetes.write_kubeconfig(servers.kubernetes.token, url=kubernetes.url)
        ours = Landfall(kubeconfig=kubeconfig, LANDFALL_SQS_ENDPOINT_URL=queues.url)
        async with ours.running(servers) as running:
            queues.upstream = running.runtime.queues.endpoint
            await cluster.create(DESTINATIONS, [store.destination("warm-up")], seconds=120)
            await running.idle()
            rounds = []
            for number in range(_A_ROUND):
                outcome = await cluster.create(DESTINATIONS, [store.destination(f"worker-{number}")], seconds=120)
                until = outcome.began + outcome.last
                await asyncio.sleep(SETTLE_SECONDS)
                figures: dict[str, float] = {}
                for name, relay in (("kubernetes", kubernetes), ("store", before_store), ("queues", queues)):
                    calls = relay.between(outcome.began, until)
                    figures[f"{name}_calls"] = len(calls)
                    figures[f"{name}_seconds"] = sum(call.seconds for call in calls)
                total = sum(value for name, value in figures.items() if name.endswith("_seconds"))
                rounds.append(Round(total, {**figures, "with_relays_seconds": outcome.last}))
    return rounds


@contextlib.asynccontextmanager
async def relays(servers: Servers, kind: Kind) -> AsyncIterator[tuple[Relay, Relay, Relay]]:
    """Run a relay before the Kubernetes API, one before the State Store, and one that is told of its queues later."""
    async with contextlib.AsyncExitStack() as stack:
        trust = ssl.create_default_context(cafile=str(servers.kubernetes.ca))
        kubernetes = await stack.enter_async_context(Relay.before(servers.kubernetes.url, trust=trust))
        if kind == "bucket":
            store = await stack.enter_async_context(Relay.before(servers.minio.url))
        else:
            own = servers.authority.issue("relay")
            shown = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            shown.load_cert_chain(own.certificate, own.key)
            trust = ssl.create_default_context(cafile=str(servers.git.ca))
            store = await stack.enter_async_context(
                Relay.before(servers.git.https_base, trust=trust, certificate=shown)
            )
        queues = await stack.enter_async_context(Relay.before())
        yield kubernetes, store, queues


def _register(kind: Kind, place: str) -> None:
    async def open_(servers: Servers) -> AsyncIterator[Sequence[Side]]:
        yield [
            Side("ours", functools.partial(one_by_one, Landfall(), servers, kind), role="ours"),
            Side(_OWN_CALLS, functools.partial(own_calls, servers, kind), role="floor"),
            Side("kratix", functools.partial(one_by_one, Kratix(), servers, kind)),
        ]

    benchmark(
        f"destination-single-{kind}",
        f"One Destination {place} with nothing else to do, from its create to its Ready; {_A_ROUND} a round,"
        " beside the sum of the network calls that ours makes for it, timed by relays in a run of their own",
        targets={_OWN_CALLS: 0.5},
    )(open_)


_register("bucket", "in a bucket")
_register("git", "in Git")
