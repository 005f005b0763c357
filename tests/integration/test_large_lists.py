"""What a cluster holds does not decide how much memory a function needs (docs/failure-modes.md#42-large-lists)."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from shared.deadline import Deadline
from shared.errors import KubernetesError
from shared.kube import Cluster
from shared.kube.connection import MAX_RESPONSE_BYTES
from shared.kube.paging import PAGE, PAGE_BYTES, PageSize
from shared.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[2]
COUNT, KIB = 2000, 150
FLEET_MIB = 380  # 400 MB
MOST_MIB = 300  # of 512 that the function has; the interpreter and the libraries take some 90


async def test_on_work_change_looks_at_300_megabytes_of_works_and_workplacements_in_a_part_of_its_memory() -> None:
    mib, verdicts, failures = await placed("tests.integration.large_lists", "serve", str(COUNT), str(KIB))
    assert (verdicts, failures) == (COUNT, 0), "each Work says that nothing takes it, and the first one what fails"
    assert mib < MOST_MIB


@pytest.mark.timeout(600)
async def test_all_works_of_20000_destinations_with_100000_workplacements_fit_into_memory() -> None:
    mib, messages, failures = await placed("tests.integration.large_fleet", "20000", "5")
    assert (messages, failures) == (0, 0), "all is well, so nothing is written and nothing is said"
    assert mib < FLEET_MIB


async def test_a_resync_of_20_000_destinations_and_100_000_workplacements_needs_a_part_of_its_memory() -> None:
    serving = ("tests.integration.large_lists", "fleet", "20000", "100000")
    mib, messages, largest, failures = await measured(*serving, function="resync")
    assert failures == 0
    # 250 Destinations of a State Store a message, for two queues; ten State Stores, and the Works.
    assert messages == 2 * 20_000 // 250 + 10 + 1
    assert largest < 256 * 1024, "SQS takes no more"
    assert mib < MOST_MIB


async def placed(*serving: str) -> tuple[int, int, int]:
    """Let on-work-change look at all Works of a server; return the peak of its memory in MiB, and what it says."""
    mib, verdicts, failures = await measured(*serving, function="place")
    return mib, verdicts, failures


async def measured(*serving: str, function: str) -> list[int]:
    """Run a function as a process of its own at an API server of such a module; return what it prints."""
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *serving, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert server.stdout is not None
        port = (await server.stdout.readline()).decode().strip()
        run = [sys.executable, "-m", "tests.integration.large_lists", function, port, "240"]
        child = await asyncio.create_subprocess_exec(*run, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
        said, _ = await child.communicate()
    finally:
        server.terminate()
        await server.wait()
    return [int(number) for number in said.decode().split("\n")[-2].split()]


@pytest_asyncio.fixture(loop_scope="module")
async def listing() -> AsyncIterator[tuple[Cluster, list[int]]]:
    """A client, and the limits that it asks for, at an API server whose objects begin small and become large."""
    limits: list[int] = []
    sizes = [1_000] * 3000 + [1_400_000] * 30

    async def listed(request: web.Request) -> web.Response:
        limit, first = int(request.query["limit"]), int(request.query.get("continue") or 0)
        limits.append(limit)
        last = min(len(sizes), first + limit)
        items = [
            {"metadata": {"name": f"w{n}", "uid": str(n)}, "spec": {"x": "x" * sizes[n]}} for n in range(first, last)
        ]
        metadata = {"continue": str(last)} if last < len(sizes) else {}
        named = {"apiVersion": "platform.kratix.io/v1alpha1", "kind": "WorkList"}
        return web.json_response({**named, "metadata": metadata, "items": items})

    application = web.Application()
    application.router.add_get("/{tail:.*}", listed)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    with tempfile.NamedTemporaryFile("w") as file:
        server = {"server": f"http://127.0.0.1:{runner.addresses[0][1]}"}
        config = {
            "clusters": [{"name": "c", "cluster": server}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "c",
        }
        json.dump(config, file)
        file.flush()
        client = await Cluster.connect(Settings(kubeconfig=Path(file.name)))
        yield client, limits
        await client.close()
    await runner.cleanup()


async def test_a_page_is_bounded_by_its_bytes_where_small_objects_are_followed_by_large_ones(
    listing: tuple[Cluster, list[int]],
) -> None:
    client, limits = listing
    names: list[str] = []
    largest = 0
    async for page in client.pages("Work", Deadline.after(60)):
        names += [obj["metadata"]["name"] for obj in page]
        largest = max(largest, sum(len(obj["spec"]["x"]) for obj in page))
    assert names == [f"w{number}" for number in range(3030)], "all of them, each once"
    assert largest <= MAX_RESPONSE_BYTES
    assert limits[0] * 1_500_000 <= PAGE_BYTES, "of what nobody knows yet, no more than fits whatever its size"
    assert max(limits) == PAGE, "small ones are read as ever"
    assert limits[-1] * 1_400_000 <= PAGE_BYTES


async def test_one_object_over_the_bound_is_an_error_and_no_end_of_memory(
    listing: tuple[Cluster, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = listing
    monkeypatch.setattr("shared.kube.connection.MAX_RESPONSE_BYTES", 1_000_000)
    with pytest.raises(KubernetesError, match="is over 1000000 bytes"):
        await client.list_all("Work", Deadline.after(60))


async def test_the_next_limit_follows_from_the_bytes_of_the_last_page() -> None:
    size = PageSize.first("WorkPlacement", metadata_only=False)
    assert size.limit < 10
    for each, expected in ((1000, size.limit * 8), (150_000, PAGE_BYTES // 150_000), (PAGE_BYTES * 2, 1)):
        size.measure(each * size.limit)
        size.learn(size.limit)
        assert size.limit == min(expected, PAGE)
    assert PageSize.first("WorkPlacement", metadata_only=True).limit == PAGE
