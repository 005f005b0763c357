"""What becomes of placements where the Kubernetes API fails one of several (docs/contract.md#scheduling)."""

from __future__ import annotations

import asyncio

import pytest

from infra.local.runtime import LocalRuntime
from tests.integration.documents import declare_store, misplaced, written
from tests.integration.flow import behind_proxy
from tests.integration.kubernetes_proxy import Answer, Asked, Forward, KubernetesProxy
from tests.integration.platform_team import Platform
from tests.integration.test_documents import group
from tests.servers.git import GitServer
from tests.servers.s3 import Minio

pytestmark = pytest.mark.asyncio(loop_scope="module")

FIRST, SECOND = "deps.a-5058f", "deps.b-5058f"


runtime = behind_proxy()


def fail_the_second(proxy: KubernetesProxy, verb: str) -> list[Asked]:
    """Let the first such call on a WorkPlacement be done, and refuse the one beside it after that; return what came."""
    came: list[Asked] = []
    done = asyncio.Event()

    async def fault(asked: Asked, forward: Forward) -> Answer | None:
        if not asked.is_(verb, "workplacements") or len(came) == 2:
            return None
        came.append(asked)
        if len(came) == 1:
            answer = await forward()
            done.set()
            return answer
        await done.wait()
        return Answer.error(503, "Forced", "a forced 503", Retry_After="3600")

    proxy.fault = fault
    return came


async def test_where_one_placement_fails_the_others_say_in_the_end_whether_they_match(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer, api_proxy: KubernetesProxy
) -> None:
    """The run that fails reports nothing; the next one finds what that one did as it should be."""
    declare_store(platform, "bucket", minio, git_server)
    for name in ("a", "b"):
        platform.destination(name, "bucket/default", labels={"env": "dev"})
        await platform.wait_ready(name)
    await runtime.idle()
    came = fail_the_second(api_proxy, "create")
    platform.work("deps", group({"a.yaml": b"a\n"}, env="dev"), promise="p")
    for name in (FIRST, SECOND):
        await written(platform, name)
    await runtime.idle()
    assert len(came) == 2, "the fault was met"
    await runtime.resync()
    await runtime.idle()
    for name in (FIRST, SECOND):
        assert platform.condition("workplacements", name, "ScheduleSucceeded")[:2] == ("True", "ScheduledToDestination")

    came = fail_the_second(api_proxy, "patch")
    platform.work("deps", group({"a.yaml": b"a\n"}, env="prod"), promise="p")
    await platform.until(lambda: len(came) == 2, "both placements patched")
    await runtime.idle()
    await runtime.resync()
    for name in (FIRST, SECOND):
        await misplaced(platform, name)
    await runtime.idle()
    api_proxy.reset()
    await runtime.resync()
    await runtime.idle()
    assert not any(asked.is_("patch", "workplacements/status") for asked in api_proxy.asked), "all is said"
