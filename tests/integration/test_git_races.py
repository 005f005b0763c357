"""Others who push at the same time, rules that say no, and connections that break at the worst moment."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from shared.deadline import Deadline
from shared.errors import OutOfTime, StoreUnavailable, WriteRejected
from shared.observability import flush_measured
from shared.plan import Written
from tests.contract.harness import edit, secret_of, soon
from tests.integration.git_servers import Rule, Spy, small_server, spy_before, wait_for, writer_to
from tests.servers.git import GitServer
from tests.servers.repository import Repository
from tests.servers.ssh import SshServer

ADVERTISED, POSTED = "GET /{name}.git/info/refs?service=git-receive-pack", "POST /{name}.git/git-receive-pack"
DECLINE = "#!/bin/sh\necho 'GH006: only the release team may push' >&2\nexit 1\n"
ROOT = Path(__file__).parents[2]


def others(repository: Repository, what: str) -> None:
    """Do behind the writer's back what others do to a branch."""
    if what == "moved":
        repository.commit_files({"theirs": b"1"})
    elif what == "force-pushed":
        repository.commit_files({"theirs": b"1"}, force_root=True)
    else:
        repository.delete_branch()


AFTER = {"moved": {"README.md", "theirs", "ours"}, "force-pushed": {"theirs", "ours"}, "deleted": {"ours"}}


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("when", [ADVERTISED, POSTED], ids=["before-the-push", "during-the-push"])
@pytest.mark.parametrize("what", AFTER)
async def test_a_branch_that_changes_under_a_write_is_fetched_and_written_again(
    git_server: GitServer, what: str, when: str, warm: bool
) -> None:
    repository = git_server.create_repository(config={"receive.denyNonFastForwards": "false"})
    with spy_before(repository.http_url) as spy:
        async with writer_to(git_server, spy.url(repository.http_url)) as writer:
            if warm:
                await writer.check("", soon())
                assert await writer.read("README.md", soon())
            spy.rules = [Rule(when.format(name=repository.name), before=lambda: others(repository, what))]
            outcome = (await writer.write([edit({"ours": b"2"})], soon()))["one"]
    assert outcome == Written(repository.head() or "", changed=True)
    assert set(repository.tree()) == AFTER[what]
    repository.git("fsck", "--strict")


