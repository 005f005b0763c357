"""The embedded S3 and Git servers do what their clients expect, and know nobody but themselves."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import ClientError

from infra.local.embedded.git import GitServer
from infra.local.embedded.s3 import S3Server


@pytest_asyncio.fixture
async def s3(tmp_path: Path) -> AsyncIterator[S3Server]:
    server = S3Server(tmp_path / "s3")
    server.create_bucket("kratix")
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture
async def git(tmp_path: Path) -> AsyncIterator[GitServer]:
    server = GitServer(tmp_path / "git")
    await server.start()
    yield server
    await server.stop()


async def put(server: S3Server, secret_key: str) -> None:
    config = AioConfig(s3={"addressing_style": "path"}, retries={"max_attempts": 0})
    context = get_session().create_client(
        "s3",
        endpoint_url=f"http://{server.endpoint}",
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=secret_key,
        config=config,
    )
    async with context as client:
        await client.put_object(Bucket="kratix", Key="a/b.yaml", Body=b"content")


async def test_what_is_put_into_the_bucket_lies_in_its_folder(s3: S3Server) -> None:
    await put(s3, s3.secret_key)
    assert s3.files("kratix") == {"a/b.yaml": b"content"}


async def test_the_bucket_refuses_another_secret_key(s3: S3Server) -> None:
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        await put(s3, "another")
    assert s3.files("kratix") == {}


async def run(folder: Path, *command: str) -> tuple[int, str]:
    environment = os.environ | {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    process = await asyncio.create_subprocess_exec(
        "git", *command, cwd=folder, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


@pytest.mark.parametrize(
    "size", [pytest.param(100, id="a small pack"), pytest.param(3_000_000, id="a pack sent in chunks")]
)
async def test_a_push_arrives_and_a_clone_brings_it_back(git: GitServer, tmp_path: Path, size: int) -> None:
    url = await git.create_repository("kratix.git")
    url = url.replace("http://", f"http://{git.username}:{git.password}@")
    work = tmp_path / "work"
    work.mkdir()
    content = os.urandom(size)
    assert (await run(work, "init", "-q", "-b", "main"))[0] == 0
    (work / "file").write_bytes(content)
    for command in (("add", "file"), ("commit", "-q", "-m", "first"), ("push", "-q", url, "main")):
        status, out = await run(work, *command)
        assert status == 0, out
    assert (await git.git("kratix.git", "log", "--format=%s", "main")).strip() == "first"
    status, out = await run(tmp_path, "clone", "-q", "--depth=1", "--filter=blob:none", url, "clone")
    assert status == 0, out
    assert (tmp_path / "clone/file").read_bytes() == content


@pytest.mark.parametrize("who", ["", "demo:wrong@", "other:{password}@"])
async def test_who_is_not_known_may_neither_read_nor_write(git: GitServer, tmp_path: Path, who: str) -> None:
    url = (await git.create_repository("kratix.git")).replace("http://", f"http://{who.format(password=git.password)}")
    status, out = await run(tmp_path, "ls-remote", url)
    assert status != 0
    assert "Authentication failed" in out or "could not read" in out
    async with aiohttp.ClientSession() as session:
        for service in ("git-upload-pack", "git-receive-pack"):
            async with session.get(f"{git.url}/kratix.git/info/refs?service={service}") as answer:
                assert answer.status == 401
