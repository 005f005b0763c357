"""What the Git writer leaves in a repository, and how little it asks for."""

import os
import shutil
from typing import Any

import pytest

from shared.errors import PathConflict, StateStoreNotReady, TooLarge
from shared.plan import Written
from shared.writers.base import Writer
from tests.contract.harness import edit, soon
from tests.integration.git_servers import spy_before, writer_to
from tests.servers.git import GitServer
from tests.servers.repository import Submodule, Symlink, run_git

README = b"# A repository for tests\n"


async def version_of(writer: Writer, files: dict[str, bytes], **more: Any) -> Written:
    """Write one edit that must succeed."""
    outcome = (await writer.write([edit(files, **more)], soon()))["one"]
    assert isinstance(outcome, Written)
    return outcome


async def test_a_batch_is_one_commit_that_names_the_items_that_changed(git_server: GitServer) -> None:
    repository = git_server.create_repository()
    edits = [edit({f"w{n}/x": b"%d" % n}, id=f"w{n}", label=f"worker-{n}", root=f"w{n}") for n in range(5)]
    async with writer_to(git_server, repository.https_url) as writer:
        await writer.write(edits[:2], soon())
        outcomes = await writer.write(edits, soon())
    last, first, _ = repository.commits()
    assert first.message == "Update from: worker-0, worker-1\n\n- worker-0\n- worker-1\n"
    assert last.message == "Update from: worker-2, worker-3, worker-4\n\n- worker-2\n- worker-3\n- worker-4\n"
    assert {outcomes[f"w{n}"] for n in (2, 3, 4)} == {Written(last.sha, changed=True)}
    assert {outcomes[f"w{n}"] for n in (0, 1)} == {Written(last.sha, changed=False)}


async def test_more_than_three_names_are_counted_and_listed(git_server: GitServer) -> None:
    repository = git_server.create_repository()
    edits = [edit({f"w{n}/x": b"y"}, id=f"w{n}", label=f"worker-{n}\nInjected: yes") for n in range(4)]
    async with writer_to(git_server, repository.https_url) as writer:
        await writer.write(edits, soon())
    lines = repository.commits()[0].message.splitlines()
    assert lines[:3] == ["Update from: 4 Destinations", "", "- worker-0 Injected: yes"]
    assert len(lines) == 6


@pytest.mark.parametrize(
    ("author", "expected"),
    [
        ({}, ("kratix", "")),
        ({"name": "Ann Ö", "email": "ann@example.test"}, ("Ann Ö", "ann@example.test")),
        ({"name": "x <y>\ncommitter z", "email": "a@b>\nevil"}, ("x ycommitter z", "a@bevil")),
        ({"name": "<>", "email": " "}, ("kratix", "")),
    ],
    ids=["default", "given", "with-line-ends-and-brackets", "nothing-left"],
)
async def test_the_author_is_the_specs_and_cannot_forge_a_header(
    git_server: GitServer, author: dict[str, str], expected: tuple[str, str]
) -> None:
    repository = git_server.create_repository(config={"receive.fsckObjects": "true"})
    async with writer_to(git_server, repository.https_url, gitAuthor=author) as writer:
        await version_of(writer, {"a": b"1"})
    commit = repository.commits()[0]
    assert (commit.author_name, commit.author_email) == expected
    assert repository.git("log", "-1", "--format=%cn|%ce").strip() == "|".join(expected)


async def test_an_empty_repository_gets_a_root_commit(git_server: GitServer) -> None:
    repository = git_server.create_repository(empty=True)
    async with writer_to(git_server, repository.https_url) as writer:
        nothing = await version_of(writer, {}, remove={"a"})
        assert (nothing, repository.branches()) == (Written("", changed=False), {})
        done = await version_of(writer, {"a/b": b"1"})
    (commit,) = repository.commits()
    assert (commit.sha, commit.parents) == (done.version, ())
    assert repository.tree() == {"a/b": b"1"}


async def test_a_missing_branch_begins_at_the_default_branch_whatever_its_name(git_server: GitServer) -> None:
    repository = git_server.create_repository(default_branch="trunk")
    async with writer_to(git_server, repository.https_url, branch="team/prod") as writer:
        done = await version_of(writer, {"a": b"1"})
    assert repository.commits("team/prod")[0].parents == (repository.head("trunk"),)
    assert repository.branches() == {"trunk": repository.head("trunk"), "team/prod": done.version}
    assert repository.tree("team/prod") == {"README.md": README, "a": b"1"}


async def test_a_missing_branch_is_made_even_if_the_default_branch_has_it_all(git_server: GitServer) -> None:
    repository = git_server.create_repository()
    async with writer_to(git_server, repository.https_url, branch="prod") as writer:
        done = await version_of(writer, {"README.md": README})
    assert done == Written(repository.head() or "", changed=False)
    assert repository.head("prod") == repository.head()


