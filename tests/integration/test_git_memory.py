"""What repositories can make of a function's memory: packs that inflate, trees that stand for millions, warm writers.

Measured as the peak of a process of its own, within wide bounds that tell bounded from unbounded.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.servers.git import GitServer
from tests.servers.repository import Repository, run_git

ROOT = Path(__file__).parents[2]
MIB = 1024 * 1024
WHO = ("-c", "user.name=x", "-c", "user.email=x@y")

WRITES = """
import asyncio, json, sys
from shared.deadline import Deadline
from shared.errors import LandfallError
from shared.plan import Edit, Written
from shared.resources import GitStateStore, Secret
from shared.settings import Settings
from shared.writers import open_writer
from tests.integration.peak import peak_mebibytes

async def main(told):
    secret = Secret.model_validate({"name": "s", "namespace": "d", "data": told["secret"]})
    def writer(url):
        store = GitStateStore.parse({"kind": "GitStateStore", "metadata": {"name": "x"}, "spec": {"url": url}})
        return open_writer(store, secret, Settings(**told["settings"]))
    async def act(one):
        edit = Edit("e", "e", "mine", files={"mine/x": b"1"}, prune=frozenset(told["prune"]))
        deadline = Deadline.after(told["seconds"])
        try:
            if told["act"] == "write":
                outcome = (await one.write([edit], deadline))["e"]
            else:
                outcome = await one.read_many(["mine/x"], deadline)
        except LandfallError as error:
            outcome = error
        return "written" if isinstance(outcome, Written) else repr(outcome)
    writers = [writer(url) for url in told["urls"]]
    if told["act"] == "write":
        outcomes = await asyncio.gather(*map(act, writers))
    else:
        outcomes = [await act(one) for one in writers]
    peak = peak_mebibytes()
    print(json.dumps({"peak": peak, "outcomes": outcomes}))

asyncio.run(main(json.load(sys.stdin)))
"""


async def run(git_server: GitServer, urls: list[str], *, act: str = "write", **more: Any) -> tuple[int, list[str]]:
    """Let a process use repositories, all at once or one after another; return its peak in MiB and the outcomes."""
    told = {
        "urls": urls,
        "act": act,
        "seconds": more.pop("seconds", 200),
        "prune": more.pop("prune", []),
        "secret": {"username": git_server.username, "password": git_server.password},
        "settings": {"allowed_networks": "127.0.0.0/8 ::1/128", "ca_bundle": str(git_server.ca), **more},
    }

    def work() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", WRITES]
        given = json.dumps(told)
        return subprocess.run(command, cwd=ROOT, input=given, capture_output=True, text=True, check=False, timeout=280)

    done = await asyncio.to_thread(work)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    return answer["peak"], answer["outcomes"]


def commit(repository: Repository, entries: dict[str, tuple[str, str]]) -> None:
    """Commit a tree of objects that are there: by name, each one's type and id."""
    modes = {"blob": "100644", "tree": "040000"}
    lines = "".join(f"{modes[kind]} {kind} {sha}\t{name}\n" for name, (kind, sha) in entries.items())
    tree = run_git("mktree", cwd=repository.path, stdin=lines.encode()).stdout.decode().strip()
    repository.move_branch(repository.git(*WHO, "commit-tree", tree, "-m", "x").strip())
    repository.git("repack", "-a", "-d", "-q")


def put(repository: Repository, content: bytes, kind: str = "blob") -> str:
    command = ("hash-object", "-w", "-t", kind, "--literally", "--stdin")
    return run_git(*command, cwd=repository.path, stdin=content).stdout.decode().strip()


def large(repository: Repository, kind: str, mebibytes: int) -> None:
    """Fill a repository with so much, inflated, of which little is on disk."""
    if kind == "blob":
        commit(repository, {f"b{n}": ("blob", put(repository, bytes([n]) * 16 * MIB)) for n in range(mebibytes // 16)})
        return
    blob = bytes.fromhex(put(repository, b"x"))
    entries = b"".join(b"100644 %07d\0%s" % (n, blob) for n in range(2 * MIB // 35))
    trees = {
        f"d{n:03}": put(repository, entries + b"100644 z%d\0%s" % (n, blob), "tree") for n in range(mebibytes // 2)
    }
    commit(repository, {name: ("tree", sha) for name, sha in trees.items()})


def copies(git_server: GitServer, repository: Repository, count: int) -> list[str]:
    """Return the URLs of so many repositories that hold the same."""
    urls = []
    for number in range(count):
        name = f"{repository.name}-{number}"
        copy = replace(repository, name=name, path=repository.path.with_name(f"{name}.git"))
        shutil.copytree(repository.path, copy.path)
        urls.append(repository.https_url.replace(repository.name, name))
    return urls


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["blob", "tree"])
async def test_six_repositories_that_inflate_to_240_mebibytes_take_turns(git_server: GitServer, kind: str) -> None:
    repository = git_server.create_repository(allow_filter=kind == "tree")
    large(repository, kind, 240)
    assert sum(path.stat().st_size for path in repository.path.rglob("*.pack")) < 3 * MIB
    peak, outcomes = await run(git_server, copies(git_server, repository, 6))
    assert outcomes == ["written"] * 6
    assert peak < 512


@pytest.mark.timeout(300)
@pytest.mark.parametrize("leaves", ["files", "nothing"])
async def test_twelve_trees_that_stand_for_millions_of_paths_get_a_sentence(git_server: GitServer, leaves: str) -> None:
    repository = git_server.create_repository(empty=True)
    kind, sha = ("blob", put(repository, b"x")) if leaves == "files" else ("tree", put(repository, b"", "tree"))
    for _ in range(11):
        lines = "".join(f"{'100644' if kind == 'blob' else '040000'} {kind} {sha}\t{n}\n" for n in range(10))
        kind, sha = "tree", run_git("mktree", cwd=repository.path, stdin=lines.encode()).stdout.decode().strip()
    commit(repository, {"mine": (kind, sha)})
    peak, outcomes = await run(git_server, [repository.https_url], prune=["mine"], seconds=60)
    (outcome,) = outcomes
    assert outcome.startswith("TooLarge")
    assert "'mine' holds over 200000 files" in outcome
    assert peak < 256


@pytest.mark.timeout(300)
async def test_what_warm_writers_keep_is_bounded_for_all_of_them_together(git_server: GitServer) -> None:
    repository = git_server.create_repository()
    large(repository, "tree", 28)
    peak, outcomes = await run(git_server, [repository.https_url] * 16, act="read")
    assert outcomes == ["{}"] * 16
    assert peak < 300  # sixteen times 28 MiB would be more


@pytest.mark.timeout(300)
async def test_a_pack_over_the_functions_memory_is_refused_with_what_to_raise(git_server: GitServer) -> None:
    repository = git_server.create_repository()
    large(repository, "tree", 28)
    peak, outcomes = await run(git_server, [repository.https_url], memory_bytes=8 * MIB)
    (outcome,) = outcomes
    assert outcome.startswith("TooLarge")
    assert "LANDFALL_MEMORY_BYTES" in outcome
    incompressible = git_server.create_repository(allow_filter=False)
    incompressible.commit_files({"x": os.urandom(12 * MIB)})
    peak, outcomes = await run(git_server, [incompressible.https_url], memory_bytes=8 * MIB)
    assert "LANDFALL_MEMORY_BYTES" in outcomes[0]
    assert peak < 200