def conflicts(capsys: pytest.CaptureFixture[str]) -> float:
    """Return how many lost races were counted since the last call."""
    flush_measured()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"CommitConflicts"' in line]
    return float(sum(value for line in lines for value in line["CommitConflicts"]))


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
async def test_a_push_that_lost_a_race_is_counted_and_a_cache_that_was_out_of_date_is_not(
    git_server: GitServer, warm: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = git_server.create_repository()
    with spy_before(repository.http_url) as spy:
        async with writer_to(git_server, spy.url(repository.http_url)) as writer:
            if warm:
                await writer.check("", soon())
                assert await writer.read("README.md", soon())
                repository.commit_files({"theirs": b"0"})
            conflicts(capsys)
            await writer.write([edit({"ours": b"1"})], soon())
            assert conflicts(capsys) == 0
            spy.rules = [Rule(POSTED.format(name=repository.name), before=lambda: others(repository, "moved"))]
            await writer.write([edit({"ours": b"2"})], soon())
            assert conflicts(capsys) == 1
    assert len(repository.commits()) == 4 + warm


async def test_a_cached_branch_that_was_deleted_or_rewritten_is_noticed_by_a_no_op(git_server: GitServer) -> None:
    repository = git_server.create_repository()
    async with writer_to(git_server, repository.https_url) as writer:
        await writer.write([edit({"ours": b"2"})], soon())
        for what in AFTER:
            others(repository, what)
            outcome = (await writer.write([edit({"ours": b"2"})], soon()))["one"]
            assert isinstance(outcome, Written)
            assert outcome.version == repository.head()
            assert set(repository.tree()) == AFTER[what]


@pytest.mark.parametrize("hook", ["pre-receive", "update"])
async def test_a_hook_that_declines_is_terminal_and_keeps_the_servers_words(git_server: GitServer, hook: str) -> None:
    repository = git_server.create_repository(hooks={hook: DECLINE})
    before = repository.head()
    with spy_before(repository.http_url) as spy:
        async with writer_to(git_server, spy.url(repository.http_url)) as writer:
            with pytest.raises(WriteRejected, match="GH006: only the release team may push") as caught:
                await writer.write([edit({"a": b"1"})], soon())
        assert spy.count(POSTED.format(name=repository.name)) == 1
    assert "hook declined" in str(caught.value)
    assert not caught.value.transient
    assert repository.head() == before


async def test_the_servers_words_are_bounded_and_printable(git_server: GitServer) -> None:
    noise = "#!/bin/sh\nprintf '\\033[31mred\\007' >&2\nyes flood | head -c 100000 >&2\nexit 1\n"
    repository = git_server.create_repository(hooks={"pre-receive": noise})
    async with writer_to(git_server, repository.https_url) as writer:
        with pytest.raises(WriteRejected) as caught:
            await writer.write([edit({"a": b"1"})], soon())
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


async def test_a_lock_that_goes_away_is_waited_for_and_one_that_stays_is_reported(git_server: GitServer) -> None:
    repository = git_server.create_repository()
    lock = repository.path / "refs" / "heads" / "main.lock"
    lock.touch()
    async with writer_to(git_server, repository.https_url) as writer:
        with pytest.raises(StoreUnavailable, match="failed to update ref"):
            await writer.write([edit({"a": b"1"})], soon(30))
        timer = threading.Timer(0.5, lock.unlink)
        timer.start()
        outcome = (await writer.write([edit({"a": b"1"})], soon()))["one"]
        timer.join()
    assert outcome == Written(repository.head() or "", changed=True)


@pytest.mark.parametrize("attempts", [1, 2], ids=["once", "twice"])
async def test_an_answer_lost_after_the_push_is_success_and_no_second_commit(
    git_server: GitServer, attempts: int
) -> None:
    repository = git_server.create_repository()
    before = repository.head()
    with spy_before(repository.http_url) as spy:
        applied = Rule(POSTED.format(name=repository.name), answer="lose", until=lambda: repository.head() != before)
        deaf = Rule(ADVERTISED.format(name=repository.name), answer="drop")
        spy.rules = [applied]
        if attempts > 1:  # and then the first look at the branch fails too
            applied.before = lambda: spy.rules.append(deaf)
        async with writer_to(git_server, spy.url(repository.http_url)) as writer:
            outcome = (await writer.write([edit({"a": b"1"})], soon()))["one"]
    assert outcome == Written(repository.head() or "", changed=True)
    assert (len(repository.commits()), spy.count(POSTED.format(name=repository.name))) == (2, 1)


@pytest.mark.parametrize("method", ["basicAuth", "ssh"])
async def test_a_server_that_dies_after_the_push_has_still_done_it(
    git_server: GitServer, ssh_git: SshServer, method: str
) -> None:
    dies = '#!/bin/sh\n[ "$1" = committed ] && kill -9 $PPID\nexit 0\n'
    repository = git_server.create_repository(hooks={"reference-transaction": dies})
    secret = secret_of(sshPrivateKey=ssh_git.private_key, knownHosts=ssh_git.known_hosts) if method == "ssh" else None
    url = repository.ssh_url if method == "ssh" else repository.https_url
    async with writer_to(git_server, url, secret, authMethod=method) as writer:
        outcome = (await writer.write([edit({"a": b"1"})], soon()))["one"]
    assert outcome == Written(repository.head() or "", changed=True)
    assert len(repository.commits()) == 2


async def test_a_push_that_never_arrived_is_sent_again_as_the_same_commit(git_server: GitServer) -> None:
    repository = git_server.create_repository()
    with spy_before(repository.http_url) as spy:
        spy.rules = [Rule(POSTED.format(name=repository.name), answer="drop", times=2)]
        async with writer_to(git_server, spy.url(repository.http_url)) as writer:
            outcome = (await writer.write([edit({"a": b"1"})], soon()))["one"]
    assert outcome == Written(repository.head() or "", changed=True)
    assert len(repository.commits()) == 2


async def test_a_lost_push_that_others_built_upon_counts_as_done(git_server: GitServer) -> None:
    repository = git_server.create_repository()
    before = repository.head()

    def applied() -> bool:
        if repository.head() != before:
            repository.commit_files({"theirs": b"1"})
            return True
        return False

    with spy_before(repository.http_url) as spy:
        spy.rules = [Rule(POSTED.format(name=repository.name), answer="lose", until=applied)]
        async with writer_to(git_server, spy.url(repository.http_url)) as writer:
            outcome = (await writer.write([edit({"a": b"1"})], soon()))["one"]
    assert outcome == Written(repository.head() or "", changed=True)
    assert [commit.author_name for commit in repository.commits()] == ["Someone Else", "kratix", "Someone Else"]


async def test_a_server_that_stays_deaf_to_pushes_is_reported_within_the_deadline(git_server: GitServer) -> None:
    repository = git_server.create_repository()
    with spy_before(repository.http_url) as spy:
        spy.rules = [Rule(POSTED.format(name=repository.name), answer="drop", times=1000)]
        async with writer_to(git_server, spy.url(repository.http_url)) as writer:
            started = time.monotonic()
            with pytest.raises((StoreUnavailable, OutOfTime)):
                await writer.write([edit({"a": b"1"})], soon(5))
    assert time.monotonic() - started < 30
    assert len(repository.commits()) == 1


@pytest.mark.parametrize("cancelled", [False, True], ids=["deadline", "cancelled"])
async def test_a_server_that_never_answers_holds_no_thread_past_the_deadline(
    git_server: GitServer, cancelled: bool
) -> None:
    release = threading.Event()
    before = {thread.name for thread in threading.enumerate() if thread.name.startswith("git-writer")}

    def hang(_: object) -> tuple[int, dict[str, str], bytes]:
        release.wait(20)
        return 503, {}, b""

    with small_server(hang) as (base, received):
        writer = writer_to(git_server, f"{base}/x.git")
        call = asyncio.create_task(writer.write([edit({"a": b"1"})], Deadline.after(20 if cancelled else 1)))
        started = time.monotonic()
        if cancelled:
            await asyncio.to_thread(wait_for, lambda: bool(received))
            call.cancel()
        with pytest.raises((StoreUnavailable, asyncio.CancelledError)):
            await call
        assert time.monotonic() - started < 15
        await writer.close()
        assert await asyncio.to_thread(
            wait_for,
            lambda: {t.name for t in threading.enumerate() if t.name.startswith("git-writer")} <= before,
        )
        release.set()


WRITES = """
import asyncio, json, sys
from shared.deadline import Deadline
from shared.plan import Edit, Written
from shared.resources import GitStateStore, Secret
from shared.settings import Settings
from shared.writers import open_writer

async def main(told):
    spec = {"url": told["url"]}
    store = GitStateStore.parse({"kind": "GitStateStore", "metadata": {"name": "x"}, "spec": spec})
    secret = Secret.model_validate({"name": "s", "namespace": "d", "data": told["secret"]})
    async with open_writer(store, secret, Settings(**told["settings"])) as writer:
        for number in range(told["writes"]):
            path = f"worker-{told['me']}/{number}"
            edits = [Edit(id="x", label=f"worker-{told['me']}", root="", files={path: path.encode()})]
            outcome = (await writer.write(edits, Deadline.after(120)))["x"]
            assert isinstance(outcome, Written) and outcome.changed, outcome

asyncio.run(main(json.load(sys.stdin)))
"""


@pytest.mark.timeout(240)
async def test_twenty_processes_on_one_branch_lose_nothing(git_server: GitServer) -> None:
    repository = git_server.create_repository(config={"receive.denyNonFastForwards": "false"})
    told = {
        "url": repository.https_url,
        "writes": 3,
        "secret": {"username": git_server.username, "password": git_server.password},
        "settings": {"allowed_networks": "127.0.0.0/8 ::1/128", "ca_bundle": str(git_server.ca)},
    }
    workers = [
        subprocess.Popen(  # noqa: ASYNC220 -- they are to start together
            [sys.executable, "-c", WRITES], cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(20)
    ]

    def finish(me: int) -> str:
        return workers[me].communicate(json.dumps({**told, "me": me}), timeout=200)[1]

    errors = await asyncio.gather(*(asyncio.to_thread(finish, me) for me in range(20)))
    assert [error for error in errors if error] == []
    expected = {f"worker-{me}/{number}": f"worker-{me}/{number}".encode() for me in range(20) for number in range(3)}
    assert repository.tree() == {"README.md": repository.tree()["README.md"], **expected}
    assert len(repository.commits()) == 61
    assert all(len(commit.parents) <= 1 for commit in repository.commits())


async def test_writers_in_one_process_take_turns_too(git_server: GitServer) -> None:
    repository = git_server.create_repository()
    async with writer_to(git_server, repository.https_url) as writer:
        await asyncio.gather(*(writer.write([edit({f"w{n}": b"1"})], soon()) for n in range(8)))
    assert len(repository.commits()) == 9
    assert len(repository.tree()) == 9


def test_the_spy_sees_requests(git_server: GitServer) -> None:
    """Whatever the tests above conclude from a spy, it did stand in between."""
    repository = git_server.create_repository()
    with spy_before(repository.http_url) as spy:
        assert isinstance(spy, Spy)
        asyncio.run(writer_to(git_server, spy.url(repository.http_url)).check("", soon()))
        assert spy.count("git-receive-pack") == 1
