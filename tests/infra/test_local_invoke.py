"""`make rie` as a command, and the image of `make sam-local` for where no Docker pulls the real one."""

import asyncio
import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from infra.artifacts import RUNTIME
from infra.local.emulation import base_image
from infra.local.emulation.lambda_python import runtime_client
from infra.local.emulation.situations import SITUATIONS
from infra.local.emulation.stage import KUBECONFIG, Stage
from tests.functions.interpreter import find_python
from tests.infra.conftest import ROOT, SAM
from tests.infra.test_demo import start


@pytest.fixture(scope="module")
def python() -> str:
    return find_python(RUNTIME)


def rie(python: str, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run `make rie`'s command, and return its exit status and what it printed."""
    process = start("rie", "--sam", str(SAM / "sam"), "--python", python, *arguments, **environment)
    out, _ = process.communicate(timeout=150)
    return process.returncode, out


def test_every_function_brings_about_what_it_should_under_the_emulator(python: str, tmp_path: Path) -> None:
    status, out = rie(python, TMPDIR=str(tmp_path))
    assert status == 0, out
    parts = out.split("\n\n")
    for situation, part in zip(SITUATIONS, parts[1:], strict=False):
        event = situation.path.relative_to(ROOT)
        assert part.startswith(f"{situation.function} < {event}\n{json.dumps(situation.answer)}  (after ")
        assert part.splitlines()[2:] == [f"  {line}" for line in situation.becomes or ()]
    assert parts[-1].startswith("Result\nEvery function did what it should.")
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_a_function_can_be_given_another_event(python: str, tmp_path: Path) -> None:
    event = json.loads((ROOT / "events/write-canary/references.json").read_text())
    del event["Records"][1:]
    event["Records"][0]["body"] = '{"kind": "Work"'
    file = tmp_path / "event.json"
    file.write_text(json.dumps(event))
    status, out = rie(python, "--function", "write-canary", "--event", str(file))
    assert status == 0, out
    failure = {"batchItemFailures": [{"itemIdentifier": event["Records"][0]["messageId"]}]}
    assert f"write-canary < {file}\n{json.dumps(failure)}" in out
    assert "status-report" not in out.partition("\n\n")[2]


def test_a_function_can_be_given_servers_by_the_file_that_sam_reads(python: str, tmp_path: Path) -> None:
    async def invoke() -> tuple[int, str]:
        async with Stage(tmp_path) as stage:
            variables = tmp_path / "env.json"
            variables.write_text(json.dumps(stage.environment(str(tmp_path / KUBECONFIG))))
            arguments = ("--function", "status-report", "--env-vars", str(variables))
            status, out = await asyncio.to_thread(rie, python, *arguments)
            (destination,) = stage.objects("destinations")
            assert destination["status"]["conditions"][0]["reason"] == "TestDocumentsWritten"
            return status, out

    status, out = asyncio.run(invoke())
    assert status == 0, out
    assert 'status-report < events/status-report/verdicts.json\n{"batchItemFailures": []}' in out


def test_what_cannot_be_invoked_is_told_and_fails(python: str) -> None:
    status, out = rie(python, "--function", "write-canaries")
    assert status == 1
    assert "- there is no function write-canaries: name one of on-destination-change, write-canary, " in out


@pytest.fixture(scope="module")
def image(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of the stand-in image, unpacked."""
    folder = tmp_path_factory.mktemp("image")
    client = asyncio.run(runtime_client(Path(python)))
    archive = folder / "image.tar"
    command = [python, "-P", base_image.__file__, str(client), str(archive)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with tarfile.open(archive) as tar:
        assert {(entry.uid, entry.gid) for entry in tar} == {(0, 0)}
        tar.extractall(folder / "root", filter="tar")
    return folder / "root"


def inside(image: Path, program: str, *arguments: str) -> str:
    """Run a program of the image with the image's own loader and libraries alone."""
    (loader,) = image.glob("lib*/**/ld-linux*")
    libraries = str(image / "var/lang/lib")
    command = [str(loader), "--inhibit-cache", "--library-path", libraries, str(image / program), *arguments]
    done = subprocess.run(command, env={"LC_ALL": "C"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_image_has_a_python_that_needs_nothing_of_this_machine(image: Path) -> None:
    program = "import awslambdaric.bootstrap, runtime_client, simplejson, ssl, sqlite3, lzma, bz2, zlib, ctypes, sys; "
    paths = inside(image, "var/lang/bin/python3.13", "-I", "-c", program + "print(*sys.path, ssl.__file__)").split()
    assert all(Path(path).is_relative_to(image / "var/lang") for path in paths), paths


def test_wheels_find_the_libraries_that_they_may_rely_on(image: Path) -> None:
    load = "import ctypes, sys; [ctypes.CDLL(name) for name in sys.argv[1:]]; print(open('/proc/self/maps').read())"
    libraries = ("librt.so.1", "libdl.so.2", "libpthread.so.0", "libstdc++.so.6", "libgcc_s.so.1", "libutil.so.1")
    maps = inside(image, "var/lang/bin/python3.13", "-I", "-c", load, *libraries)
    loaded = {line.split()[-1] for line in maps.splitlines() if ".so" in line}
    assert loaded
    assert all(Path(path).is_relative_to(image) for path in loaded), loaded


def test_the_image_has_what_sams_dockerfile_and_the_emulator_call(image: Path, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    inside(image, "bin/mv", str(tmp_path / "a"), str(tmp_path / "b"))
    inside(image, "bin/chmod", "+x", str(tmp_path / "b"))
    assert inside(image, "bin/sh", "-c", "echo shell") == "shell\n"
    bootstrap = image / "var/runtime/bootstrap"
    assert bootstrap.stat().st_mode & 0o111 == 0o111
    assert "-m awslambdaric" in bootstrap.read_text()
    assert all((image / folder).is_dir() for folder in ("var/task", "var/rapid", "opt", "tmp"))


def test_the_image_is_small_and_has_no_packages_of_this_machines_python(image: Path) -> None:
    packages = {path.name for path in (image / "var/lang/lib/python3.13/site-packages").iterdir()}
    assert "awslambdaric" in packages
    assert "pip" not in packages
    assert sum(path.stat().st_size for path in image.rglob("*") if path.is_file()) < 150_000_000
