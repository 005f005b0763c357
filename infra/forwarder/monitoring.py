"""What shows that the forwarder is at work: /metrics for Prometheus, and a heartbeat each minute for AWS."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from infra.forwarder.changes import HEARTBEAT
from infra.forwarder.outbox import Outbox
from infra.forwarder.settings import Settings, WrongSetting
from infra.forwarder.watching import Watches

_PREFIX: Final = "landfall_forwarder"
_ASK_AGAIN_SECONDS: Final = 1.0


class _Measured(Collector):
    """What outbox and watches count, as Prometheus wants it; read by each scrape."""

    def __init__(self, outbox: Outbox, watches: Watches, sink: str) -> None:
        self._outbox = outbox
        self._watches = watches
        self._sink = sink

    def collect(self) -> Iterator[Metric]:
        traffic = self._outbox.traffic()
        yield _counter("events_sent", "Events that the sink took, heartbeats among them.", {self._sink: traffic.sent})
        yield _counter("events_failed", "Events that the sink did not take; sent again.", {self._sink: traffic.failed})
        yield _gauge(
            "last_sent_timestamp_seconds",
            "Unix time of the last send that the sink took; 0 before the first.",
            {self._sink: traffic.sent_at},
        )
        yield _gauge("events_waiting", "Events that are not sent yet.", {self._sink: traffic.waiting})
        yield _gauge(
            "oldest_event_seconds", "How long the oldest of them has waited.", {self._sink: traffic.oldest_seconds}
        )
        yield _counter(
            "watch_restarts",
            "Watches that were opened again; the API server ends each after some minutes.",
            {plural: max(watch.opened - 1, 0) for plural, watch in self._watches.by_plural.items()},
            label="resource",
        )
        yield _counter(
            "watch_failures",
            "Lists and watches that the API server refused or did not answer.",
            {plural: watch.failures for plural, watch in self._watches.by_plural.items()},
            label="resource",
        )
        yield _gauge(
            "watching",
            "Whether the last list or watch was answered.",
            {plural: float(watch.is_open) for plural, watch in self._watches.by_plural.items()},
            label="resource",
        )


@asynccontextmanager
async def metrics_served(settings: Settings, outbox: Outbox, watches: Watches) -> AsyncIterator[None]:
    """Serve /metrics until the block ends.

    Raises:
        WrongSetting: the address cannot be listened to.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Measured(outbox, watches, settings.service))

    async def scrape(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        # In the loop's own thread, in which all that is counted changes.
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    app = web.Application()
    app.add_routes([web.get("/metrics", scrape)])
    runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=1.0, access_log=None)
    await runner.setup()
    host, _, port = settings.listen_metrics.rpartition(":")
    try:
        try:
            await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        except (OSError, OverflowError) as error:
            raise WrongSetting(
                f"LANDFALL_METRICS_ADDRESS is {settings.listen_metrics!r}, which cannot be listened to"
                f" ({error}): choose another"
            ) from None
        yield
    finally:
        await runner.cleanup()


async def beat(outbox: Outbox, watches: Watches, seconds: float) -> None:
    """Have a heartbeat sent at a steady pace while every kind is watched; runs until it is cancelled.

    A heartbeat goes the way of all events. So its absence means that changes do not arrive, whatever the cause.

    Args:
        outbox: that sends them.
        watches: that must be open.
        seconds: between two heartbeats; 0 for none.
    """
    if not seconds:
        return
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        if watches.all_open:
            outbox.put(HEARTBEAT)
            due = max(due + seconds, loop.time())
        else:
            due = loop.time() + _ASK_AGAIN_SECONDS
        await asyncio.sleep(due - loop.time())


def _counter(name: str, text: str, values: dict[str, float], label: str = "sink") -> Metric:
    family = CounterMetricFamily(f"{_PREFIX}_{name}", text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _gauge(name: str, text: str, values: dict[str, float], label: str = "sink") -> Metric:
    family = GaugeMetricFamily(f"{_PREFIX}_{name}", text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