async def test_a_branch_below_the_name_of_another_is_refused_with_the_servers_words(git_server: GitServer) -> None:
    repository = git_server.create_repository()
    async with writer_to(git_server, repository.https_url, branch="main/prod") as writer:
        with pytest.raises(Exception, match=r"cannot create|exists") as caught:
            await writer.write([edit({"a": b"1"})], soon())
    assert type(caught.value).__name__ == "WriteRejected"


async def test_a_warm_writer_asks_once_for_a_no_op_and_twice_for_a_change(git_server: GitServer) -> None:
    repository = git_server.create_repository()
    with spy_before(repository.http_url) as spy:
        async with writer_to(git_server, spy.url(repository.http_url)) as writer:
            first = await version_of(writer, {"a/b": b"1"})
            spy.requests.clear()
            assert await version_of(writer, {"a/b": b"1"}) == Written(first.version, changed=False)
            assert spy.requests == [f"GET /{repository.name}.git/info/refs?service=git-receive-pack HTTP/1.1"]
            spy.requests.clear()
            assert (await version_of(writer, {"a/b": b"2"})).changed
            assert (len(spy.requests), spy.count("git-upload-pack")) == (2, 0)
    assert len(repository.commits()) == 3


@pytest.mark.parametrize(
    ("there", "path", "words"),
    [
        ({"a": Symlink("/etc")}, "a/b", "a symlink or submodule is there"),
        ({"a": Submodule("1" * 40)}, "a/b", "a symlink or submodule is there"),
        ({"a/b": Symlink("c")}, "a/b", "would replace a symlink or submodule"),
        ({"a": b"file"}, "a/b", "a file is there"),
        ({"a/b/c": b"file"}, "a/b", "a file cannot replace it"),
    ],
    ids=["symlink-on-the-way", "submodule-on-the-way", "symlink-in-place", "file-for-directory", "directory-for-file"],
)
async def test_what_is_in_the_way_is_refused_and_stays(
    git_server: GitServer, there: dict[str, bytes | Symlink | Submodule], path: str, words: str
) -> None:
    repository = git_server.create_repository()
    repository.commit_files(there)
    before = repository.paths()
    async with writer_to(git_server, repository.https_url) as writer:
        outcomes = await writer.write([edit({path: b"1"}, id="bad"), edit({"good": b"1"}, id="good")], soon())
    assert isinstance(outcomes["bad"], PathConflict)
    assert words in str(outcomes["bad"])
    assert {name: what for name, what in repository.paths().items() if name != "good"} == before
    assert isinstance(outcomes["good"], Written)


async def test_pruning_takes_links_and_submodules_and_replaces_directories_by_files(git_server: GitServer) -> None:
    repository = git_server.create_repository(config={"receive.fsckObjects": "true"})
    repository.commit_files({"d/link": Symlink("x"), "d/sub": Submodule("1" * 40), "d/dir/x": b"1", "d/file": b"2"})
    async with writer_to(git_server, repository.https_url) as writer:
        await version_of(writer, {"d/dir": b"now a file", "d/file/x": b"now a directory"}, prune={"d"})
    assert repository.tree() == {"README.md": README, "d/dir": b"now a file", "d/file/x": b"now a directory"}


async def test_a_replaced_executable_becomes_a_plain_file(git_server: GitServer) -> None:
    repository = git_server.create_repository()
    blob = run_git("hash-object", "-w", "--stdin", cwd=repository.path, stdin=b"#!").stdout.strip()
    tree = run_git("mktree", cwd=repository.path, stdin=b"100755 blob %s\tx\n" % blob).stdout.decode().strip()
    who = ("-c", "user.name=x", "-c", "user.email=x@y")
    repository.move_branch(repository.git(*who, "commit-tree", tree, "-m", "x").strip())
    async with writer_to(git_server, repository.https_url) as writer:
        await version_of(writer, {"x": b"plain"})
    assert repository.paths()["x"][0] == "100644"


@pytest.mark.parametrize("size", [900_000, 1_200_000, 6_000_000], ids=["below-1-MiB", "above-1-MiB", "many-MiB"])
async def test_packs_on_both_sides_of_a_mebibyte_arrive_whole(git_server: GitServer, size: int) -> None:
    repository = git_server.create_repository(config={"receive.fsckObjects": "true"})
    content = os.urandom(size)
    async with writer_to(git_server, repository.https_url) as writer:
        await version_of(writer, {"big": content})
        assert await writer.read("big", soon()) == content
    repository.git("fsck", "--strict")
    assert repository.tree()["big"] == content


OLD_SERVERS = {
    "no-filters": (False, {}),
    "no-shallow": (True, {b"fetch=shallow": b"fetch=shbllow"}),
    "neither": (False, {b"fetch=shallow": b"fetch=shbllow"}),
    "protocol-0": (True, {b"Git-Protocol:": b"Got-Protocol:"}),
    "protocol-0-without-shallow": (True, {b"Git-Protocol:": b"Got-Protocol:", b" shallow ": b" shbllow "}),
}


