"""A quick check that every test server does what tests rely on."""

from __future__ import annotations

import base64
import http.client
import os
import time
from typing import TYPE_CHECKING

import pytest

from tests.servers import web
from tests.servers.process import wait_until
from tests.servers.repository import Submodule, Symlink, run_git
from tests.servers.sigv4 import Credentials

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.servers.git import GitServer
    from tests.servers.kubernetes import KubernetesApi
    from tests.servers.proxy import Toxiproxy
    from tests.servers.s3 import Minio, S3Server, Versitygw
    from tests.servers.sqs import AwsServer
    from tests.servers.ssh import SshServer

pytest_plugins = ["tests.servers.fixtures"]

CRD = """\
# a comment
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: things.servers.test
spec:
  group: servers.test
  scope: Cluster
  names: {plural: things, singular: thing, kind: Thing}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""


def basic(username: str, password: str) -> str:
    """Return the git option that sends these credentials."""
    pair = base64.b64encode(f"{username}:{password}".encode()).decode()
    return f"http.extraHeader=Authorization: Basic {pair}"


def git(server: GitServer, *arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run git as a person who trusts the CA; success is for the test to judge."""
    identity = ["-c", "user.name=A Person", "-c", "user.email=person@example.test"]
    return run_git("-c", f"http.sslCAInfo={server.ca}", *identity, *arguments, cwd=cwd, check=False, env=env)


# Kubernetes


def test_the_api_creates_objects_and_serves_crds(kubernetes_api: KubernetesApi, tmp_path: Path) -> None:
    namespace = kubernetes_api.create_namespace()
    assert kubernetes_api.call("GET", f"/api/v1/namespaces/{namespace}")["status"]["phase"] == "Active"
    (tmp_path / "crd.yaml").write_text(CRD)
    assert kubernetes_api.apply_crds(tmp_path) == ["things.servers.test"]
    assert kubernetes_api.apply_crds(tmp_path) == ["things.servers.test"]
    thing = {"apiVersion": "servers.test/v1", "kind": "Thing", "metadata": {"name": "one"}}
    made = kubernetes_api.call("POST", "/apis/servers.test/v1/things", thing)
    assert made["metadata"]["uid"]
    assert kubernetes_api.kubeconfig.is_file()


def test_rbac_holds_for_service_accounts_and_tokens_can_be_revoked(kubernetes_api: KubernetesApi) -> None:
    namespace = kubernetes_api.create_namespace()
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]
    token = kubernetes_api.create_service_account(namespace, "reader", rules)
    unused = kubernetes_api.service_account_token(namespace, "reader")
    objects = f"/api/v1/namespaces/{namespace}"

    def answers(to: str) -> int:
        return kubernetes_api.request("GET", f"{objects}/configmaps", token=to).status

    # The API server knows accounts and their rights by watching, a moment later.
    wait_until("the right is known", lambda: answers(token) == 200, timeout=30)
    assert kubernetes_api.request("GET", f"{objects}/secrets", token=token).status == 403
    kubernetes_api.call("DELETE", f"{objects}/serviceaccounts/reader")
    wait_until("the account is known to be gone", lambda: answers(unused) == 401, timeout=30)


# Buckets


@pytest.fixture(params=["minio", "minio_https", "versitygw"])
def s3(request: pytest.FixtureRequest) -> S3Server:
    """Each S3 server in turn."""
    server: S3Server = request.getfixturevalue(request.param)
    return server


def test_a_bucket_keeps_objects_and_refuses_a_wrong_secret(s3: S3Server) -> None:
    bucket = s3.create_bucket()
    for key in ("a/ü b+c.yaml", "a/2", "b/3"):
        s3.put(bucket, key, key.encode())
    assert s3.keys(bucket) == ["a/2", "a/ü b+c.yaml", "b/3"]
    s3.delete(bucket, "a/2")
    assert s3.objects(bucket, "a/") == {"a/ü b+c.yaml": "a/ü b+c.yaml".encode()}
    assert s3.get(bucket, "a/2") is None
    wrong = Credentials(s3.root.access_key, "wrong")
    assert s3.request("PUT", bucket, "x", body=b"x", credentials=wrong).status == 403


def test_a_versioned_bucket_keeps_what_was_deleted(s3: S3Server) -> None:
    bucket = s3.create_bucket(versioned=True)
    s3.put(bucket, "key", b"1")
    s3.delete(bucket, "key")
    assert s3.get(bucket, "key") is None
    assert b"<DeleteMarker>" in s3.request("GET", bucket, query={"versions": ""}).body


