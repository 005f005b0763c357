"""The embedded Git server: git's own `git http-backend` (CGI, RFC 3875) behind HTTP with basic auth."""

import asyncio
import base64
import contextlib
import hmac
import os
import secrets
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Final

from aiohttp import web

_CHUNK: Final = 64 * 1024
_ENVIRONMENT: Final = {
    **{name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ},
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
}


class GitServer:
    """Serves bare repositories of a folder over HTTP on a loopback port.

    Attributes:
        folder: where the repositories are.
        username, password: the one identity that it knows.
        url: `http://host:port`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.username = "demo"
        self.password = secrets.token_hex(16)
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def create_repository(self, name: str) -> str:
        """Create an empty bare repository that may be written to, and return its URL."""
        path = self.folder / name
        path.mkdir(parents=True)
        await self.git(name, "init", "--quiet", "--bare", "--initial-branch=main")
        for setting in ("http.receivepack", "uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant"):
            await self.git(name, "config", setting, "true")
        return f"{self.url}/{name}"

    async def git(self, repository: str, *arguments: str) -> str:
        """Run git in a repository, and return what it prints.

        Raises:
            RuntimeError: it failed; the sentence has its words.
        """
        process = await asyncio.create_subprocess_exec(
            "git", *arguments, cwd=self.folder / repository, env=_ENVIRONMENT, stdout=PIPE, stderr=PIPE
        )
        out, err = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"git {arguments[0]} failed: {err.decode(errors='replace').strip()}")
        return out.decode(errors="replace")

    async def start(self) -> None:
        """Listen on a free port."""
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        # git undoes a request's gzip itself.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1, auto_decompress=False)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if not self._known(request.headers.get("Authorization", "")):
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="Landfall demo"'})
        process = await asyncio.create_subprocess_exec(
            "git", "http-backend", stdin=PIPE, stdout=PIPE, env=_ENVIRONMENT | self._variables(request)
        )
        feeding = asyncio.create_task(_feed(request, process))
        try:
            return await _answer(request, process)
        finally:
            feeding.cancel()
            if process.returncode is None:
                process.kill()
                await process.wait()

    def _known(self, authorization: str) -> bool:
        expected = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        return hmac.compare_digest(authorization.encode(), f"Basic {expected}".encode())

    def _variables(self, request: web.Request) -> dict[str, str]:
        variables = {
            "GIT_PROJECT_ROOT": str(self.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": request.path,
            "QUERY_STRING": request.query_string,
            "REQUEST_METHOD": request.method,
            "REMOTE_USER": self.username,
            "REMOTE_ADDR": request.remote or "",
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
        }
        if request.content_length is not None:
            variables["CONTENT_LENGTH"] = str(request.content_length)
        for header in ("Content-Encoding", "Git-Protocol"):
            if header in request.headers:
                variables["HTTP_" + header.upper().replace("-", "_")] = request.headers[header]
        return variables


async def _feed(request: web.Request, process: Process) -> None:
    if process.stdin is None:
        return
    try:
        async for chunk in request.content.iter_chunked(_CHUNK):
            process.stdin.write(chunk)
            await process.stdin.drain()
    except ConnectionError:
        pass  # it has read what it wanted
    finally:
        process.stdin.close()


async def _answer(request: web.Request, process: Process) -> web.StreamResponse:
    if process.stdout is None:
        raise web.HTTPBadGateway
    response = web.StreamResponse()
    while line := (await process.stdout.readline()).decode().rstrip("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == "status":
            response.set_status(int(value.split()[0]))
        else:
            response.headers[name] = value.strip()
    gone = False  # a client may hang up as soon as it has read what matters to it; git still ends its work
    try:
        await response.prepare(request)
    except ConnectionError:
        gone = True
    while chunk := await process.stdout.read(_CHUNK):
        try:
            if not gone:
                await response.write(chunk)
        except ConnectionError:
            gone = True
    await process.wait()
    with contextlib.suppress(ConnectionError):
        await response.write_eof()
    return response