@pytest.mark.parametrize(("allow_filter", "rewritten"), OLD_SERVERS.values(), ids=OLD_SERVERS)
async def test_servers_that_can_less_are_written_and_read_all_the_same(
    git_server: GitServer, allow_filter: bool, rewritten: dict[bytes, bytes]
) -> None:
    repository = git_server.create_repository(allow_filter=allow_filter)
    repository.commit_files({"old/file": b"old", "old/other": b"other"})
    with spy_before(repository.http_url) as spy:
        spy.rewritten = rewritten
        async with writer_to(git_server, spy.url(repository.http_url)) as writer:
            assert await writer.read("old/file", soon()) == b"old"
            await version_of(writer, {"new/file": b"new"}, prune={"old"})
            assert await writer.read("new/file", soon()) == b"new"
            assert [await writer.read(path, soon()) for path in ("old/file", "new", "no/such")] == [None] * 3
    assert repository.tree() == {"README.md": README, "new/file": b"new"}


async def test_a_pack_over_the_limit_is_broken_off(git_server: GitServer) -> None:
    repository = git_server.create_repository(allow_filter=False)
    repository.commit_files({"big": os.urandom(3_000_000)})
    async with writer_to(git_server, repository.https_url, max_pack_bytes=1_000_000) as writer:
        with pytest.raises(TooLarge, match="LANDFALL_MAX_PACK_BYTES"):
            await writer.write([edit({"a": b"1"})], soon())


ALIKE = os.urandom(600_000)  # what Git keeps of a second one is a delta of a few bytes


@pytest.mark.parametrize(
    "files",
    [{"zeros": bytes(3_000_000)}, {"alike-1": ALIKE, "alike-2": ALIKE + b"!"}],
    ids=["compressed", "a-delta"],
)
@pytest.mark.parametrize("allow_filter", [True, False], ids=["filters", "no-filters"])
async def test_a_small_pack_that_inflates_to_more_than_the_limit_is_refused(
    git_server: GitServer, files: dict[str, bytes], allow_filter: bool
) -> None:
    repository = git_server.create_repository(allow_filter=allow_filter)
    repository.commit_files(files)
    repository.git("repack", "-a", "-d", "-q")
    async with writer_to(git_server, repository.https_url, max_pack_bytes=1_000_000) as writer:
        with pytest.raises(TooLarge, match=r"inflated: .* LANDFALL_MAX_PACK_BYTES"):
            await writer.read_many(list(files), soon())
        if allow_filter:  # what is not sent is not in the way
            await version_of(writer, {"a": b"1"})
        else:
            with pytest.raises(TooLarge, match=r"inflated: .* LANDFALL_MAX_PACK_BYTES"):
                await writer.write([edit({"a": b"1"})], soon())
    async with writer_to(git_server, repository.https_url) as writer:
        assert await writer.read_many(list(files), soon()) == files


async def test_a_file_over_the_limit_is_not_read(git_server: GitServer) -> None:
    repository = git_server.create_repository()
    repository.commit_files({"big": b"x" * 1001})
    async with writer_to(git_server, repository.https_url, max_file_bytes=1000) as writer:
        with pytest.raises(TooLarge, match="'big' is over LANDFALL_MAX_FILE_BYTES"):
            await writer.read("big", soon())


@pytest.mark.parametrize("empty", [False, True], ids=["with-commits", "empty"])
async def test_a_repository_of_sha256_objects_is_refused_in_words(git_server: GitServer, empty: bool) -> None:
    path = git_server.root / "sha256.git"
    run_git(
        "init", "--quiet", "--bare", "--object-format=sha256", "--initial-branch=main", str(path), cwd=git_server.root
    )
    if not empty:
        run_git("fast-import", "--quiet", cwd=path, stdin=b"commit refs/heads/main\ncommitter a <a> 0 +0000\ndata 0\n")
    async with writer_to(git_server, f"{git_server.https_base}/sha256.git") as writer:
        with pytest.raises(StateStoreNotReady, match="SHA-256"):
            await writer.write([edit({"a": b"1"})], soon())
    shutil.rmtree(path)


async def test_equal_directories_in_a_warm_writer_need_no_second_fetch(git_server: GitServer) -> None:
    """As canary documents are equal in every Destination: changing one must not forget the tree of the others."""
    repository = git_server.create_repository()
    with spy_before(repository.http_url) as spy:
        async with writer_to(git_server, spy.url(repository.http_url)) as writer:
            await version_of(writer, {f"w{n}/dependencies/canary": b"same" for n in range(3)})
            fetches = spy.count("git-upload-pack")
            for n in range(3):
                await version_of(writer, {f"w{n}/dependencies/canary": b"new"}, prune={f"w{n}"})
            assert spy.count("git-upload-pack") == fetches


async def test_a_writer_that_kept_too_much_forgets_it_and_fetches_again(
    git_server: GitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.writers.git.writer.MAX_CACHED_TREES", 2)
    repository = git_server.create_repository()
    with spy_before(repository.http_url) as spy:
        async with writer_to(git_server, spy.url(repository.http_url)) as writer:
            await version_of(writer, {"a/b/c": b"1"})
            fetches = spy.count("git-upload-pack")
            assert not (await version_of(writer, {"a/b/c": b"1"})).changed
            assert spy.count("git-upload-pack") > fetches