def test_minio_gives_limited_credentials(minio: Minio) -> None:
    bucket = minio.create_bucket()
    minio.put(bucket, "key", b"1")
    allowed = {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [f"arn:aws:s3:::{bucket}/*"]}
    reader = minio.limited_credentials(allowed)
    assert minio.request("GET", bucket, "key", credentials=reader).status == 200
    assert minio.request("PUT", bucket, "key", body=b"2", credentials=reader).status == 403


def test_a_versitygw_user_may_do_what_the_bucket_policy_says(versitygw: Versitygw) -> None:
    bucket, user = versitygw.create_bucket(), versitygw.create_user()
    versitygw.put(bucket, "key", b"1")
    assert versitygw.request("GET", bucket, "key", credentials=user).status == 403
    arn = f"arn:aws:s3:::{bucket}/*"
    allowed = {"Effect": "Allow", "Principal": {"AWS": [user.access_key]}, "Action": "s3:GetObject", "Resource": arn}
    versitygw.put_bucket_policy(bucket, allowed)
    assert versitygw.request("GET", bucket, "key", credentials=user).status == 200
    assert versitygw.request("PUT", bucket, "key", body=b"2", credentials=user).status == 403


# Git


@pytest.mark.parametrize("scheme", ["https", "http", "ssh"])
def test_git_clones_and_pushes_more_than_a_mebibyte(
    git_server: GitServer, ssh_git: SshServer, scheme: str, tmp_path: Path
) -> None:
    repository = git_server.create_repository()
    url = {"https": repository.https_url, "http": repository.http_url, "ssh": repository.ssh_url}[scheme]
    ssh = {"GIT_SSH_COMMAND": ssh_git.git_ssh_command()}
    auth = ["-c", basic(git_server.username, git_server.password)]
    cloned = git(git_server, *auth, "clone", url, "work", cwd=tmp_path, **ssh)
    assert cloned.returncode == 0, cloned.stderr
    work = tmp_path / "work"
    # Random bytes stay this size in a pack, so that git sends it in chunks of unknown length.
    big = os.urandom(3 << 20)
    (work / "big").write_bytes(big)
    for command in (["add", "."], ["commit", "-m", "big"], [*auth, "push", "origin", "main"]):
        done = git(git_server, *command, cwd=work, **ssh)
        assert done.returncode == 0, done.stderr
    assert repository.tree() == {"README.md": b"# A repository for tests\n", "big": big}
    assert [commit.message.strip() for commit in repository.commits()] == ["big", "Initial commit"]


@pytest.mark.parametrize("case", ["password", "wrong_host", "expired", "no_ca", "locked_out"])
def test_git_refuses(git_server: GitServer, case: str, tmp_path: Path) -> None:
    repository = git_server.create_repository()
    password = "wrong" if case == "password" else git_server.password
    url = {"wrong_host": repository.wrong_host_url, "expired": repository.expired_url}.get(case, repository.https_url)
    # What git says to a 401 when it may not ask a person.
    words = dict.fromkeys(("password", "locked_out"), b"could not read Username")
    if case == "locked_out":
        git_server.set_password("leaver", "word")
        git_server.set_password("leaver", None)
    command = ["-c", basic("leaver" if case == "locked_out" else git_server.username, password), "ls-remote", url]
    done = run_git(*command, cwd=tmp_path, check=False) if case == "no_ca" else git(git_server, *command, cwd=tmp_path)
    assert done.returncode != 0
    assert words.get(case, b"certificate") in done.stderr, done.stderr


def test_ssh_refuses_an_unknown_key_and_the_client_a_changed_host(
    git_server: GitServer, ssh_git: SshServer, tmp_path: Path
) -> None:
    repository = git_server.create_repository()
    (tmp_path / "hosts").write_text(ssh_git.changed_known_hosts)
    (tmp_path / "key").touch(mode=0o600)
    (tmp_path / "key").write_text(ssh_git.stranger_private_key)
    good = ssh_git.git_ssh_command()
    for command, words in (
        (good.replace(str(ssh_git.known_hosts_file), str(tmp_path / "hosts")), b"Host key verification failed"),
        (good.replace(str(ssh_git.private_key_file), str(tmp_path / "key")), b"Permission denied"),
    ):
        done = git(git_server, "ls-remote", repository.ssh_url, cwd=tmp_path, GIT_SSH_COMMAND=command)
        assert done.returncode != 0
        assert words in done.stderr, done.stderr


