"""`python -m infra.forwarder`: watches the cluster of its service account, or of KUBECONFIG, until SIGTERM.

Environment: LANDFALL_TARGET (ARN of a bus, topic or queue, or a queue's URL), LANDFALL_CLUSTER, AWS_REGION,
LANDFALL_WATCH_SECRETS, LANDFALL_HEALTH_ADDRESS, LANDFALL_METRICS_ADDRESS, LANDFALL_HEARTBEAT_SECONDS, and AWS's own
variables for its identity and endpoints.
"""

import asyncio
import logging
import os
import sys
from typing import Final

import kopf

from infra.forwarder.monitoring import beat, metrics_served
from infra.forwarder.outbox import Outbox
from infra.forwarder.settings import Settings, WrongSetting
from infra.forwarder.targets import open_target
from infra.forwarder.watching import Watches, handlers, kopf_settings, wait_for_kinds, watched

_FLUSH_SECONDS: Final = 10.0  # less than the pod's grace period

_log = logging.getLogger("landfall.forwarder")


async def run(settings: Settings) -> None:
    """Forward until the process is signalled to end, then send what still waits."""
    watches = Watches(watched(settings))
    async with open_target(settings) as target:
        outbox = Outbox(target, settings.cluster)
        try:
            async with metrics_served(settings, outbox, watches):
                await wait_for_kinds()
                _log.info("watching %s; their changes go to %s", ", ".join(watches.by_plural), settings.target)
                beats = asyncio.create_task(beat(outbox, watches, settings.heartbeat_seconds))
                try:
                    await kopf.operator(
                        registry=handlers(settings, outbox, watches),
                        settings=kopf_settings(),
                        standalone=True,
                        clusterwide=True,
                        liveness_endpoint=f"http://{settings.listen}/healthz",
                    )
                finally:
                    beats.cancel()
        finally:
            await outbox.close(_FLUSH_SECONDS)
            _log.info("the end: %s", outbox.state())


def main() -> int:
    """Run, and return the process's exit code."""
    kopf.configure(log_format=kopf.LogFormat.JSON)
    for chatty in ("kopf.objects", "kopf.activities", "aiohttp.access", "aiobotocore", "botocore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        asyncio.run(run(Settings.from_environment(os.environ)))
    except WrongSetting as wrong:
        _log.critical("%s", wrong)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
