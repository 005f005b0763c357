"""SnapStart: what is in the snapshot that Lambda takes of an initialised function, and what each copy of it makes anew.

Lambda runs the hooks when a version is published and when a container is made from the snapshot (Lambda guide, "Use
Lambda SnapStart runtime hooks"). There are no connections and no credentials in a snapshot: the container's are made by
the first invocation (`runtime`), and those that priming needs are nobody's and closed again. Clocks are read by each
invocation.
"""

import asyncio
import os
import random
import ssl
import sys

from shared import kube, queues, tracing, writers
from shared.observability import tracer
from shared.settings import Settings

_INITIALIZATION = "AWS_LAMBDA_INITIALIZATION_TYPE"  # set by Lambda
_ENTROPY_BYTES = 32


def register() -> None:
    """Have Lambda call the hooks; where no snapshot is going to be taken, nothing is registered."""
    if os.environ.get(_INITIALIZATION) == "snap-start":
        import snapshot_restore_py  # noqa: PLC0415 -- of Lambda's runtime, and in no artifact

        snapshot_restore_py.register_before_snapshot(before_snapshot)
        snapshot_restore_py.register_after_restore(after_restore)


def before_snapshot() -> None:
    """Load everything that batches may ask for, and read the descriptions that clients are made of.

    Raises:
        LandfallError: the function's environment cannot be used; publishing the version fails.
    """
    asyncio.run(_prime(Settings.from_environment()))


def after_restore() -> None:
    """Seed the sources of chance, which all copies of a snapshot have in the same state."""
    random.seed()
    ssl.RAND_add(os.urandom(_ENTROPY_BYTES), _ENTROPY_BYTES)


async def _prime(settings: Settings) -> None:
    await queues.prime(settings)
    kube.prime(settings)
    if not tracer.disabled:
        tracing.prime()
    # Of the functions that write to State Stores; the artifacts of others do not have what writers need.
    if "shared.reconcile.store_batch" in sys.modules:
        await writers.prime(settings)
