"""What the Kubernetes API may answer, and what comes of it (failures 20; issue 4 "order and echo")."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from infra.local.runtime import LocalRuntime
from shared.deadline import Deadline
from shared.errors import KubernetesUnavailable
from shared.kube import Cluster
from shared.messages import Reference, Verdict
from shared.settings import Settings
from tests.integration.flow import invocations, put_on, running
from tests.integration.kubernetes_proxy import CUT, Answer, Asked, Forward, KubernetesProxy, kubernetes_proxy
from tests.integration.platform_team import GROUP, Platform, named
from tests.integration.test_deletion import FINALIZER, finalizers
from tests.integration.test_first_ready import READY, canaries, declare_bucket, declare_repository
from tests.servers.git import GitServer
from tests.servers.kubernetes import KubernetesApi
from tests.servers.s3 import Minio

pytestmark = pytest.mark.asyncio(loop_scope="module")

STATUS = ("patch", "destinations/status", "worker-1")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api_proxy(cluster: KubernetesApi) -> AsyncIterator[KubernetesProxy]:
    async with kubernetes_proxy(cluster) as proxy:
        yield proxy


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runtime(
    cluster: KubernetesApi, git_server: GitServer, api_proxy: KubernetesProxy
) -> AsyncIterator[LocalRuntime]:
    async with running(cluster, git_server, api_proxy) as running_:
        yield running_


@pytest_asyncio.fixture(loop_scope="module")
async def own_proxy(cluster: KubernetesApi) -> AsyncIterator[KubernetesProxy]:
    """A proxy that no function uses."""
    async with kubernetes_proxy(cluster) as proxy:
        yield proxy


@pytest_asyncio.fixture(loop_scope="module")
async def api(cluster: KubernetesApi, own_proxy: KubernetesProxy) -> AsyncIterator[Cluster]:
    """The functions' own client, alone."""
    kubeconfig = cluster.write_kubeconfig(cluster.token, url=own_proxy.url)
    client = await Cluster.connect(Settings(kubeconfig=kubeconfig))
    yield client
    await client.close()


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
        pytest.param(("list", "destinations", ""), [error(401), error(503), CUT], id="a mix on a list"),
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
    if call[0] == "get":
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
    assert {asked.verb for asked in api_proxy.asked} <= {"list"}, "a store's status is looked at, and nothing done"


MERGE = "application/merge-patch+json"


async def test_a_finalizer_that_the_api_refuses_is_told_with_its_words(
    runtime: LocalRuntime, platform: Platform, minio: Minio, api_proxy: KubernetesProxy
) -> None:
    bucket = declare_bucket(platform, minio)
    api_proxy.fail("patch", "destinations", "worker-1", Answer.error(422, "Invalid", "finalizers are not allowed here"))
    platform.destination("worker-1", "bucket/default", cleanup="all")
    why = await platform.wait_reason("worker-1", "DestinationFinalizerUpdateFailed")
    assert "finalizers are not allowed here" in why
    assert minio.keys(bucket) == [], "nothing is written before the finalizer is there"
    await runtime.resync()
    await platform.wait_ready("worker-1")
    assert finalizers(platform, "worker-1") == [FINALIZER]
    await runtime.idle()


