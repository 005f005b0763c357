"""An API server with a fleet in which all is well, as `tests.integration.large_lists`: real metadata, few documents.

`python -m tests.integration.large_fleet <destinations> <placements of each>` prints its port.
"""

import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from aiohttp import web

from shared import conditions
from shared.messages import Reference
from shared.reconcile import placements
from shared.schedule import Placement
from shared.works import Work
from tests.integration.large_lists import API_VERSION

# A third of what an API server sends of an object's metadata is who changed which field.
_MANAGED = [{"manager": "landfall", "operation": "Update", "fieldsV1": {f"f:field-{n}": {} for n in range(12)}}]


def _destination(number: int) -> dict[str, Any]:
    name = f"worker-{number:06}"
    metadata = {"name": name, "uid": f"d-{number}", "resourceVersion": "1", "labels": {"name": name, "env": "dev"}}
    ref = {"kind": "BucketStateStore", "name": "default"}
    return {"metadata": {**metadata, "managedFields": _MANAGED}, "spec": {"path": name, "stateStoreRef": ref}}


def _work(number: int, groups: int) -> dict[str, Any]:
    """Return the Work of a resource request whose groups go to one Destination."""
    selectors = [{"matchLabels": {"name": f"worker-{number:06}"}, "source": "promise"}]
    metadata = {
        "name": f"request-{number:06}",
        "namespace": "default",
        "uid": f"w-{number}",
        "generation": 1,
        "resourceVersion": "1",
        "finalizers": ["kratix.io/work-cleanup"],
    }
    workloads = [{"filepath": "f", "content": "x" * 200}]
    spec = {
        "promiseName": "p",
        "resourceName": f"request-{number:06}",
        "workloadGroups": [
            {"id": f"{n:05}0123456789abcdef", "destinationSelectors": selectors, "workloads": workloads}
            for n in range(groups)
        ],
    }
    obj = {"apiVersion": API_VERSION, "kind": "Work", "metadata": metadata, "spec": spec}
    status = conditions.merged(conditions.work_scheduled(Reference.to(obj, "Work", ""), groups), obj)
    return {**obj, "status": status}


def _placements(work: dict[str, Any], number: int) -> Iterator[dict[str, Any]]:
    """Yield the metadata of a Work's WorkPlacements, as on-work-change makes them."""
    read = Work.parse(work)
    for group in read.spec.workload_groups:
        target = f"worker-{number:06}"
        placement = Placement(f"{read.name}.{target}-{group.id[:5]}", group, target, misplaced=False)
        metadata = placements.wanted(read, placement, "nestedByMetadata")["metadata"]
        more = {"uid": f"p-{number}-{group.id[:5]}", "resourceVersion": "1", "managedFields": _MANAGED}
        yield {"metadata": {**metadata, **more}}


def serve(destinations: int, each: int) -> web.Application:
    """Return the API server; what would be written is refused, so that a test sees it."""
    works = [_work(number, each) for number in range(destinations)]
    kinds: dict[str, tuple[str, Sequence[bytes]]] = {
        "destinations": ("Destination", [json.dumps(_destination(n)).encode() for n in range(destinations)]),
        "works": ("Work", [json.dumps(work).encode() for work in works]),
        "workplacements": (
            "WorkPlacement",
            [json.dumps(p).encode() for n, work in enumerate(works) for p in _placements(work, n)],
        ),
    }

    async def listed(request: web.Request) -> web.Response:
        kind, objects = kinds[request.path.rpartition("/")[2]]
        first, limit = int(request.query.get("continue") or 0), int(request.query.get("limit") or 10**9)
        last = min(len(objects), first + limit)
        api_version, name = (API_VERSION, f"{kind}List")
        if "PartialObjectMetadata" in request.headers.get("Accept", ""):
            api_version, name = "meta.k8s.io/v1", "PartialObjectMetadataList"
        metadata = json.dumps({"resourceVersion": "1", "continue": str(last) if last < len(objects) else ""})
        head = f'{{"apiVersion":"{api_version}","kind":"{name}","metadata":{metadata},"items":['.encode()
        return web.Response(body=head + b",".join(objects[first:last]) + b"]}", content_type="application/json")

    application = web.Application()
    application.router.add_get("/{tail:.*}", listed)
    return application


async def _serve(destinations: int, each: int) -> None:
    runner = web.AppRunner(serve(destinations, each), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
