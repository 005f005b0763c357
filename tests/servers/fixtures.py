"""pytest's way to the servers: each starts when a test first asks for it and ends with the session.

Load it in tests/conftest.py: ``pytest_plugins = ["tests.servers.fixtures"]``. A server that cannot be had fails the
test with the command to run; it never skips it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.servers import git, gitea, kubernetes, proxy, s3, ssh
from tests.servers import sqs as aws

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def kubernetes_api() -> Iterator[kubernetes.KubernetesApi]:
    """A real kube-apiserver with RBAC."""
    with kubernetes.kubernetes_api() as server:
        yield server


@pytest.fixture(scope="session")
def second_kubernetes_api() -> Iterator[kubernetes.KubernetesApi]:
    """Another kube-apiserver, with an etcd of its own."""
    with kubernetes.kubernetes_api() as server:
        yield server


@pytest.fixture(scope="session")
def minio() -> Iterator[s3.Minio]:
    """A MinIO over plain http."""
    with s3.minio() as server:
        yield server


@pytest.fixture(scope="session")
def minio_https() -> Iterator[s3.Minio]:
    """A MinIO over https, with a certificate of its own CA."""
    with s3.minio(https=True) as server:
        yield server


@pytest.fixture(scope="session")
def versitygw() -> Iterator[s3.Versitygw]:
    """A versitygw over plain http."""
    with s3.versitygw() as server:
        yield server


@pytest.fixture(scope="session")
def git_server() -> Iterator[git.GitServer]:
    """Git over HTTPS and HTTP."""
    with git.git_server() as server:
        yield server


@pytest.fixture(scope="session")
def ssh_git(git_server: git.GitServer) -> Iterator[ssh.SshServer]:
    """SSH to the repositories of `git_server`; those made from now on have an SSH URL."""
    with ssh.ssh_server() as server:
        git_server.serve_over_ssh(server)
        yield server


@pytest.fixture(scope="session")
def forge() -> Iterator[gitea.Gitea]:
    """A Gitea over HTTPS and SSH."""
    with gitea.gitea() as server:
        yield server


@pytest.fixture(scope="session")
def sqs() -> Iterator[aws.AwsServer]:
    """SQS, and SNS, EventBridge and S3 beside it."""
    with aws.aws_server() as server:
        yield server


@pytest.fixture(scope="session")
def toxiproxy() -> Iterator[proxy.Toxiproxy]:
    """Bad networks on demand."""
    with proxy.toxiproxy() as server:
        yield server