async def test_a_continued_list_that_expired_begins_again_and_misses_nothing(
    platform: Platform, minio: Minio, api: Cluster, own_proxy: KubernetesProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.kube.cluster.PAGE", 2)
    for name in named("worker", 5):
        platform.destination(name, "bucket/nowhere")
    expired: list[Asked] = []

    async def expire_the_second_page(asked: Asked, forward: Forward) -> Answer | None:
        if "continue" not in asked.query or expired:
            return None
        expired.append(asked)
        return Answer.error(410, "Expired", "The provided continue parameter is too old")

    own_proxy.fault = expire_the_second_page
    began = time.monotonic()
    found = await api.list_all("Destination", Deadline.after(20))
    assert [obj["metadata"]["name"] for obj in found] == list(named("worker", 5))
    assert len(own_proxy.asked) == 5, "a page, its refused continuation, and three pages anew"
    assert time.monotonic() - began < 1, "nothing is waited for"


async def test_a_list_that_expires_for_ever_ends(api: Cluster, own_proxy: KubernetesProxy) -> None:
    own_proxy.fail("list", "destinations", "", *[Answer.error(410, "Expired", "too old")] * 50)
    with pytest.raises(KubernetesUnavailable, match="too old"):
        await api.list_all("Destination", Deadline.after(20))
    assert len(own_proxy.asked) == 1


async def test_retry_after_is_waited_and_one_that_is_too_long_is_left_to_the_queue(
    api: Cluster, own_proxy: KubernetesProxy
) -> None:
    own_proxy.fail("list", "destinations", "", error(429, Retry_After="1"))
    began = time.monotonic()
    await api.list_all("Destination", Deadline.after(20))
    assert 1 <= time.monotonic() - began < 3
    own_proxy.fail("list", "destinations", "", error(429, Retry_After="3600"))
    began = time.monotonic()
    with pytest.raises(KubernetesUnavailable, match="a forced 429"):
        await api.list_all("Destination", Deadline.after(20))
    assert time.monotonic() - began < 1


async def test_a_netrc_takes_no_part(
    api: Cluster, own_proxy: KubernetesProxy, cluster: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    await api.list_all("Destination", Deadline.after(20))
    assert {asked.authorization for asked in own_proxy.asked} == {f"Bearer {cluster.token}"}


async def test_calls_take_the_environments_proxy_but_to_hosts_that_need_none(
    cluster: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        for name in ("HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, f"http://{host}:{port}")
        for excepted, proxied in (("elsewhere.example", True), ("127.0.0.1", False)):
            for name in ("NO_PROXY", "no_proxy"):
                monkeypatch.setenv(name, excepted)
            asked.clear()
            client = await Cluster.connect(Settings(kubeconfig=cluster.kubeconfig))
            try:
                if proxied:
                    with pytest.raises(KubernetesUnavailable, match="did not answer"):
                        await client.list_all("Destination", Deadline.after(1))
                    assert asked[0].startswith(b"CONNECT 127.0.0.1:")
                else:
                    await client.list_all("Destination", Deadline.after(20))
                    assert asked == []
            finally:
                await client.close()


async def test_one_401_refreshes_the_identity_once_for_all_calls_and_another_says_what_to_check(
    cluster: KubernetesApi, api: Cluster, own_proxy: KubernetesProxy
) -> None:
    assert api._settings.kubeconfig is not None
    path = api._settings.kubeconfig
    good = path.read_text()

    async def refuse_the_old_token(asked: Asked, forward: Forward) -> Answer | None:
        return error(401) if asked.authorization.endswith("old-token") else None

    path.write_text(good.replace(cluster.token, "old-token"))
    stale = await Cluster.connect(Settings(kubeconfig=path))
    path.write_text(good)
    own_proxy.fault = refuse_the_old_token
    await asyncio.gather(*(stale.list_all("Destination", Deadline.after(20)) for _ in range(10)))
    assert len([asked for asked in own_proxy.asked if asked.authorization.endswith("old-token")]) == 10
    assert len(own_proxy.asked) == 20, "each call once more, and no more"
    await stale.close()

    path.write_text(good.replace(cluster.token, "revoked"))
    own_proxy.reset()
    revoked = await Cluster.connect(Settings(kubeconfig=path))
    with pytest.raises(KubernetesUnavailable, match=r"401 .*check the identity in the kubeconfig and its RBAC") as told:
        await revoked.list_all("Destination", Deadline.after(20))
    assert "revoked" not in str(told.value)
    assert len(own_proxy.asked) == 2, "a real 401 of the real server, once more with a fresh identity"
    await revoked.close()


async def test_a_401_after_overload_is_an_error_of_ours_too(api: Cluster, own_proxy: KubernetesProxy) -> None:
    own_proxy.fail("list", "destinations", "", error(503), error(503), error(503), error(401), error(401))
    with pytest.raises(KubernetesUnavailable, match="check the identity"):
        await api.list_all("Destination", Deadline.after(30))


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
    await runtime.idle()
    calls = api_proxy.calls
    assert (calls["patch destinations/status"], calls["get destinations"], calls["list destinations"]) == (1, 0, 0)

    well = failed.model_copy(
        update={"status": "True", "reason": "TestDocumentsWritten", "decided_at": datetime.now(UTC)}
    )
    api_proxy.reset()
    await runtime.queues.send("StatusQueue", [well.encode()])  # it saw what was before the first one
    await platform.wait_ready("worker-1")
    calls = api_proxy.calls
    assert (calls["patch destinations/status"], calls["get destinations"]) == (2, 1), "refused, read, patched"
