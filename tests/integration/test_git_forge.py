"""The Git writer before a real forge, Gitea: tokens, deploy keys, protected branches, archives, and what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from shared.errors import AccessDenied, LandfallError, StateStoreError, StoreNotFound, WriteRejected
from shared.plan import Written
from shared.resources import GitStateStore, Secret
from shared.settings import Settings
from shared.writers import open_writer
from tests.contract.harness import LOOPBACK, edit, secret_of, soon
from tests.servers.repository import run_git

if TYPE_CHECKING:
    from shared.writers.base import Writer
    from tests.servers.gitea import Gitea, User

TOKEN = "write:repository"


@dataclass(frozen=True)
class Way:
    """One way to the forge, for one user and one repository of theirs."""

    forge: Gitea
    user: User
    repository: str
    transport: str

    def secret(self, user: User | None = None) -> Secret:
        """Return credentials of the owner, or of another user."""
        who = user or self.user
        if self.transport == "ssh":
            return secret_of(sshPrivateKey=who.ssh_key, knownHosts=self.forge.known_hosts)
        return secret_of(username=who.name, password=self.forge.create_token(who, TOKEN))

    def open(self, secret: Secret | None = None, repository: str = "", **spec: Any) -> Writer:
        """Return a writer to the owner's repository, or to another one."""
        name = repository or self.repository
        over_ssh = self.transport == "ssh"
        url = self.forge.ssh_url(name) if over_ssh else self.forge.https_url(name)
        fields = {"url": url, "authMethod": "ssh" if over_ssh else "basicAuth", **spec}
        store = GitStateStore.parse({"kind": "GitStateStore", "metadata": {"name": "forge"}, "spec": fields})
        return open_writer(store, secret or self.secret(), Settings(allowed_networks=LOOPBACK, ca_bundle=self.forge.ca))


@pytest.fixture(params=["https", "ssh"])
def way(request: pytest.FixtureRequest, forge: Gitea) -> Way:
    user = forge.create_user()
    return Way(forge, user, forge.create_repository(user), request.param)


async def refusal(writer: Writer) -> LandfallError:
    async with writer:
        with pytest.raises(StateStoreError) as caught:
            await writer.check("", soon())
    return caught.value


async def push(writer: Writer, path: str = "dev/x", content: bytes = b"x") -> Any:
    """Write one file, and return what became of it, or why nothing could."""
    async with writer:
        try:
            return (await writer.write([edit({path: content})], soon()))["one"]
        except StateStoreError as error:
            return error


async def test_checking_writing_and_deleting_work_on_a_real_forge(way: Way) -> None:
    async with way.open(branch="refs/heads/main") as writer:
        await writer.check("", soon())
        first = (await writer.write([edit({"dev/x": b"1", "dev/y": b"2"}, prune={"dev"})], soon()))["one"]
        again = (await writer.write([edit({"dev/x": b"1", "dev/y": b"2"}, prune={"dev"})], soon()))["one"]
        gone = (await writer.write([edit({"dev/x": b"3"}, prune={"dev"})], soon()))["one"]
        assert await writer.read("dev/x", soon()) == b"3"
    assert [isinstance(one, Written) and one.changed for one in (first, again, gone)] == [True, False, True]
    assert way.forge.files(way.repository) == {"README.md", "dev/x"}
    head = run_git("rev-parse", "main", cwd=way.forge.folder(way.repository)).stdout.decode().strip()
    assert gone == Written(head, changed=True)
    assert run_git(
        "for-each-ref", "--format=%(refname)", cwd=way.forge.folder(way.repository)
    ).stdout.decode().split() == ["refs/heads/main"]


@pytest.mark.parametrize("data", [{}, {"username": ""}, {"username": "x-access-token"}, {"username": "anyone"}])
async def test_a_token_needs_no_user_name(forge: Gitea, data: dict[str, str]) -> None:
    user = forge.create_user()
    way = Way(forge, user, forge.create_repository(user), "https")
    secret = secret_of(password=forge.create_token(user, TOKEN), **data)
    assert isinstance(await push(way.open(secret)), Written)
    assert isinstance(
        await push(way.open(secret_of(username=user.name, password=user.password)), content=b"y"), Written
    )


async def test_a_repository_that_is_missing_is_not_found(way: Way) -> None:
    error = await refusal(way.open(repository=f"{way.user.name}/missing"))
    assert isinstance(error, StoreNotFound), error
    assert "spec.url" in str(error)
    assert "broke" not in str(error)


async def test_a_repository_of_another_user_is_hidden_over_https_and_refused_over_ssh(way: Way) -> None:
    error = await refusal(way.open(way.secret(way.forge.create_user())))
    if way.transport == "ssh":  # Gitea names the repository to a key that may not write to it
        assert isinstance(error, AccessDenied), error
        assert "give the key write access" in str(error)
    else:
        assert isinstance(error, StoreNotFound), error
        assert "spec.url" in str(error)


