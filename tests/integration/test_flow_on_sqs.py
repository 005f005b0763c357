"""The flow on SQS's own protocol and semantics: visibility time-outs, batches of ten, redrive.

See docs/failure-modes.md#15-untrusted-events, #17-poison-messages.
"""

from __future__ import annotations

import pytest

from infra.local.runtime import LocalRuntime
from tests.integration.conftest import environment
from tests.integration.platform_team import Platform
from tests.integration.test_deletion import FINALIZER, finalizers
from tests.integration.test_first_ready import canaries, declare_bucket, declare_repository
from tests.servers.git import GitServer
from tests.servers.kubernetes import KubernetesApi
from tests.servers.s3 import Minio
from tests.servers.sqs import AwsServer

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_flow_on_sqs_creates_changes_and_deletes(
    cluster: KubernetesApi, platform: Platform, git_server: GitServer, minio: Minio, sqs: AwsServer
) -> None:
    repository, bucket = git_server.create_repository(), declare_bucket(platform, minio)
    declare_repository(platform, git_server, repository)
    async with LocalRuntime(
        kubeconfig=cluster.kubeconfig,
        environment={**environment(git_server), **sqs.environment()},
        resync_seconds=0,
        sqs_endpoint=sqs.url,
    ) as runtime:
        for name, kind in (("in-bucket", "bucket"), ("in-git", "git")):
            platform.destination(name, f"{kind}/default", cleanup="all")
        for name in ("in-bucket", "in-git"):
            await platform.wait_ready(name, 60)
        assert minio.objects(bucket) == canaries("destinations/in-bucket")
        for name, kind in (("in-bucket", "bucket"), ("in-git", "git")):
            platform.destination(name, f"{kind}/default", cleanup="all", path=f"moved/{name}")
        moved = canaries("destinations/moved/in-git")
        await platform.until(lambda: moved.items() <= repository.tree().items(), "the new path", 60)
        await platform.until(lambda: len(minio.keys(bucket, "destinations/moved/")) == 2, "the new path", 60)
        assert finalizers(platform, "in-git") == [FINALIZER]
        await runtime.idle()
        for name in ("in-bucket", "in-git"):
            platform.delete("destinations", name)
        for name in ("in-bucket", "in-git"):
            await platform.until(lambda name=name: platform.get(name) is None, f"{name} gone", 60)  # type: ignore[misc]
        assert minio.keys(bucket, "destinations/moved/") == []
        assert not moved.keys() & repository.paths().keys()
        await runtime.idle()
        assert await runtime.dead_letters() == {}