def test_a_token_comes_in_and_a_hook_declines(git_server: GitServer, tmp_path: Path) -> None:
    refuse = "#!/bin/sh\necho 'policy: not on a Friday'\nexit 1\n"
    repository = git_server.create_repository(empty=True, default_branch="trunk", hooks={"pre-receive": refuse})
    git_server.add_token("ghs_first")
    git_server.add_token("ghs_second")
    git(git_server, "init", "-b", "trunk", ".", cwd=tmp_path)
    git(git_server, "commit", "--allow-empty", "-m", "first", cwd=tmp_path)
    push = ["-c", basic("x-access-token", "ghs_second"), "push", repository.https_url, "trunk"]
    declined = git(git_server, *push, cwd=tmp_path)
    assert declined.returncode != 0
    assert b"pre-receive hook declined" in declined.stderr
    assert b"policy: not on a Friday" in declined.stderr
    assert repository.head() is None
    repository.set_hook("pre-receive", None)
    assert git(git_server, *push, cwd=tmp_path).returncode == 0
    assert repository.commits()[0].author_email == "person@example.test"
    stale = ["-c", basic("x-access-token", "ghs_first"), "ls-remote", repository.https_url]
    assert git(git_server, *stale, cwd=tmp_path).returncode != 0


def test_someone_else_pushes_behind_our_back(git_server: GitServer) -> None:
    repository = git_server.create_repository("nested/name with space")
    first = repository.head()
    odd = 'ü "quoted"\\/x'
    second = repository.commit_files({"d/a": b"a\n", odd: b"", "link": Symlink("d/a"), "sub": Submodule(str(first))})
    assert repository.tree().items() >= {"d/a": b"a\n", odd: b"", "link": b"d/a"}.items()
    assert repository.paths()["sub"] == ("160000", first)
    assert repository.commits()[0].parents == (first,)
    third = repository.commit_files({"d": None, "link": None}, author="Ä <a@b.test>", message="one\n\ntwo\n")
    assert set(repository.paths()) == {"README.md", odd, "sub"}
    assert (repository.commits()[0].author_name, repository.commits()[0].message) == ("Ä", "one\n\ntwo\n")
    forced = repository.commit_files({"only": b"this"}, force_root=True)
    assert (repository.tree(), len(repository.commits())) == ({"only": b"this"}, 1)
    repository.move_branch(third)
    repository.commit_files({"x": b"x"}, branch="other")
    assert repository.branches() == {"main": third, "other": repository.head("other")}
    repository.delete_branch()
    assert (repository.head(), repository.tree(), repository.commits()) == (None, {}, [])
    assert len({first, second, third, forced}) == 4


# Queues and networks


def test_a_queue_delivers_and_redrives(sqs: AwsServer) -> None:
    queue = sqs.create_queue(receives=1, visibility_timeout=0)
    sent = sqs.send(queue.url, "hello")
    assert [(m["MessageId"], m["Body"]) for m in sqs.receive(queue.url)] == [(sent, "hello")]
    assert sqs.receive(queue.url) == []
    (dead,) = sqs.receive(queue.dead_letter_url)
    assert dead["MessageId"] == sent
    sqs.delete(queue.dead_letter_url, dead["ReceiptHandle"])


def test_toxics_delay_cut_and_refuse(toxiproxy: Toxiproxy, minio: Minio) -> None:
    with toxiproxy.before(minio.url) as proxy:
        url = proxy.url(f"{minio.url}/minio/health/live")
        assert web.request("GET", url).status == 200
        delay = proxy.latency(200)
        started = time.monotonic()
        assert web.request("GET", url).status == 200
        assert time.monotonic() - started >= 0.2
        proxy.remove(delay)
        proxy.reset_peer()
        with pytest.raises(ConnectionResetError):
            web.request("GET", url)
        proxy.clear()
        proxy.timeout()
        with pytest.raises(TimeoutError):
            web.request("GET", url, timeout=0.2)
        proxy.clear()
        proxy.limit_data(5)
        with pytest.raises(http.client.HTTPException):
            web.request("GET", url)
        proxy.clear()
        proxy.down()
        with pytest.raises(ConnectionRefusedError):
            web.request("GET", url)
        proxy.clear()
        assert web.request("GET", url).status == 200
