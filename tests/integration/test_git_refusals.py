"""What a Git server refuses: the items that it is about fail alone, with the server's words; all others land."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest

from shared.errors import AccessDenied, LandfallError, QuotaExceeded, StoreUnavailable, WriteRejected
from shared.plan import Edit, Outcome, Written
from shared.writers.base import Writer
from tests.contract.harness import edit, secret_of, soon
from tests.integration.git_servers import Rule, spy_before, writer_to
from tests.servers.git import GitServer
from tests.servers.repository import Repository
from tests.servers.ssh import SshServer

POSTED = "POST /{name}.git/git-receive-pack"
HOSTILE = b'[submodule "x"]\n\tpath = x\n\turl = --upload-pack=touch${IFS}/tmp/x\n'
README = b"# A repository for tests\n"

# Looks into what a push would leave on a branch; `update` gets one branch a call, `pre-receive` lines on its input.
SCAN = 'git grep -q AKIA "$new" -- && { echo "GH013: push protection: secret found" >&2; exit 1; }'
PRE_RECEIVE = f"#!/bin/sh\nwhile read old new ref; do {SCAN}; done\nexit 0\n"
UPDATE = f"#!/bin/sh\nnew=$3\n{SCAN}\nexit 0\n"
AUTHOR = """#!/bin/sh
while read old new ref; do
  case "$(git log -1 --format=%ae "$new")" in *@example.test) ;;
  *) echo "GitLab: commit $new: author e-mail must end in @example.test" >&2; exit 1 ;; esac
