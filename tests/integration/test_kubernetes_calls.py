"""One client at one Kubernetes API: lists that expire, overload, identities, proxies.

See docs/failure-modes.md#20-api-server-answers.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from shared.deadline import Deadline
from shared.errors import KubernetesUnavailable
from shared.kube import Cluster
from shared.settings import Settings
from tests.integration.kubernetes_proxy import Answer, Asked, Forward, KubernetesProxy, kubernetes_proxy
from tests.integration.platform_team import API_VERSION, GROUP, Platform, named
from tests.integration.test_kubernetes_faults import error
from tests.servers.kubernetes import KubernetesApi
from tests.servers.s3 import Minio

pytestmark = pytest.mark.asyncio(loop_scope="module")

PLACEMENT: dict[str, Any] = {"apiVersion": API_VERSION, "kind": "WorkPlacement"}
READY = {"type": "Ready", "status": "False", "reason": "R", "lastTransitionTime": "2026-01-01T00:00:00Z"}


@pytest_asyncio.fixture(loop_scope="module")
async def own_proxy(cluster: KubernetesApi) -> AsyncIterator[KubernetesProxy]:
    """What is between the client and the API server."""
    async with kubernetes_proxy(cluster) as proxy:
        yield proxy


@pytest_asyncio.fixture(loop_scope="module")
async def api(cluster: KubernetesApi, own_proxy: KubernetesProxy) -> AsyncIterator[Cluster]:
    """The functions' own client, alone."""
    kubeconfig = cluster.write_kubeconfig(cluster.token, url=own_proxy.url)
    client = await Cluster.connect(Settings(kubeconfig=kubeconfig))
    yield client
    await client.close()


async def test_a_continued_list_that_expired_begins_again_and_misses_nothing(
    platform: Platform, minio: Minio, api: Cluster, own_proxy: KubernetesProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.kube.paging.PAGE", 2)
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
    assert time.monotonic() - began < 10, "nothing is waited for"


async def test_a_list_with_columns_has_the_metadata_and_what_kubectl_prints_and_no_document(
    platform: Platform, api: Cluster, own_proxy: KubernetesProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.kube.paging.PAGE", 2)
    began = datetime.now(UTC).replace(microsecond=0)
    path, document = f"{GROUP}/namespaces/default/workplacements", "a document " * 10_000
    for name in ("a", "b", "c"):
        spec = {"targetDestinationName": f"to-{name}", "workloads": [{"filepath": "f", "content": document}]}
        platform.api.call("POST", path, {**PLACEMENT, "metadata": {"name": name, "labels": {"x": name}}, "spec": spec})
    status = {"status": {"conditions": [{**READY, "message": "Failing"}]}}
    platform.api.call("PATCH", f"{path}/b/status", status, content_type="application/merge-patch+json")
    found = await api.list_all("WorkPlacement", Deadline.after(20), columns=True)
    assert [(obj["kind"], obj["metadata"]["name"], obj["metadata"]["labels"]) for obj in found] == [
        ("WorkPlacement", name, {"x": name}) for name in ("a", "b", "c")
    ]
    assert [obj["cells"]["status"] for obj in found] == [None, "Failing", None]
    assert [obj["cells"]["destination"] for obj in found] == ["to-a", "to-b", "to-c"]
    assert [bool(obj["status_changed"]) for obj in found] == [False, True, False]
    assert datetime.fromisoformat(found[1]["status_changed"]) >= began
    assert "managedFields" not in json.dumps(found)
    assert "a document" not in json.dumps(found)
    assert len(own_proxy.asked) == 2


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
    assert time.monotonic() - began >= 1
    own_proxy.fail("list", "destinations", "", error(429, Retry_After="3600"))
    began = time.monotonic()
    with pytest.raises(KubernetesUnavailable, match="a forced 429"):
        await api.list_all("Destination", Deadline.after(20))
    assert time.monotonic() - began < 10


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
                        await client.list_all("Destination", Deadline.after(5))
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
