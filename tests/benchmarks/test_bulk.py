"""The parts of the bulk benchmarks that their figures stand on."""

import os
import sys
from pathlib import Path

import pytest

from tests.benchmarks import command
from tests.benchmarks.harness import Round
from tests.benchmarks.writer_process import documents, writer_process
from tests.contract.harness import BucketStore
from tests.servers.s3 import Minio


@pytest.mark.parametrize("flat", [True, False])
def test_documents_are_of_one_kilobyte_and_no_two_are_alike(flat: bool) -> None:
    made = documents("round-1/a", 12, flat=flat)
    assert {len(content) for content in made.values()} == {1000}
    assert len(set(made.values())) == 12
    assert len({path.rpartition("/")[0] for path in made}) == (1 if flat else 3)
    assert not set(made.values()) & set(documents("round-2/a", 12, flat=flat).values())


async def test_a_command_is_measured_by_itself(tmp_path: Path) -> None:
    busy = (
        "import time; held = bytearray(60_000_000); end = time.process_time() + 0.3\nwhile time.process_time() < end: 0"
    )
    done = await command.run([sys.executable, "-c", busy], env=os.environ, cwd=tmp_path)
    assert done.seconds >= done.figures["cpu_seconds"] * 0.5 > 0.1
    assert 60 < done.figures["peak_mb"] < 90


async def test_a_command_that_fails_says_what_it_printed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"ended with 3: no such bucket"):
        line = [sys.executable, "-c", "import sys; print('no such bucket'); sys.exit(3)"]
        await command.run(line, env=os.environ, cwd=tmp_path)


def test_commands_in_a_row_add_up_but_for_their_memory() -> None:
    steps = [Round(1.0, {"cpu_seconds": 0.5, "peak_mb": 9.0}), Round(2.0, {"cpu_seconds": 0.25, "peak_mb": 4.0})]
    assert command.together(steps) == Round(3.0, {"cpu_seconds": 0.75, "peak_mb": 9.0})


async def test_the_writers_process_writes_what_it_is_told_and_is_measured(minio: Minio) -> None:
    store = BucketStore(minio)
    spec = {"endpoint": minio.endpoint, "bucketName": store.bucket, "insecure": True}
    keys = {"accessKeyID": minio.root.access_key, "secretAccessKey": minio.root.secret_key}
    manifest = {"kind": "BucketStateStore", "metadata": {"name": "bulk"}, "spec": spec}
    async with writer_process(manifest, keys, {"allowed_networks": ["127.0.0.0/8"]}) as process:
        for name, reopen in (("one", False), ("two", True)):
            done = await process.round(directory=name, files=7, reopen=reopen)
            assert done.seconds > 0
            assert 20 < done.figures["peak_mb"] < 200
    assert store.files() == documents("one", 7) | documents("two", 7)
