"""What reaches State Stores, by whom: Kratix's clients and ours call themselves differently."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import aiohttp
from aiohttp import web
from yarl import URL

_HOP: Final = {"connection", "keep-alive", "transfer-encoding", "content-length"}
_LINE: Final = re.compile(r'"(?P<method>[A-Z]+) (?P<path>\S+) [^"]*" \d+ \S+ "[^"]*" "(?P<agent>[^"]*)"$')


class Call(NamedTuple):
    """A request that a State Store got.

    Attributes:
        who: `kratix` or `landfall`.
        method: of HTTP.
        target: path and query.
    """

    who: str
    method: str
    target: str

    @property
    def writes(self) -> bool:
        """Whether it can change something: a push, or anything of S3's but reading."""
        return (
            self.target.endswith("/git-receive-pack") if ".git/" in self.target else self.method not in {"GET", "HEAD"}
        )

    def is_about(self, names: Iterable[str]) -> bool:
        """Whether it is to one of these buckets or repositories."""
        return re.split(r"[/?.]", self.target)[1] in names


def who(agent: str) -> str:
    """Return whose client a User-Agent is."""
    if "landfall" in agent:
        return "landfall"
    assert "minio-go" in agent or agent.startswith("git/"), f"a client that no one knows: {agent!r}"
    return "kratix"


@dataclass
class Recorder:
    """All calls to one MinIO, which is reached through here, and to one Git server, which keeps a log itself."""

    git_log: Path
    url: str = ""
    calls: list[Call] = field(default_factory=list)
    _lines: int = 0

    def mark(self) -> int:
        """Return a moment: what comes from now on is `since` it."""
        self._read_log()
        return len(self.calls)

    def since(self, mark: int, *, until: int | None = None, by: str, to: Iterable[str]) -> list[Call]:
        """Return the calls since a moment that are someone's, to some buckets and repositories."""
        self._read_log()
        names = set(to)
        return [call for call in self.calls[mark:until] if call.who == by and call.is_about(names)]

    def _read_log(self) -> None:
        lines = self.git_log.read_text().splitlines()
        for line in lines[self._lines :]:
            found = _LINE.search(line)
            if found is not None and found["path"] != "/ready":
                self.calls.append(Call(who(found["agent"]), found["method"], found["path"]))
        self._lines = len(lines)


@contextlib.asynccontextmanager
async def recorder(minio: str, git_log: Path) -> AsyncIterator[Recorder]:
    """Stand before a MinIO at a URL, and read a Git server's log."""
    recording = Recorder(git_log)
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def pass_on(request: web.Request) -> web.StreamResponse:
            recording.calls.append(Call(who(request.headers.get("User-Agent", "")), request.method, request.path_qs))
            headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _HOP]
            url = URL(minio + request.raw_path, encoded=True)  # signed as it is spelled
            body = await request.read()
            async with session.request(
                request.method, url, headers=headers, data=body, allow_redirects=False
            ) as answer:
                passed = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
                if request.method == "HEAD":
                    passed["Content-Length"] = answer.headers.get("Content-Length", "0")
                return web.Response(status=answer.status, headers=passed, body=await answer.read())

        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", pass_on)
        runner = web.AppRunner(app, auto_decompress=False)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            recording.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield recording
        finally:
            await asyncio.shield(runner.cleanup())
