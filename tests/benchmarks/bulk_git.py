"""A thousand files into a repository of 50,000: the Git writer against the git command, and a ready pack's push."""

import asyncio
import base64
import contextlib
import functools
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.benchmarks import command
from tests.benchmarks.harness import Round, Side, benchmark
from tests.benchmarks.servers import Servers
from tests.benchmarks.writer_process import WriterProcess, documents, writer_process
from tests.servers.debian import system_binary
from tests.servers.git import GitServer
from tests.servers.process import private_environment
from tests.servers.repository import Repository, run_git

_CLUSTERS: Final = 500
_FILES_A_CLUSTER: Final = 100
_FILES: Final = 1000
_LOOPBACK: Final = ["127.0.0.0/8", "::1/128"]

Ready = Callable[[Path], Awaitable[Round]]


class _Git:
    """A repository of 50,000 files in 10,000 directories, brought back to the same commit before each round."""

    def __init__(self, server: GitServer, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self.repository = server.create_repository(empty=True)
        clusters = [f"clusters/c{n:03}/resources" for n in range(_CLUSTERS)]
        files = {path: text for name in clusters for path, text in documents(name, _FILES_A_CLUSTER).items()}
        self._base = self.repository.commit_files(files)
        self.repository.git("repack", "-adq")  # as a host has it, bitmap and all
        basic = base64.b64encode(f"{server.username}:{server.password}".encode()).decode()
        config = {
            "http.extraHeader": f"Authorization: Basic {basic}",
            "user.name": "bench",
            "user.email": "bench@example.test",
            "maintenance.auto": "false",
        }
        self._env = private_environment(
            GIT_SSL_CAINFO=str(server.ca),
            GIT_TERMINAL_PROMPT="0",
            GIT_CONFIG_COUNT=str(len(config)),
            **{f"GIT_CONFIG_KEY_{n}": key for n, key in enumerate(config)},
            **{f"GIT_CONFIG_VALUE_{n}": value for n, value in enumerate(config.values())},
        )

    @property
    def process(self) -> contextlib.AbstractAsyncContextManager[WriterProcess]:
        spec = {"url": self.repository.https_url, "gitAuthor": {"name": "bench", "email": "bench@example.test"}}
        store = {"kind": "GitStateStore", "metadata": {"name": "bulk"}, "spec": spec}
        keys = {"username": self._server.username, "password": self._server.password}
        return writer_process(store, keys, {"allowed_networks": _LOOPBACK, "ca_bundle": str(self._server.ca)})

    async def ours(self, process: WriterProcess) -> Round:
        """Write with a writer that knows nothing of the repository yet."""
        return await self._checked(lambda name: process.round(directory=name, files=_FILES, reopen=True))

    async def warm(self, process: WriterProcess) -> Round:
        """Write with a writer that keeps the trees of its last commit, here one that moved what is measured away."""
        await self._reset()
        await process.ask(directory="clusters/before", files=1, reopen=True)
        return await self._checked(lambda name: process.round(directory=name, files=_FILES), reset=False)

    async def clone(self, *options: str, sparse: bool = False) -> Round:
        """Clone, add, commit and push; the files are written in between, which is not timed."""

        async def run(name: str) -> Round:
            work = self._folder / secrets.token_hex(4)
            clone = ["clone", "--quiet", "--depth=1", *options, self.repository.https_url, work]
            steps = [await self._git(clone, self._folder)]
            if sparse:
                steps.append(await self._git(["sparse-checkout", "set", name], work))
            _write(work, documents(name, _FILES))
            commit = ["commit", "--quiet", "--message=bench"]
            for line in (["add", name], commit, ["push", "--quiet", "origin", "HEAD:main"]):
                steps.append(await self._git(line, work))
            await asyncio.to_thread(shutil.rmtree, work)
            return command.together(steps)

        return await self._checked(run)

    async def push(self) -> Round:
        """Push a commit whose objects are a pack already."""

        async def run(name: str) -> Round:
            work = self._folder / f"{secrets.token_hex(4)}.git"
            run_git("clone", "--quiet", "--bare", "--shared", str(self.repository.path), str(work), cwd=self._folder)
            copy = Repository(work.name, work, "main", "", "", "", "", "")
            await asyncio.to_thread(copy.commit_files, documents(name, _FILES))
            done = await self._git(["push", "--quiet", self.repository.https_url, "main:main"], work)
            await asyncio.to_thread(shutil.rmtree, work)
            return done

        return await self._checked(run)

    async def _git(self, arguments: Sequence[object], cwd: Path) -> Round:
        (self._folder / "outputs").mkdir(exist_ok=True)
        line = [system_binary("git"), "-C", cwd, *arguments]
        return await command.run(line, env=self._env, cwd=self._folder / "outputs")

    async def _reset(self) -> None:
        await asyncio.to_thread(self.repository.move_branch, self._base)

    async def _checked(self, run: Callable[[str], Awaitable[Round]], *, reset: bool = True) -> Round:
        if reset:
            await self._reset()
        name = f"clusters/new-{secrets.token_hex(4)}"
        done = await run(name)
        listed = await asyncio.to_thread(self.repository.git, "ls-tree", "-r", "--name-only", "main", f"{name}/")
        if (there := len(listed.splitlines())) != _FILES:
            raise RuntimeError(f"all is said to be done, but the branch has {there} of the files and not {_FILES}")
        return done


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


@benchmark(
    "bulk-git-1000",
    "1,000 new files of 1 KB into a repository of 50,000 over HTTPS, from knowing nothing of it to the answer to the"
    " push, the files in memory; git's commands clone, add, commit and push, without the time to write the files",
    targets={"git clone --depth=1": 2.5, "git clone --depth=1 --filter=blob:none": 2.5},
    limits={"peak_mb": 200},
)
async def _bulk(servers: Servers) -> AsyncIterator[Sequence[Side]]:
    folder = servers.folder / f"git-{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        git = await asyncio.to_thread(_Git, servers.git, folder)
        async with git.process as fresh, git.process as warm:
            blobless = "--filter=blob:none"
            ours = functools.partial(git.ours, fresh)
            yield [
                Side("ours", ours, role="ours", warm_up=ours),
                Side("ours, trees kept", functools.partial(git.warm, warm), warm_up=functools.partial(git.warm, warm)),
                Side("git clone --depth=1", git.clone),
                # Asks for 50,000 files one batch after the other: many times as slow as the others.
                Side("git clone --depth=1 --filter=blob:none", functools.partial(git.clone, blobless), at_most=3),
                Side("git sparse-checkout", functools.partial(git.clone, blobless, "--sparse", sparse=True)),
                Side("git push of a ready pack", git.push, role="floor"),
            ]
    finally:
        shutil.rmtree(folder)
