"""Many documents at once: the writers against rclone, s5cmd and git, and against what nobody can be quicker than."""

import asyncio
import contextlib
import functools
import secrets
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
from yarl import URL

from shared.settings import Settings
from tests.benchmarks import command
from tests.benchmarks.harness import NotRun, Round, Side, benchmark
from tests.benchmarks.servers import Servers
from tests.benchmarks.writer_process import WriterProcess, documents, writer_process
from tests.servers.golang import GO_PEERS, build
from tests.servers.process import private_environment
from tests.servers.s3 import Minio
from tests.servers.sigv4 import sign

_OBJECTS: Final = 5000
_AT_ONCE: Final = Settings().bucket_concurrency
_LOOPBACK: Final = ["127.0.0.0/8", "::1/128"]


class _Bucket:
    """A bucket that all sides put the same 5,000 documents into, each round under a prefix of its own."""

    def __init__(self, server: Minio, url: str, folder: Path) -> None:
        self._server = server
        self._url = url
        self._bucket = server.create_bucket()
        self._folder = folder
        self._source = folder / "source"
        self._s5cmd = GO_PEERS["s5cmd"]
        self._source.mkdir(parents=True, exist_ok=True)
        for path, content in documents("source", _OBJECTS, flat=True).items():
            (folder / path).write_bytes(content)
        build(self._s5cmd, print)
        who = server.root
        self._env = private_environment(AWS_ACCESS_KEY_ID=who.access_key, AWS_SECRET_ACCESS_KEY=who.secret_key)

    @property
    def process(self) -> contextlib.AbstractAsyncContextManager[WriterProcess]:
        spec = {"endpoint": self._url.partition("://")[2], "bucketName": self._bucket, "insecure": True}
        store = {"kind": "BucketStateStore", "metadata": {"name": "bulk"}, "spec": spec}
        who = self._server.root
        keys = {"accessKeyID": who.access_key, "secretAccessKey": who.secret_key}
        return writer_process(store, keys, {"allowed_networks": _LOOPBACK})

    async def warm(self, process: WriterProcess) -> Round:
        """One write in a process that has written before."""
        return await self._checked(lambda prefix: process.round(directory=prefix, files=_OBJECTS, flat=True))

    async def whole(self) -> Round:
        """One write, from the start of Python to its end."""

        async def run(prefix: str) -> Round:
            began = time.perf_counter()
            async with self.process as process:
                done = await process.round(directory=prefix, files=_OBJECTS, flat=True)
            return Round(time.perf_counter() - began, done.figures)

        return await self._checked(run)

    async def rclone(self) -> Round:
        binary = Path(sys.executable).with_name("rclone")
        if not binary.is_file():
            raise NotRun("rclone is not beside this Python: install infra/locks/requirements-dev.txt")

        async def run(prefix: str) -> Round:
            remote = f":s3,provider=Minio,env_auth,region=us-east-1,no_check_bucket,endpoint='{self._url}'"
            to = f"{remote}:{self._bucket}/{prefix}"
            workers = ["--transfers", _AT_ONCE, "--checkers", _AT_ONCE]
            line = [binary, "--config", "/dev/null", "copy", self._source, to, *workers]
            return await command.run(line, env=self._env, cwd=self._folder)

        return await self._checked(run)

    async def s5cmd(self) -> Round:
        async def run(prefix: str) -> Round:
            options = ["--log", "error", "--numworkers", _AT_ONCE, "--endpoint-url", self._url]
            line = [self._s5cmd.binary, *options, "cp", f"{self._source}/", f"s3://{self._bucket}/{prefix}/"]
            return await command.run(line, env=self._env, cwd=self._folder)

        return await self._checked(run)

    async def floor(self) -> Round:
        return await self._checked(self._floor)

    async def _floor(self, prefix: str) -> Round:
        """Put with aiohttp alone; everything was signed before."""
        signed = []
        for path, content in documents(prefix, _OBJECTS, flat=True).items():
            url = f"{self._url}/{self._bucket}/{path}"
            signed.append((URL(url, encoded=True), sign("PUT", url, self._server.root, body=content), content))
        left = iter(signed)

        async def work(session: aiohttp.ClientSession) -> None:
            for url, headers, content in left:
                async with session.put(url, headers=headers, data=content) as reply:
                    await reply.read()
                    reply.raise_for_status()

        async with aiohttp.ClientSession(auto_decompress=False, skip_auto_headers={"Content-Type"}) as session:
            cpu, began = time.process_time(), time.perf_counter()
            await asyncio.gather(*(work(session) for _ in range(_AT_ONCE)))
            return Round(time.perf_counter() - began, {"cpu_seconds": time.process_time() - cpu})

    async def _checked(self, run: Callable[[str], Awaitable[Round]]) -> Round:
        prefix = f"round-{secrets.token_hex(6)}"
        done = await run(prefix)
        there = len(self._server.keys(self._bucket, f"{prefix}/"))
        if there != _OBJECTS:
            raise RuntimeError(f"all is said to be done, but the bucket has {there} objects and not {_OBJECTS}")
        return Round(done.seconds, {**done.figures, "puts_per_second": _OBJECTS / done.seconds})


@contextlib.asynccontextmanager
async def _folder(servers: Servers, name: str) -> AsyncIterator[Path]:
    folder = servers.folder / f"{name}-{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


async def _bulk(servers: Servers, *, away: bool) -> AsyncIterator[Sequence[Side]]:
    server = servers.minio
    url = servers.away(server.url).url(server.url) if away else server.url
    async with _folder(servers, "bulk") as folder:
        bucket = await asyncio.to_thread(_Bucket, server, url, folder)
        async with bucket.process as process:
            warm = functools.partial(bucket.warm, process)
            yield [
                Side("ours", warm, role="ours", warm_up=warm),
                Side("rclone", bucket.rclone),
                Side("s5cmd", bucket.s5cmd),
                Side("ours, whole process", bucket.whole),
                Side("aiohttp alone", bucket.floor, role="floor"),
            ]


def _register(name: str, measures: str, *, away: bool, **more: Any) -> None:
    benchmark(name, measures, **more)(functools.partial(_bulk, away=away))


_WORK: Final = f"{_OBJECTS:,} documents of 1 KB into one prefix of a bucket, {_AT_ONCE} at once"
_HOW: Final = (
    "one write in a process that has written before, the documents in memory, listing and comparing included;"
    " rclone copy and s5cmd cp of the same documents from a folder, each as a whole process"
)
_register("bulk-bucket-5000", f"{_WORK}: {_HOW}", away=False, targets={"rclone": 1.0, "s5cmd": 0.75})
_register("bulk-bucket-5000-50ms", f"{_WORK}, 50 ms away: {_HOW}", away=True)
