"""API servers with more objects than a function has memory for, and functions as processes that are measured.

Real ones would need gigabytes of etcd for it. `python -m tests.integration.large_lists serve <count> <KiB>` prints the
port of one with Works and WorkPlacements of that size; `… place <port> <seconds>` has on-work-change look at them, and
prints the peak of its memory in MiB, the number of verdicts and of failures. `… fleet <count> <count>` has Destinations
and WorkPlacements; `… resync <port> <seconds>` prints the peak, the number of messages, the bytes of the largest one,
and the number of failures.
"""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.integration.peak import peak_mebibytes

API_VERSION = "platform.kratix.io/v1alpha1"


def _metadata(kind: str, number: int) -> dict[str, Any]:
    named = {"namespace": "default", "uid": f"{kind}-{number}", "generation": 1, "resourceVersion": "1"}
    if kind == "Work":
        return {"name": f"w{number}", "finalizers": ["kratix.io/work-cleanup"], **named}
    owner = {"apiVersion": API_VERSION, "kind": "Work", "name": "w0", "uid": "Work-0"}
    labels = {"kratix.io/work": "w0", "kratix.io/workload-group-id": "5058f", "kratix.io/targetDestinationName": "d"}
    return {"name": f"w0.d{number}-5058f", "labels": labels, "ownerReferences": [owner], **named}


def _spec(kind: str, content: str) -> dict[str, Any]:
    workloads = [{"filepath": "f", "content": content}]
    if kind == "Work":
        return {"promiseName": "p", "workloadGroups": [{"id": "5058f", "workloads": workloads}]}
    return {"targetDestinationName": "d", "workloads": workloads}


def _status(kind: str, number: int) -> dict[str, Any]:
    if kind == "Work":  # the first one asks for all WorkPlacements, whole
        reason = "Misplaced" if number else "WorkplacementsFailing"
        return {"conditions": [{"type": "Ready", "status": "False", "reason": reason}]}
    return {"conditions": [{"type": "WriteSucceeded", "status": "False", "reason": "WorkloadsFailedWrite"}]}


def serve(count: int, kib: int) -> web.Application:
    """Return an API server with so many Works and WorkPlacements of that size; `limit` is obeyed as to number alone."""
    content = b64encode(os.urandom(kib * 768)).decode()
    kinds = {"works": "Work", "workplacements": "WorkPlacement", "destinations": "Destination"}

    async def listed(request: web.Request) -> web.Response:
        kind = kinds[request.path.rpartition("/")[2]]
        is_partial = "PartialObjectMetadata" in request.headers.get("Accept", "")
        first, limit = int(request.query.get("continue") or 0), int(request.query.get("limit") or 10**9)
        last = min(count if kind != "Destination" else 0, first + limit)
        items = [
            {"metadata": _metadata(kind, number)}
            | ({} if is_partial else {"spec": _spec(kind, content), "status": _status(kind, number)})
            for number in range(first, last)
        ]
        metadata = {"resourceVersion": "1", "continue": str(last) if last < count and items else ""}
        named = {"apiVersion": API_VERSION, "kind": f"{kind}List"}
        if is_partial:
            named = {"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList"}
        body = json.dumps({**named, "metadata": metadata, "items": items}).encode()
        return web.Response(body=body, content_type="application/json")

    application = web.Application()
    application.router.add_get("/{tail:.*}", listed)
    return application


