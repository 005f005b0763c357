"""What tests of documents share: many Works at once, and what became of their WorkPlacements."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from tests.integration.platform_team import GROUP, Platform
from tests.integration.test_first_ready import declare_bucket, declare_repository
from tests.servers.git import GitServer
from tests.servers.repository import Repository
from tests.servers.s3 import Minio

Tree = Callable[[], dict[str, bytes]]

MISPLACED = "Target destination no longer matches destinationSelectors"


def declare_store(
    platform: Platform, kind: str, minio: Minio, git_server: GitServer, repository: Repository | None = None
) -> Tree:
    """Declare a bucket or a repository as the State Store `default`; return what reads its files below its path.

    Args:
        repository: to be declared, for a test that looks at its commits; a new one where it is None.
    """
    prefix = "destinations/"
    if kind == "bucket":
        bucket = declare_bucket(platform, minio)
        return lambda: {path.removeprefix(prefix): content for path, content in minio.objects(bucket).items()}
    declared = repository or git_server.create_repository()
    declare_repository(platform, git_server, declared)

    def tree() -> dict[str, bytes]:
        files = declared.tree()
        return {path.removeprefix(prefix): files[path] for path in files if path.startswith(prefix)}

    return tree


async def side_by_side(calls: Iterable[Callable[[], object]], at_once: int = 16) -> None:
    """Make blocking calls, many at once."""
    free = asyncio.Semaphore(at_once)

    async def one(call: Callable[[], object]) -> None:
        async with free:
            await asyncio.to_thread(call)

    await asyncio.gather(*(one(call) for call in calls))


def placements(platform: Platform) -> dict[str, dict[str, Any]]:
    """Return all WorkPlacements by name."""
    return {obj["metadata"]["name"]: obj for obj in platform.api.call("GET", f"{GROUP}/workplacements")["items"]}


def is_ready(obj: dict[str, Any]) -> bool:
    """Whether an object's Ready is True."""
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


async def all_ready(platform: Platform, count: int, seconds: float = 60) -> dict[str, dict[str, Any]]:
    """Wait until there are so many WorkPlacements, and all are Ready; return them."""
    found: dict[str, dict[str, Any]] = {}

    def ready() -> bool:
        found.clear()
        found.update(placements(platform))
        return len(found) == count and all(map(is_ready, found.values()))

    def seen() -> object:
        waiting = [obj["metadata"]["name"] for obj in found.values() if not is_ready(obj)]
        status = next((obj.get("status") for obj in found.values() if not is_ready(obj)), None)
        return f"{len(found)} WorkPlacements, {len(waiting)} not Ready, the first of them {waiting[:1]}: {status}"

    await platform.until(ready, f"{count} WorkPlacements Ready", seconds, seen)
    return found


async def written(platform: Platform, name: str, seconds: float = 30) -> None:
    """Wait until a WorkPlacement is Ready."""
    await platform.until(
        lambda: (
            platform.condition("workplacements", name, "Ready")[:2] == ("True", "WorkloadsWrittenToTargetDestination")
        ),
        f"{name} written",
        seconds,
        seen=lambda: platform.conditions("workplacements", name),
    )


async def failed(platform: Platform, name: str, seconds: float = 30) -> str:
    """Wait until a WorkPlacement says that it could not be written; return the sentence."""
    told = await platform.seen(
        lambda: platform.told("workplacements", name),
        lambda told: (
            told.get("WriteSucceeded", ())[:2] == ("False", "WorkloadsFailedWrite")
            and told.get("Ready") == ("False", "WorkloadsFailedWrite", "Failing")
        ),
        f"{name} failed",
        seconds,
    )
    return told["WriteSucceeded"][2]


async def work_says(platform: Platform, name: str, reason: str, seconds: float = 30) -> str:
    """Wait until a Work's Ready has a reason; return the message of its ScheduleSucceeded."""
    told = await platform.seen(
        lambda: platform.told("works", name),
        lambda told: told.get("Ready", ("", ""))[1] == reason,
        f"Work {name} {reason}",
        seconds,
    )
    return told.get("ScheduleSucceeded", ("", "", ""))[2]


def labels(placement: dict[str, Any] | None) -> dict[str, str]:
    return dict((placement or {"metadata": {}})["metadata"].get("labels") or {})


async def misplaced(platform: Platform, name: str) -> None:
    """Wait until a WorkPlacement says so in every place where Kratix says it."""
    await platform.until(
        lambda: (
            platform.condition("workplacements", name, "ScheduleSucceeded")
            == ("False", "DestinationSelectorMismatch", MISPLACED)
            and platform.condition("workplacements", name, "Ready") == ("False", "Misplaced", "Misplaced")
            and labels(platform.object("workplacements", name)).get("kratix.io/misplaced") == "true"
        ),
        f"{name} misplaced",
        seen=lambda: platform.object("workplacements", name),
    )
