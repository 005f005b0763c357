"""What the deployment says when documents do not arrive: from a real Git server's refusal to the alarm's state."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from infra.local.runtime import LocalRuntime
from infra.local.template import _Loader
from tests.infra.cloudwatch import ALARM, OK, Alarm, Value, values
from tests.integration.flow import running
from tests.integration.platform_team import Platform
from tests.integration.test_documents import group
from tests.integration.test_first_ready import declare_repository
from tests.servers.git import GitServer
from tests.servers.kubernetes import KubernetesApi

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEMPLATE: dict[str, Any] = yaml.load(Path("template.yaml").read_text(), _Loader)
STACK = "observed"
# Refuses a push that brings a document with a word that a policy forbids, as a secret scanner does.
SCANNER = """#!/bin/sh
while read -r old new ref; do
  if git grep -q FORBIDDEN "$new" -- ; then echo "policy: a document holds FORBIDDEN" >&2; exit 1; fi
done
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runtime(cluster: KubernetesApi, git_server: GitServer) -> AsyncIterator[LocalRuntime]:
    """The flow, its functions writing metrics to their logs as at AWS; what is not Ready counts at once."""
    variables: dict[str, Any] = {"POWERTOOLS_METRICS_DISABLED": "false", "POWERTOOLS_SERVICE_NAME": STACK}
    async with running(cluster, git_server, LANDFALL_NOT_READY_SECONDS="0", **variables) as running_:
        yield running_


class Log:
    """Reads the metrics that the functions have written since the last look."""

    def __init__(self, runtime: LocalRuntime) -> None:
        self._runtime = runtime
        self._read = len(self._lines())

    def _lines(self) -> list[str]:
        return self._runtime.log.path.read_text().splitlines()

    def new(self) -> list[Value]:
        lines = self._lines()
        found = values(lines[self._read :])
        self._read = len(lines)
        return found


def of(measured: list[Value], metric: str, **dimensions: str) -> list[float]:
    wanted = frozenset({"service": STACK, **dimensions}.items())
    return [value.value for value in measured if (value.metric, value.dimensions) == (metric, wanted)]


def state(id_: str, measured: list[Value], before: str = OK) -> str:
    alarm = Alarm.of(TEMPLATE, id_, STACK, {})
    moments = [value.seconds for value in measured]
    return list(alarm.states(measured, min(moments), max(moments) + alarm.period, before).values())[-1]


async def says(platform: Platform, placement: str, word: str) -> None:
    """Wait until a WorkPlacement's Ready has a message."""
    await platform.until(
        lambda: platform.condition("workplacements", placement, "Ready")[2] == word,
        f"{placement} {word}",
        seen=lambda: platform.conditions("workplacements", placement),
    )


async def test_a_work_placement_that_a_hook_refuses_raises_its_alarm_and_one_that_is_written_ends_it(
    runtime: LocalRuntime, platform: Platform, git_server: GitServer
) -> None:
    repository = git_server.create_repository(hooks={"pre-receive": SCANNER})
    declare_repository(platform, git_server, repository)
    platform.destination("worker-1", "git/default")
    platform.destination("worker-2", "git/default")
    await platform.wait_ready("worker-1")
    platform.work("bad", group({"app.yaml": b"word: FORBIDDEN\n"}), promise="bad")
    for name in ("bad.worker-1-5058f", "bad.worker-2-5058f"):
        await says(platform, name, "Failing")
    await runtime.idle()
    log = Log(runtime)
    await runtime.resync()
    await runtime.idle()
    told = log.new()
    assert of(told, "WorkPlacementsFailing", cluster="default") == of(told, "WorkPlacementsFailing") == [2]
    assert of(told, "StateStoresNotReady") == of(told, "DestinationsNotReady") == [0]
    assert state("WorkPlacementsFailingAlarm", told) == ALARM
    assert state("StateStoresNotReadyAlarm", told) == state("DestinationsNotReadyAlarm", told) == OK
    platform.work("bad", group({"app.yaml": b"word: allowed\n"}), promise="bad")
    for name in ("bad.worker-1-5058f", "bad.worker-2-5058f"):
        await says(platform, name, "Ready")
    await runtime.idle()
    log.new()
    await runtime.resync()
    await runtime.idle()
    told = log.new()
    assert of(told, "WorkPlacementsFailing", cluster="default") == [0]
    assert state("WorkPlacementsFailingAlarm", told, before=ALARM) == OK


async def test_a_state_store_that_is_not_ready_raises_its_alarm(
    runtime: LocalRuntime, platform: Platform, git_server: GitServer
) -> None:
    repository = git_server.create_repository()
    declare_repository(platform, git_server, repository)
    platform.git_store("unused", url=repository.https_url, branch="main", secretRef={"name": "nowhere"})
    await platform.wait_store("git/unused", "SecretNotFound")
    await platform.wait_store("git/default", "StateStoreReady")
    await runtime.idle()
    log = Log(runtime)
    await runtime.resync()
    await runtime.idle()
    told = log.new()
    assert of(told, "StateStoresNotReady", cluster="default") == [1]
    assert of(told, "DestinationsNotReady", cluster="default") == [0], "no Destination is there to say so"
    assert state("StateStoresNotReadyAlarm", told) == ALARM


async def test_the_time_from_a_change_to_ready_is_measured_once_for_each_generation(
    runtime: LocalRuntime, platform: Platform, git_server: GitServer
) -> None:
    repository = git_server.create_repository()
    log = Log(runtime)
    declare_repository(platform, git_server, repository)
    platform.destination("worker-1", "git/default")
    platform.work("w", group({"a.yaml": b"a\n"}), promise="w")
    await says(platform, "w.worker-1-5058f", "Ready")
    await platform.wait_ready("worker-1")
    await runtime.idle()
    told = log.new()
    for kind in ("GitStateStore", "Destination", "Work", "WorkPlacement"):
        (seconds,) = of(told, "SecondsToReady", kind=kind)
        assert 0 <= seconds < 60, kind
    assert of(told, "SecondsToReady") == []
    await runtime.resync()
    await runtime.idle()
    assert of(log.new(), "SecondsToReady", kind="Destination") == [], "it has been Ready before"
    platform.destination("worker-1", "git/default", path="moved")
    path = "destinations/moved/dependencies/w/5058f/a.yaml"
    await platform.until(lambda: path in repository.tree(), "moved", seen=repository.tree)
    await runtime.idle()
    (seconds,) = of(log.new(), "SecondsToReady", kind="Destination")
    assert 0 <= seconds < 60, "since the change, not since the creation"


async def test_messages_are_counted_by_function(
    runtime: LocalRuntime, platform: Platform, git_server: GitServer
) -> None:
    log = Log(runtime)
    declare_repository(platform, git_server, git_server.create_repository())
    platform.destination("worker-1", "git/default")
    await platform.wait_ready("worker-1")
    await runtime.resync()
    await runtime.idle()
    told = log.new()
    for function in ("on-destination-change", "write-canary", "on-work-change", "status-report"):
        assert sum(of(told, "Messages", function_name=f"landfall-{function}")) > 0, function
        assert sum(of(told, "MessagesReturned", function_name=f"landfall-{function}")) == 0, function
    assert of(told, "Messages") == []
    assert of(told, "Ticks", function_name="landfall-resync") == [1]
