"""The stores that the contract is tried on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.harness import BucketStore, GitStore, MemoryStore, Store, rclone_s3

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.s3 import S3Server


@pytest.fixture(scope="session")
def rclone() -> Iterator[S3Server]:
    """The embedded S3 server."""
    with rclone_s3() as server:
        yield server


@pytest.fixture(params=["memory", "minio", "versitygw", "rclone", "git-https", "git-ssh"])
def store(request: pytest.FixtureRequest) -> Store:
    """An empty store of each kind; servers start when the first test of their kind runs."""
    match request.param:
        case "memory":
            return MemoryStore()
        case "git-https":
            return GitStore(request.getfixturevalue("git_server"))
        case "git-ssh":
            ssh = request.getfixturevalue("ssh_git")  # first: repositories get their SSH URL from it
            return GitStore(request.getfixturevalue("git_server"), ssh)
        case bucket:
            return BucketStore(request.getfixturevalue(bucket))
