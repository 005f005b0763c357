"""A resync where nothing has changed: what it asks, and that it writes nothing."""

import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Final

from tests.benchmarks.cluster import DESTINATIONS, Cluster, Store
from tests.benchmarks.controllers import SETTLE_SECONDS, Landfall
from tests.benchmarks.harness import Round, Side, benchmark
from tests.benchmarks.relay import Call
from tests.benchmarks.servers import Servers
from tests.benchmarks.single import relays

_EACH: Final = 500
_READS: Final = {"GET", "HEAD"}


@benchmark(
    "resync-1000",
    "1,000 Destinations that are all well, half of them in a bucket and half in Git, from the schedule's invocation"
    " until nothing is in any queue; every call goes through a relay, which counts it",
    limits={
        "kubernetes_writes": 0,
        "bucket_writes": 0,
        "git_pushes": 0,
        "destination_lists": 4,  # two functions look, and 1,000 objects are two pages
        "bucket_calls": 5,
        "git_calls": 6,
    },
)
async def resync(servers: Servers) -> AsyncIterator[Sequence[Side]]:
    """Make 1,000 Destinations Ready once, and resync as often as there are rounds."""
    cluster = Cluster(servers)
    await cluster.clear()
    async with contextlib.AsyncExitStack() as stack:
        kubernetes, bucket, queues = await stack.enter_async_context(relays(servers, "bucket"))
        _, git, _ = await stack.enter_async_context(relays(servers, "git"))
        stores = Store.fresh(servers, "bucket", url=bucket.url), Store.fresh(servers, "git", url=git.url)
        kubeconfig = servers.kubernetes.write_kubeconfig(servers.kubernetes.token, url=kubernetes.url)
        ours = Landfall(kubeconfig=kubeconfig, LANDFALL_SQS_ENDPOINT_URL=queues.url)
        running = await stack.enter_async_context(ours.running(servers))
        queues.upstream = running.runtime.queues.endpoint
        for store in stores:
            objects = [store.destination(f"{store.kind}-{number:03}") for number in range(_EACH)]
            await cluster.create(DESTINATIONS, objects)
        await running.idle()

        async def run() -> Round:
            for relay in (kubernetes, bucket, git, queues):
                relay.calls.clear()
            began = time.perf_counter()
            await running.runtime.resync()
            await running.idle()
            seconds = time.perf_counter() - began - SETTLE_SECONDS
            figures = {
                "kubernetes_calls": len(kubernetes.calls),
                "kubernetes_writes": sum(call.method not in _READS for call in kubernetes.calls),
                "destination_lists": sum("/destinations?" in call.target for call in kubernetes.calls),
                "bucket_calls": len(bucket.calls),
                "bucket_writes": sum(map(_writes_an_object, bucket.calls)),
                "git_calls": len(git.calls),
                "git_pushes": sum(call.method == "POST" and "receive-pack" in call.target for call in git.calls),
                "queue_calls": len(queues.calls),
            }
            return Round(seconds, {**figures, **running.peaks()})

        why = "its periodic reconciliation cannot be triggered, and an event of each object is another thing"
        yield [Side("ours", run, role="ours", warm_up=run), Side.missing("kratix", why)]


def _writes_an_object(call: Call) -> bool:
    """Whether a call is no listing and none of the store's check: a multipart upload, begun and given up."""
    return call.method not in _READS and "upload" not in call.target
