"""What the Containerfile says, done without a container engine: the same install, the same entry, nothing besides."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.process import private_environment

ROOT = Path(__file__).parents[2]
CONTAINERFILE = ROOT / "infra" / "forwarder" / "Containerfile"


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", "", re.sub(r"^#.*\n", "", CONTAINERFILE.read_text(), flags=re.MULTILINE))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's /packages, made by its own COPY and RUN lines with the interpreter of these tests."""
    folder = tmp_path_factory.mktemp("image")
    packages = folder / "packages"
    # As the image has it: an interpreter of its own, without anything installed.
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    path = f"{folder / 'venv' / 'bin'}:/usr/bin:/bin"
    for word, rest in instructions()[1:]:
        if word == "FROM":
            break
        rest = rest.replace("/packages", str(packages))
        if word == "COPY":
            source, target = rest.split()
            into = folder / target
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, into, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, into / Path(source).name if target == "." else into)
        elif word == "RUN":
            environment = private_environment(PATH=path, PYTHONDONTWRITEBYTECODE="")
            subprocess.run(["/bin/sh", "-ec", rest], cwd=folder, check=True, env=environment, timeout=240)
        else:
            raise AssertionError(f"this test does not know {word}")
    return packages


def test_the_image_starts_with_what_is_in_it_and_nothing_else(packages: Path, tmp_path: Path) -> None:
    python = packages.parent / "venv" / "bin" / "python"
    entry = json.loads(next(rest for word, rest in instructions() if word == "ENTRYPOINT"))
    variables = next(rest for word, rest in instructions() if word == "ENV")
    environment = dict(pair.split("=") for pair in shlex.split(variables))
    environment["PYTHONPATH"] = str(packages)
    before = {path for path in packages.rglob("*") if path.is_file()}
    command = [str(python), *entry[1:]]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert "LANDFALL_TARGET is ''" in done.stderr
    loaded = "import infra.forwarder.watching, sys; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([str(python), "-c", loaded], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert {"infra", "kopf", "aiobotocore"} <= set(done.stdout.split())
    assert "shared" not in done.stdout.split()
    assert {path for path in packages.rglob("*") if path.is_file()} == before, "its file system is read-only"


def test_the_image_runs_as_nobody_and_holds_only_what_it_uses(packages: Path) -> None:
    assert ("USER", "65532:65532") in instructions()
    services = {path.name for path in (packages / "botocore" / "data").iterdir() if path.is_dir()}
    assert services == {"events", "sns", "sqs", "sts"}
    megabytes = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file()) / 2**20
    print(f"{megabytes:.0f} MB")
    assert megabytes < 60
