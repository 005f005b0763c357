"""What the Kubernetes API may answer, and what comes of it (docs/failure-modes.md#20-api-server-answers)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from infra.local.runtime import LocalRuntime
from shared.messages import Reference, Verdict
from tests.integration.flow import behind_proxy, invocations, put_on
from tests.integration.kubernetes_proxy import CUT, Answer, Asked, Forward, KubernetesProxy
from tests.integration.platform_team import GROUP, Platform, named
from tests.integration.test_deletion import FINALIZER, finalizers
from tests.integration.test_first_ready import READY, canaries, declare_bucket, declare_repository
from tests.servers.git import GitServer
from tests.servers.s3 import Minio

pytestmark = pytest.mark.asyncio(loop_scope="module")

STATUS = ("patch", "destinations/status", "worker-1")


runtime = behind_proxy()


def error(status: int, **headers: str) -> Answer:
    return Answer.error(status, "Forced", f"a forced {status}", **headers)


@pytest.mark.parametrize(
    ("call", "answers"),
    [
        pytest.param(STATUS, [error(409)], id="409 on a status patch"),
        pytest.param(STATUS, [error(429, Retry_After="1")], id="429 on a status patch"),
        pytest.param(STATUS, [error(503), error(500), error(503)], id="5xx on a status patch"),
        pytest.param(STATUS, [CUT, CUT], id="connections reset on a status patch"),
        pytest.param(STATUS, [error(401)], id="401 on a status patch"),
        pytest.param(("get", "destinations", ""), [error(401), error(503), CUT], id="a mix on a read"),
        pytest.param(("get", "secrets", ""), [error(401), error(503)], id="a mix on the Secret"),
        pytest.param(("create", "events", ""), [error(500)] * 8, id="Events that are not taken"),
    ],
)
async def test_a_destination_becomes_ready_whatever_the_api_answers_at_first(
    runtime: LocalRuntime,
    platform: Platform,
    minio: Minio,
    api_proxy: KubernetesProxy,
    *,
    call: tuple[str, str, str],
    answers: list[Answer],
) -> None:
    bucket = declare_bucket(platform, minio)
    await platform.wait_store("bucket/default", "StateStoreReady")
    await runtime.idle()
    left = api_proxy.fail(*call, *answers)
    platform.destination("worker-1", "bucket/default")
    if call[1] == "secrets":
        platform.secret("default", accessKeyID=minio.root.access_key, secretAccessKey=minio.root.secret_key, new="1")
    await platform.wait_ready("worker-1")
    await runtime.idle()
    api_proxy.reset()
    assert platform.ready("worker-1") == READY
    assert len(left) < len(answers), "the fault was met"
    assert minio.objects(bucket) == canaries("destinations/worker-1")


async def test_a_conflict_is_read_again_and_decided_again(
    runtime: LocalRuntime, platform: Platform, minio: Minio, api_proxy: KubernetesProxy
) -> None:
    """What changed meanwhile makes the verdict one about an older generation: it is dropped, not forced."""
    declare_bucket(platform, minio)
    await platform.wait_store("bucket/default", "StateStoreReady")
    patched: list[dict[str, Any]] = []

    async def change_before_the_patch(asked: Asked, forward: Forward) -> Answer | None:
        if not asked.is_(*STATUS):
            return None
        if not patched:  # a real 409, because somebody really was faster
            await asyncio.to_thread(platform.destination, "worker-1", "bucket/default", path="newer")
        answer = await forward()
        patched.append(
            {"status": answer.status, "generation": (platform.get("worker-1") or {})["metadata"]["generation"]}
        )
        return answer

    api_proxy.fault = change_before_the_patch
    platform.destination("worker-1", "bucket/default", path="older")
    await platform.until(lambda: len(patched) > 1, "a second verdict")
    await platform.wait_ready("worker-1")
    await runtime.idle()
    api_proxy.reset()
    assert patched[0]["status"] == 409
    obj = platform.get("worker-1")
    assert obj is not None
    assert [c["observedGeneration"] for c in obj["status"]["conditions"]] == [obj["metadata"]["generation"]] == [2]


async def test_an_object_that_is_gone_when_its_status_is_patched_is_no_error(
    runtime: LocalRuntime, platform: Platform, minio: Minio, api_proxy: KubernetesProxy
) -> None:
    declare_bucket(platform, minio)
    await platform.wait_store("bucket/default", "StateStoreReady")
    met = asyncio.Event()

    async def delete_before_the_patch(asked: Asked, forward: Forward) -> Answer | None:
        if asked.is_(*STATUS):
            await asyncio.to_thread(platform.delete, "destinations", "worker-1")
            met.set()
        return None

    api_proxy.fault = delete_before_the_patch
    before = runtime.functions["status-report"].failures
    platform.destination("worker-1", "bucket/default")
    await asyncio.wait_for(met.wait(), 30)
    await runtime.idle()
    api_proxy.reset()
    assert platform.get("worker-1") is None
    assert runtime.functions["status-report"].failures == before
    assert await runtime.dead_letters() == {}


async def test_the_api_is_unreachable_after_a_good_write_and_the_verdict_comes_later_without_a_second_commit(
    runtime: LocalRuntime, platform: Platform, git_server: GitServer, api_proxy: KubernetesProxy
) -> None:
    repository = git_server.create_repository()
    declare_repository(platform, git_server, repository)
    await platform.wait_store("git/default", "StateStoreReady")
    await runtime.idle()

    async def down_once_it_is_written(asked: Asked, forward: Forward) -> Answer | None:
        return CUT if len(repository.commits()) > 1 else None

    api_proxy.fault = down_once_it_is_written
    platform.destination("worker-1", "git/default", cleanup="all")
    await platform.until(lambda: len(repository.commits()) > 1, "the commit")
    await asyncio.sleep(2)
    assert platform.ready("worker-1")[0] != "True", "nobody can have said so"
    api_proxy.reset()
    await platform.wait_ready("worker-1")
    await runtime.idle()
    assert len(repository.commits()) == 2


async def test_verdicts_of_an_older_generation_another_uid_or_an_older_moment_are_dropped(
    runtime: LocalRuntime, platform: Platform, minio: Minio
) -> None:
    declare_bucket(platform, minio)
    platform.destination("worker-1", "bucket/default", path="first")
    await platform.wait_ready("worker-1")
    platform.destination("worker-1", "bucket/default", path="second")
    await platform.until(lambda: _observed(platform) == 2, "the second generation's Ready")
    await runtime.idle()
    before, events = platform.get("worker-1"), platform.events("worker-1")
    assert before is not None
    uid = before["metadata"]["uid"]
    reference = {"kind": "Destination", "name": "worker-1", "uid": uid, "generation": 2}
    false = {
        "status": "False",
        "reason": "StateStoreWriteFailed",
        "message": "late",
        "decided_at": "2099-01-01T00:00:00Z",
    }
    await put_on(
        runtime,
        "StatusQueue",
        {**false, "reference": {**reference, "generation": 1}},
        {**false, "reference": {**reference, "uid": "00000000-0000-0000-0000-000000000000"}},
        {**false, "reference": reference, "decided_at": "2001-01-01T00:00:00Z"},
    )
    await runtime.idle()
    assert platform.get("worker-1") == before
    assert platform.events("worker-1") == events


def _observed(platform: Platform) -> int:
    conditions = ((platform.get("worker-1") or {}).get("status") or {}).get("conditions") or [{}]
    return int(conditions[0].get("observedGeneration", 0))


async def test_our_own_status_patches_cause_no_new_round(
    runtime: LocalRuntime, platform: Platform, minio: Minio, api_proxy: KubernetesProxy
) -> None:
    declare_bucket(platform, minio)
    for name in named("worker", 3):
        platform.destination(name, "bucket/default", cleanup="all")
    for name in named("worker", 3):
        await platform.wait_ready(name)
    await runtime.idle(1)
    settled = invocations(runtime)
    api_proxy.reset()
    # By hand what our functions do: a status of the same generation, on a Destination and on its store.
    for path in (f"{GROUP}/destinations/worker-001", f"{GROUP}/bucketstatestores/default"):
        obj = platform.api.call("GET", path)
        obj["status"]["conditions"][0]["lastTransitionTime"] = "2020-01-01T00:00:00Z"
        platform.api.call("PATCH", f"{path}/status", {"status": obj["status"]}, content_type=MERGE)
    await asyncio.sleep(1)
    await runtime.idle(1)
    after = invocations(runtime)
    for function in ("write-canary", "cleanup", "status-report"):
        assert after[function] == settled[function]
    assert {asked.verb for asked in api_proxy.asked} <= {"get", "list"}, (
        "a store's status is looked at, and nothing done"
    )


MERGE = "application/merge-patch+json"


async def test_a_finalizer_that_the_api_refuses_is_told_with_its_words(
    runtime: LocalRuntime, platform: Platform, minio: Minio, api_proxy: KubernetesProxy
) -> None:
    bucket = declare_bucket(platform, minio)

    async def refuse_finalizers(asked: Asked, forward: Forward) -> Answer | None:
        refused = asked.is_("patch", "destinations", "worker-1")
        return Answer.error(422, "Invalid", "finalizers are not allowed here") if refused else None

    api_proxy.fault = refuse_finalizers
    platform.destination("worker-1", "bucket/default", cleanup="all")
    why = await platform.wait_reason("worker-1", "DestinationFinalizerUpdateFailed")
    assert "finalizers are not allowed here" in why
    await runtime.idle()
    assert minio.keys(bucket) == [], "nothing is written before the finalizer is there"
    api_proxy.fault = None
    await runtime.resync()  # the one that sets the finalizer; what waited for it waits for no other
    await platform.wait_ready("worker-1")
    assert finalizers(platform, "worker-1") == [FINALIZER]
    await runtime.idle()


async def test_a_verdict_that_says_what_it_saw_needs_no_read_and_one_that_saw_something_older_is_decided_again(
    runtime: LocalRuntime, platform: Platform, minio: Minio, api_proxy: KubernetesProxy
) -> None:
    declare_bucket(platform, minio)
    platform.destination("worker-1", "bucket/default")
    await platform.wait_ready("worker-1")
    await runtime.idle()
    obj = platform.get("worker-1")
    assert obj is not None
    reference = Reference.to(obj, "Destination", "")
    failed = Verdict(reference=reference, status="False", reason="StateStoreWriteFailed", message="of late").seeing(obj)
    assert failed.seen is not None
    api_proxy.reset()
    await runtime.queues.send("StatusQueue", [failed.encode()])
    await platform.wait_reason("worker-1", "StateStoreWriteFailed")
    calls = api_proxy.calls
    assert (calls["patch destinations/status"], calls["get destinations"], calls["list destinations"]) == (1, 0, 0)

    well = failed.model_copy(
        update={"status": "True", "reason": "TestDocumentsWritten", "decided_at": datetime.now(UTC)}
    )
    api_proxy.reset()
    await runtime.queues.send("StatusQueue", [well.encode()])  # it saw what was before the first one
    await platform.wait_ready("worker-1")
    await runtime.idle()
    calls = api_proxy.calls
    done = (calls["patch destinations/status"], calls["get destinations"] >= 1)
    assert done == (2, True), "refused and read; and what is decided once more is patched"