done
"""


@dataclass(frozen=True)
class Refusal:
    """A kind of refusal.

    Attributes:
        bad: name and content of a file that is refused.
        words: of the server.
        hooks, config: of the repository.
    """

    bad: tuple[str, bytes]
    words: str
    hooks: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)


KEY = ("key", b"AKIAIOSFODNN7EXAMPLE")
FSCK = {"receive.fsckObjects": "true"}
REFUSALS = {
    "pre-receive": Refusal(KEY, "GH013: push protection", hooks={"pre-receive": PRE_RECEIVE}),
    "update": Refusal(KEY, "GH013: push protection", hooks={"update": UPDATE}),
    "fsck-gitmodules": Refusal((".gitmodules", HOSTILE), "gitmodulesUrl", config=FSCK),
    "fsck-gitattributes": Refusal((".gitattributes", b"x " * 2000 + b"\n"), "gitattributesLineLength", config=FSCK),
    "size": Refusal(("big", os.urandom(150_000)), "maximum allowed size", config={"receive.maxInputSize": "100000"}),
}

Open = Callable[[Repository], Writer]


@pytest.fixture(params=["https", "ssh"])
def way(request: pytest.FixtureRequest, git_server: GitServer) -> tuple[str, Open]:
    """How the server is reached, and what opens a writer that reaches it so."""
    if request.param == "https":
        return "https", lambda repository: writer_to(git_server, repository.https_url)
    ssh: SshServer = request.getfixturevalue("ssh_git")  # first: repositories get their SSH URL from it
    secret = secret_of(sshPrivateKey=ssh.private_key, knownHosts=ssh.known_hosts)
    return "ssh", lambda repository: writer_to(git_server, repository.ssh_url, secret, authMethod="ssh")


def pushes(git_server: GitServer, repository: Repository) -> int:
    """How often the repository was pushed to over HTTPS."""
    line = f'"{POSTED.format(name=repository.name)} '
    return sum(line in logged for logged in git_server.access_log.read_text().splitlines())


def items(count: int, bad: Mapping[int, tuple[str, bytes]]) -> list[Edit]:
    """So many items of a directory each, some of which hold a bad file besides their own."""
    return [
        edit(
            {f"w{n}/x": b"%d" % n} | ({f"w{n}/{bad[n][0]}": bad[n][1]} if n in bad else {}),
            id=f"w{n}",
            root=f"w{n}",
            prune={f"w{n}"},
        )
        for n in range(count)
    ]


def split(outcomes: Mapping[str, Outcome]) -> tuple[set[str], dict[str, LandfallError]]:
    """Return the items that are written, and the errors of the others."""
    written = {item for item, outcome in outcomes.items() if isinstance(outcome, Written)}
    return written, {item: outcome for item, outcome in outcomes.items() if isinstance(outcome, LandfallError)}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
async def test_the_refused_item_fails_alone_and_the_others_land(
    git_server: GitServer, way: tuple[str, Open], refusal: Refusal
) -> None:
    name, open_writer = way
    repository = git_server.create_repository(hooks=refusal.hooks, config=refusal.config)
    async with open_writer(repository) as writer:
        await writer.write(items(2, {}), soon())
        before = len(repository.commits())
        outcomes = await writer.write(items(7, {3: refusal.bad}), soon())
        written, refused = split(outcomes)
        assert written == {f"w{n}" for n in range(7)} - {"w3"}
        assert isinstance(refused["w3"], WriteRejected)
        assert refusal.words in str(refused["w3"])
        assert {item: outcomes[item].changed for item in written} == {  # type: ignore[union-attr]
            **dict.fromkeys(("w0", "w1"), False),
            **dict.fromkeys(("w2", "w4", "w5", "w6"), True),
        }
        assert len(repository.commits()) - before <= 1 + math.log2(5)
        good = {f"w{n}/x": b"%d" % n for n in range(7) if n != 3}
        assert repository.tree() == {"README.md": README, **good}
        if name == "https":  # the first write's push, and those of the search
            assert pushes(git_server, repository) - 1 <= 2 * math.log2(5) + 8
        # What is written is unchanged from now on, and the item's own change mends it.
        mended = await writer.write(items(7, {}), soon())
    assert {item: outcome.changed for item, outcome in mended.items()} == {  # type: ignore[union-attr]
        f"w{n}": n == 3 for n in range(7)
    }
    assert repository.tree()["w3/x"] == b"3"
    repository.git("fsck", "--strict")


@pytest.mark.parametrize(
    ("count", "bad"),
    [(1, {0}), (2, {0}), (2, {1}), (50, {0}), (50, {49}), (50, {17, 18}), (50, {3, 25, 44})],
    ids=lambda value: str(value),
)
async def test_several_bad_items_of_a_batch_fail_alone(git_server: GitServer, count: int, bad: set[int]) -> None:
    repository = git_server.create_repository(hooks={"pre-receive": PRE_RECEIVE})
    batch = items(count, dict.fromkeys(bad, ("key", b"AKIA")))
    same = edit({"README.md": README}, id="same")
    async with writer_to(git_server, repository.https_url) as writer:
        written, refused = split(await writer.write([*batch, same], soon()))
    assert refused.keys() == {f"w{n}" for n in bad}
    assert len(written) == count + 1 - len(bad)
    assert all(type(error) is WriteRejected for error in refused.values())
    further = (len(bad) - 1) * (math.log2(count) + 2)
    assert pushes(git_server, repository) <= 2 * math.log2(count) + 8 + further
    assert len(repository.commits()) <= 2 + len(bad) * (math.log2(count) + 1)
    assert {path for path in repository.tree() if path != "README.md"} == {
        f"w{n}/x" for n in range(count) if n not in bad
    }


@pytest.mark.parametrize("count", [1, 2, 50])
async def test_a_rule_about_all_fails_all_that_would_change_and_nothing_else(git_server: GitServer, count: int) -> None:
    repository = git_server.create_repository()
    async with writer_to(git_server, repository.https_url) as writer:
        await writer.write(items(1, {}), soon())
        repository.set_hook("pre-receive", AUTHOR)
        head = repository.head()
        outcomes = await writer.write(items(count + 1, {}), soon())
        assert outcomes["w0"] == Written(head or "", changed=False)
        refused = split(outcomes)[1]
        assert refused.keys() == {f"w{n}" for n in range(1, count + 1)}
        assert all("author e-mail must end in @example.test" in str(error) for error in refused.values())
        assert {type(error) for error in refused.values()} == {WriteRejected}
        assert pushes(git_server, repository) - 1 <= 2 * math.log2(count) + 8
        assert repository.head() == head
        # Where not even one item is unchanged, it is the State Store's answer to the batch.
        with pytest.raises(WriteRejected, match="author e-mail must end in"):
            await writer.write(items(count + 1, {})[1:], soon())
    async with writer_to(git_server, repository.https_url, gitAuthor={"email": "x@example.test"}) as writer:
        assert split(await writer.write(items(count + 1, {}), soon()))[1] == {}


async def test_others_who_push_during_the_search_lose_nothing(git_server: GitServer) -> None:
    repository = git_server.create_repository(hooks={"pre-receive": PRE_RECEIVE})
    with spy_before(repository.http_url) as spy:
        posted = POSTED.format(name=repository.name)

        def others(number: int) -> Rule:
            return Rule(posted, before=lambda: repository.commit_files({f"theirs-{number}": b"1"}))

        spy.rules = [Rule(posted), *map(others, range(3))]
        async with writer_to(git_server, spy.url(repository.http_url)) as writer:
            written, refused = split(await writer.write(items(8, {5: ("key", b"AKIA")}), soon()))
    assert (len(written), set(refused)) == (7, {"w5"})
    expected = {*(f"w{n}/x" for n in range(8) if n != 5), *(f"theirs-{number}" for number in range(3)), "README.md"}
    assert set(repository.tree()) == expected


async def test_what_one_item_wants_is_not_deleted_for_another_while_it_is_refused(git_server: GitServer) -> None:
    repository = git_server.create_repository(hooks={"pre-receive": PRE_RECEIVE})
    repository.commit_files({"shared/one": b"old", "shared/two": b"old"})
    one = edit({"shared/one": b"AKIA"}, id="one", root="shared", prune={"shared"})
    two = edit({"shared/two": b"new"}, id="two", root="shared", prune={"shared"})
    async with writer_to(git_server, repository.https_url) as writer:
        written, refused = split(await writer.write([one, two], soon()))
    assert (written, set(refused)) == ({"two"}, {"one"})
    assert repository.tree() == {"README.md": README, "shared/one": b"old", "shared/two": b"new"}


async def test_time_that_runs_out_during_the_search_leaves_what_landed_and_what_was_found(
    git_server: GitServer,
) -> None:
    # The ninth push of the search is one too many: eight find the first good item and the first bad one.
    counting = 'n=$(cat pushes 2>/dev/null || echo 0); echo $((n + 1)) > pushes; [ "$n" -ge 8 ] && sleep 25'
    repository = git_server.create_repository(
        hooks={"pre-receive": PRE_RECEIVE.replace("while read", f"{counting}\nwhile read")}
    )
    async with writer_to(git_server, repository.https_url) as writer:
        outcomes = await writer.write(items(64, dict.fromkeys(range(1, 64, 2), ("key", b"AKIA"))), soon(15))
    written, failed = split(outcomes)
    refused = {item for item, error in failed.items() if isinstance(error, WriteRejected)}
    later = {item for item, error in failed.items() if isinstance(error, StoreUnavailable)}
    assert written
    assert refused
    assert later
    assert written | refused | later == {f"w{n}" for n in range(64)}
    assert {path for path in repository.tree() if path != "README.md"} == {f"{item}/x" for item in written}
    assert refused <= {f"w{n}" for n in range(1, 64, 2)}


def report(*lines: bytes, remote: bytes = b"") -> bytes:
    """Return an HTTP answer to a push: what the server says beside, and report-status (gitprotocol-pack(5))."""

    def packet(data: bytes) -> bytes:
        return b"%04x%s" % (len(data) + 4, data)

    status = b"".join(map(packet, lines)) + b"0000"
    body = (packet(b"\x02" + remote) if remote else b"") + packet(b"\x01" + status) + b"0000"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-git-receive-pack-result\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


TERMINAL = {
    "unpack": (report(b"unpack author e-mail rule\n", b"ng refs/heads/main unpacker error\n"), "author e-mail rule"),
    "unpack-alone": (report(b"unpack file over 100 MB\n", remote=b"GH001: Large files"), "GH001: Large files"),
    "no-utf-8": (report(b"unpack ok\n", b"ng refs/heads/main r\xe9fus\xe9\n"), "r\ufffdfus\ufffd"),
    "status-413": (b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n", "too large (413)"),
}


@pytest.mark.parametrize(("reply", "words"), TERMINAL.values(), ids=TERMINAL)
async def test_a_servers_no_is_an_answer_after_one_push(git_server: GitServer, reply: bytes, words: str) -> None:
    repository = git_server.create_repository()
    posted = POSTED.format(name=repository.name)
    with spy_before(repository.http_url) as spy:
        spy.rules = [Rule(posted, reply=reply, times=100)]
        async with writer_to(git_server, spy.url(repository.http_url)) as writer:
            with pytest.raises(WriteRejected) as caught:
                await writer.write([edit({"a": b"1"})], soon())
    assert words in str(caught.value)
    assert not caught.value.transient
    assert spy.count(posted) == 1


async def test_a_server_without_room_is_no_refusal(git_server: GitServer) -> None:
    repository = git_server.create_repository()
    posted = POSTED.format(name=repository.name)
    full = report(b"unpack index-pack abnormal exit\n", remote=b"fatal: write error: No space left on device\n")
    with spy_before(repository.http_url) as spy:
        spy.rules = [Rule(posted, reply=full, times=100)]
        async with writer_to(git_server, spy.url(repository.http_url)) as writer:
            with pytest.raises(StoreUnavailable, match="No space left on device"):
                await writer.write(items(3, {}), soon())
    assert spy.count(posted) == 1


@pytest.mark.parametrize(
    ("said", "kind", "advice"),
    [
        ("GitLab: Your push has been rejected, because this repository has exceeded its size limit of 10 MB by 1 MB.",
         QuotaExceeded, "make room"),
        ("Forgejo: Quota exceeded", QuotaExceeded, "raise the quota"),
        ("Gitea: User permission denied for writing.", AccessDenied, "give them write access"),
        ("GitLab: The repository is temporarily read-only. Please try again later.", StoreUnavailable, "tried again"),
    ],
)  # fmt: skip
async def test_a_refusal_that_is_about_all_of_a_batch_is_not_searched_for(
    git_server: GitServer, way: tuple[str, Open], said: str, kind: type[LandfallError], advice: str
) -> None:
    _, open_writer = way
    repository = git_server.create_repository(
        hooks={"pre-receive": f"#!/bin/sh\necho '{said}' >&2\necho x >> pushes\nexit 1\n"}
    )
    async with open_writer(repository) as writer:
        with pytest.raises(kind) as caught:
            await writer.write(items(8, {}), soon(20))
    assert advice in str(caught.value)
    assert said in str(caught.value)
    pushed = len((repository.path / "pushes").read_text().split())
    assert pushed == (1 if kind is not StoreUnavailable else pushed)


async def test_the_words_of_a_refusal_are_clean_bounded_and_without_secrets(git_server: GitServer) -> None:
    repository = git_server.create_repository()
    said = f"you are {git_server.username}:{git_server.password} \x1b[31mred\x07 \u202e".encode() + b"x" * 60_000
    with spy_before(repository.http_url) as spy:
        answer = report(b"unpack no: " + git_server.password.encode() + b"\n", remote=said)
        spy.rules = [Rule(POSTED.format(name=repository.name), reply=answer, times=100)]
        async with writer_to(git_server, spy.url(repository.http_url)) as writer:
            with pytest.raises(WriteRejected, match=r"you are landfall:\*\*\* .*red") as caught:
                await writer.write([edit({"a": b"1"})], soon())
    assert git_server.password not in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1500