async def test_credentials_that_the_forge_does_not_know_are_refused(way: Way) -> None:
    stranger = way.forge.create_user()
    if way.transport == "ssh":
        keys = way.forge.call("GET", "/user/keys", user=stranger)
        way.forge.call("DELETE", f"/user/keys/{keys[0]['id']}", user=stranger)
        error = await refusal(way.open(way.secret(stranger)))
    else:
        error = await refusal(way.open(secret_of(username=way.user.name, password="wrong-canary")))
    assert isinstance(error, AccessDenied), error
    assert "wrong-canary" not in str(error)


async def test_a_user_who_may_only_read_is_refused_at_the_push(way: Way) -> None:
    """Gitea lets readers begin a push, for its pull requests by push; so its check cannot tell them apart."""
    reader = way.forge.create_user()
    body = {"permission": "read"}
    way.forge.call("PUT", f"/repos/{way.repository}/collaborators/{reader.name}", body)
    error = await push(way.open(way.secret(reader)))
    assert isinstance(error, AccessDenied), error
    assert "give them write access" in str(error)
    assert "User permission denied for writing" in str(error)
    assert way.forge.files(way.repository) == {"README.md"}


async def test_a_deploy_key_writes_where_it_may(forge: Gitea) -> None:
    user = forge.create_user()
    way = Way(forge, user, forge.create_repository(user), "ssh")

    def keyed(*, read_only: bool) -> Secret:
        key = forge.create_deploy_key(way.repository, read_only=read_only)
        return secret_of(sshPrivateKey=key, knownHosts=forge.known_hosts)

    assert isinstance(await push(way.open(keyed(read_only=False))), Written)
    error = await refusal(way.open(keyed(read_only=True)))
    assert isinstance(error, AccessDenied), error
    assert "give the key write access" in str(error)
    assert "not authorized to write" in str(error)
    other = forge.create_repository(user)
    assert isinstance(await refusal(way.open(keyed(read_only=False), other)), AccessDenied | StoreNotFound)


async def test_a_token_without_the_right_to_write_fails_the_check(forge: Gitea) -> None:
    user = forge.create_user()
    way = Way(forge, user, forge.create_repository(user), "https")
    error = await refusal(way.open(secret_of(password=forge.create_token(user, "read:repository"))))
    assert isinstance(error, AccessDenied), error


async def test_an_archived_repository_says_so(way: Way) -> None:
    way.forge.call("PATCH", f"/repos/{way.repository}", {"archived": True})
    error = await refusal(way.open())
    assert isinstance(error, WriteRejected), error
    assert "unarchive it" in str(error)
    assert not error.transient


async def test_a_blocked_account_says_so(forge: Gitea) -> None:
    user = forge.create_user()
    way = Way(forge, user, forge.create_repository(user), "ssh")
    body = {"active": True, "prohibit_login": True, "source_id": 0, "login_name": user.name}
    forge.call("PATCH", f"/admin/users/{user.name}", body)
    error = await refusal(way.open())
    assert isinstance(error, AccessDenied), error


async def test_a_protected_branch_is_a_rule_that_is_not_tried_again(way: Way) -> None:
    body = {"rule_name": "main", "enable_push": False}
    way.forge.call("POST", f"/repos/{way.repository}/branch_protections", body)
    async with way.open() as writer:
        await writer.check("", soon())  # a rule of the branch shows at a push alone
    error = await push(way.open())
    assert isinstance(error, WriteRejected), error
    assert "Not allowed to push to protected branch main" in str(error)
    assert way.forge.files(way.repository) == {"README.md"}


async def test_a_protected_file_fails_its_own_item(way: Way) -> None:
    body = {"rule_name": "main", "enable_push": True, "protected_file_patterns": "locked/**"}
    way.forge.call("POST", f"/repos/{way.repository}/branch_protections", body)
    edits = [edit({f"{name}/x": b"x"}, id=name, root=name) for name in ("free", "locked", "other")]
    async with way.open() as writer:
        outcomes = await writer.write(edits, soon())
    assert isinstance(outcomes["locked"], WriteRejected)
    assert "protected from changing file locked/x" in str(outcomes["locked"])
    assert {name for name, outcome in outcomes.items() if isinstance(outcome, Written)} == {"free", "other"}
    assert way.forge.files(way.repository) == {"README.md", "free/x", "other/x"}


@pytest.mark.parametrize("rule", ["size", "author"])
async def test_a_size_or_author_rule_is_said_in_the_forges_words(way: Way, rule: str) -> None:
    folder = way.forge.folder(way.repository)
    if rule == "size":
        run_git("config", "receive.maxInputSize", "10000", cwd=folder)
        words = "maximum allowed size"
    else:
        hook = folder / "hooks" / "pre-receive.d" / "author"
        hook.write_text(
            '#!/bin/sh\nwhile read old new ref; do case "$(git log -1 --format=%ae "$new")" in *@acme.test) ;;\n'
            '*) echo "author e-mail must end in @acme.test" >&2; exit 1 ;; esac; done\n'
        )
        hook.chmod(0o755)
        words = "must end in @acme.test"
    content = bytes(range(256)) * 200 if rule == "author" else b"".join(number.to_bytes(4) for number in range(30_000))
    error = await push(way.open(), "big", content)
    assert isinstance(error, WriteRejected), error
    assert words in str(error)
    assert not error.transient
    assert isinstance(await push(way.open(gitAuthor={"name": "fleet", "email": "fleet@acme.test"})), Written)