def fleet(destinations: int, placements: int) -> web.Application:
    """Return an API server with Destinations of ten State Stores, Ready, and WorkPlacements at them."""
    ready = [{"type": "Ready", "status": "True", "reason": "R", "message": "m" * 40, "observedGeneration": 1}]

    def destination(number: int) -> dict[str, Any]:
        named: dict[str, Any] = {"name": f"worker-{number}", "uid": f"d{number}", "generation": 1}
        named["creationTimestamp"] = "2026-01-01T00:00:00Z"
        annotations = {"kubectl.kubernetes.io/last-applied-configuration": "x" * 300}
        ref = {"kind": "BucketStateStore", "name": f"store-{number % 10}"}
        spec = {"path": f"fleet/worker-{number}", "cleanup": "none", "stateStoreRef": ref}
        return {"metadata": named | {"annotations": annotations}, "spec": spec, "status": {"conditions": ready}}

    def store(number: int) -> dict[str, Any]:
        spec = {"endpoint": "s3.example.com", "bucketName": f"b{number}", "authMethod": "IAM"}
        created = {"uid": f"s{number}", "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"}
        return {"metadata": {"name": f"store-{number}", **created}, "spec": spec}

    def row(number: int) -> dict[str, Any]:
        labels = {"kratix.io/targetDestinationName": f"worker-{number % destinations}", "kratix.io/work": "w"}
        named = {"name": f"w{number}", "namespace": "default", "uid": f"w{number}", "labels": labels}
        created = {"creationTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["finalizers.workplacement.kratix.io/x"]}
        return {"cells": [f"w{number}", "Ready"], "object": {"metadata": named | created}}

    kinds: dict[str, tuple[str, int, Callable[[int], dict[str, Any]]]] = {
        "destinations": ("Destination", destinations, destination),
        "bucketstatestores": ("BucketStateStore", 10, store),
        "gitstatestores": ("GitStateStore", 0, store),
        "workplacements": ("WorkPlacement", placements, row),
        "configmaps": ("ConfigMap", 0, store),
    }

    async def listed(request: web.Request) -> web.Response:
        plural = request.path.rpartition("/")[2]
        if plural == "v1alpha1":
            return web.json_response({"kind": "APIResourceList", "apiVersion": "v1", "resources": []})
        if plural not in kinds:
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            return web.json_response(missing, status=404)
        kind, count, make = kinds[plural]
        first, limit = int(request.query.get("continue") or 0), int(request.query.get("limit") or 10**9)
        last = min(count, first + limit)
        objects = [make(number) for number in range(first, last)]
        metadata = {"resourceVersion": "1", "continue": str(last) if last < count else ""}
        named = {"apiVersion": "v1" if kind == "ConfigMap" else API_VERSION, "kind": f"{kind}List", "items": objects}
        if "as=Table" in request.headers.get("Accept", ""):
            columns = [{"name": "Name", "type": "string"}, {"name": "Status", "type": "string"}]
            named = {"apiVersion": "meta.k8s.io/v1", "kind": "Table", "columnDefinitions": columns, "rows": objects}
        return web.json_response({**named, "metadata": metadata})

    application = web.Application()
    application.router.add_get("/{tail:.*}", listed)
    return application


async def resynced(port: int, seconds: float) -> tuple[int, int, int]:
    """Let resync look at everything; return its messages, the bytes of the largest, and what comes back."""
    from shared.deadline import Deadline
    from shared.reconcile.resync import resync

    async with _connected(port) as (connections, sent):
        failures = await resync({"m": {}}, connections, Deadline.after(seconds))
        sizes = [len(item.message.encode()) for item in sent.messages]
        return len(sizes), max(sizes, default=0), len(failures)


async def place(port: int, seconds: float) -> tuple[int, int]:
    """Let on-work-change look at all Works; return its verdicts and what comes back."""
    from shared.deadline import Deadline
    from shared.messages import Reference
    from shared.reconcile.works import place_works

    async with _connected(port) as (connections, sent):
        everything = {"m": Reference(kind="Destination", name="*")}
        failures = await place_works(everything, connections, Deadline.after(seconds))
        return len(sent.messages), len(failures)


@contextlib.asynccontextmanager
async def _connected(port: int) -> AsyncIterator[tuple[Any, Any]]:
    """Open a function's connections to an API server, with queues that keep what is sent."""
    from shared.reconcile.connections import Connections
    from shared.settings import Settings
    from tests.integration.by_hand import Sent

    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "large", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "large", "user": {}}],
        "contexts": [{"name": "large", "context": {"cluster": "large", "user": "large"}}],
        "current-context": "large",
    }
    with tempfile.NamedTemporaryFile("w") as kubeconfig:
        json.dump(config, kubeconfig)
        kubeconfig.flush()
        async with Connections(
            Settings(kubeconfig=Path(kubeconfig.name), kubernetes_timeout_seconds=60)
        ) as connections:
            connections.queues = sent = Sent(connections.settings)
            yield connections, sent


async def _serve(application: web.Application) -> None:
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    if sys.argv[1] in {"serve", "fleet"}:
        made = {"serve": serve, "fleet": fleet}[sys.argv[1]]
        asyncio.run(_serve(made(int(sys.argv[2]), int(sys.argv[3]))))
    elif sys.argv[1] == "resync":
        found = asyncio.run(resynced(int(sys.argv[2]), float(sys.argv[3])))
        print(peak_mebibytes(), *found)
    else:
        verdicts, failures = asyncio.run(place(int(sys.argv[2]), float(sys.argv[3])))
        print(peak_mebibytes(), verdicts, failures)
