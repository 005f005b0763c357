"""Where the in-memory servers and the virtual clock go below the real code: everything that is replaced is in here.

`install` is for a process that does nothing else: it replaces the clocks of the whole process.
"""

import gc
import itertools
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Final

import yaml

from infra.local.embedded.kubernetes import store as embedded_store
from shared import observability
from shared.kube import Cluster
from shared.kube.connection import Connection
from shared.reconcile.connections import Connections
from shared.settings import Settings
from shared.writers import git as _git  # noqa: F401 -- loaded before the clocks are replaced
from shared.writers.git import session as git_session
from shared.writers.git import writer as git_writer
from shared.writers.s3 import client as s3_client
from tests.interleavings import s3
from tests.interleavings.git_remote import Endpoint, Remote
from tests.interleavings.kubernetes_api import ApiClient, Objects
from tests.interleavings.machine import Machine
from tests.interleavings.s3 import Bucket
from tests.interleavings.sqs import Queues, SqsClient

_WORLDS_OF_GARBAGE: Final = 100


class _Now:
    """The world that runs now; one at a time in a process."""

    machine: Machine
    buckets: dict[str, Bucket]
    remotes: dict[str, Remote]
    uids: "itertools.count[int]"
    worlds = 0


class _VirtualDatetime(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return datetime.fromtimestamp(_Now.machine.now, tz)


class _VirtualEvent:
    """An event of one Git session: waiting for it is virtual."""

    def __init__(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True

    def wait(self, seconds: float) -> bool:
        if not self._set:
            _Now.machine.sleep_in_thread(seconds)
        return self._set


class _NoMetrics:
    """What counts nothing."""

    def __init__(self, **_: object) -> None:
        pass

    def add_dimension(self, *_: object) -> None:
        pass

    add_metric = add_dimension

    def flush_metrics(self) -> None:
        pass


def install() -> None:
    """Replace clocks, chance and servers' libraries in this process, for good."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        raise RuntimeError("run this with PYTHONHASHSEED=0: the order of sets is part of a schedule")
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda _: None  # a killed coroutine that is thrown away complains
    time.monotonic = time.time = lambda: _Now.machine.now
    for name, module in list(sys.modules.items()):
        ours = name.split(".")[0] in {"shared", "infra"}
        if ours and getattr(module, "datetime", None) is datetime:
            _replace(module, "datetime", _VirtualDatetime)
    _replace(embedded_store, "uuid", SimpleNamespace(uuid4=lambda: f"uid-{next(_Now.uids)}"))
    _replace(s3_client, "connect", _connect_s3)
    _replace(git_writer, "open_endpoint", lambda store, *_: Endpoint(_Now.remotes[store.spec.url], store.spec.url))
    _replace(git_session, "threading", SimpleNamespace(Event=_VirtualEvent, Lock=threading.Lock))
    _replace(observability.metrics, "add_metric", lambda *_, **__: None)
    _replace(observability, "EphemeralMetrics", _NoMetrics)
    # The same, and much faster.
    _replace(yaml, "safe_load", lambda text: yaml.load(text, Loader=yaml.CSafeLoader))
    _replace(yaml, "safe_dump", lambda value, **how: yaml.dump(value, Dumper=yaml.CSafeDumper, **how))
    gc.freeze()
    gc.disable()  # a world is garbage at once; collecting that now and then is a tenth faster


def _connect_s3(*given: Any) -> Any:
    """Connect to a bucket in memory: the one of the puts, which are among the arguments."""
    (name,) = [each._bucket for each in given if hasattr(each, "_bucket")]
    return s3.connected(_Now.buckets[name])


def _replace(owner: Any, name: str, substitute: Any) -> None:
    """Replace what is there; where the code has moved it, this says so."""
    if not hasattr(owner, name):
        raise AttributeError(f"{owner} has no {name} any more: move the seam to where it is now")
    setattr(owner, name, substitute)


def enter(
    machine: Machine, buckets: dict[str, Bucket], remotes: dict[str, Remote], uids: "itertools.count[int]", seed: int
) -> None:
    """Make a world the one that the process's clocks and clients belong to."""
    _Now.machine, _Now.buckets, _Now.remotes, _Now.uids = machine, buckets, remotes, uids
    _Now.worlds += 1
    if _Now.worlds % _WORLDS_OF_GARBAGE == 0:
        gc.collect()
    random.seed(seed)


class _Access:
    """The way to the cluster, which never changes."""

    advice = "check the RBAC of its identity"

    def __init__(self, client: Any) -> None:
        self._client = client

    async def open(self) -> Any:
        return ApiClient(self._client._machine, self._client._store)


def on_unexpected(tell: Callable[[str], None]) -> None:
    """Let errors that no code has translated be told, instead of logged."""
    _replace(observability.logger, "error", lambda text, *words, **_: tell(text % words))


def connections(machine: Machine, store: Objects, queues: Queues, settings: Settings) -> Connections:
    """Return what a new container has, connected to the servers in memory."""
    made = Connections(settings)
    client: Any = ApiClient(machine, store)
    access: Any = _Access(client)
    made.clusters._open["default"] = Cluster(Connection(access, client, settings), settings)
    made.queues._client = SqsClient(queues)  # type: ignore[assignment]
    return made


def utc(machine: Machine) -> datetime:
    """Return the virtual time."""
    return datetime.fromtimestamp(machine.now, UTC)
