"""An API server with more documents than a function has memory, and on-work-change as a process that is measured.

A real one would need gigabytes of etcd for it. `python -m tests.integration.large_lists serve <count> <KiB>` prints its
port; `… place <port> <seconds>` prints the peak of its memory in MiB and the number of verdicts.
"""

import asyncio
import json
import os
import sys
import tempfile
from base64 import b64encode
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


async def place(port: int, seconds: float) -> tuple[int, int]:
    """Let on-work-change look at all Works; return its verdicts and what comes back."""
    from shared.deadline import Deadline
    from shared.messages import Reference
    from shared.reconcile.connections import Connections
    from shared.reconcile.works import place_works
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
            everything = {"m": Reference(kind="Destination", name="*")}
            failures = await place_works(everything, connections, Deadline.after(seconds))
            return len(sent.messages), len(failures)


async def _serve(count: int, kib: int) -> None:
    runner = web.AppRunner(serve(count, kib), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(_serve(int(sys.argv[2]), int(sys.argv[3])))
    else:
        verdicts, failures = asyncio.run(place(int(sys.argv[2]), float(sys.argv[3])))
        print(peak_mebibytes(), verdicts, failures)
