"""Makes the functions' artifacts: what the lock names, pruned and with bytecode, and `shared` and the handler.

Runs on the very Python that the functions run on, because bytecode is made for one version; needs nothing but pip.
Lambda's code folder is read-only: modules without bytecode in the artifact would be compiled at every cold start.
"""

import argparse
import compileall
import contextlib
import fcntl
import gzip
import hashlib
import importlib.util
import json
import os
import py_compile
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
LOCK: Final = ROOT / "infra" / "locks" / "requirements.txt"
SETTINGS: Final = ROOT / "infra" / "samconfig.toml"
RUNTIME: Final = (3, 13)  # of template.yaml
MACHINES: Final = {"x86_64": "x86_64", "arm64": "aarch64"}  # Lambda's names, and wheels'
# What Amazon Linux 2023, under the runtime, can load (glibc 2.34), and what older packages call it.
PLATFORMS: Final = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014")

# Of botocore's descriptions of 400 services, those that are called.
SERVICES: Final = ("eks", "s3", "secretsmanager", "sqs", "sts")
# What no function loads, by glob. tests/infra/test_artifacts.py runs every handler without it.
UNUSED: Final = (
    "bin",  # commands and papers that wheels bring along
    "*.md",
    "LICENSE",
    "pyproject.toml",
    "**/tests",
    "**/test",
    "**/*_test.py",
    "*.dist-info/RECORD",  # METADATA stays for scanners of vulnerable packages, licences with it
    "*.dist-info/INSTALLER",
    "*.dist-info/REQUESTED",
    "*.dist-info/entry_points.txt",
    "aws_lambda_powertools/event_handler",
    "aws_lambda_powertools/utilities/data_classes",
    "aws_lambda_powertools/utilities/parser",
    "botocore/data/*/*/examples-1.json",
    "kubernetes_asyncio/client/api",  # generated: see shared/kube/library.py
    "kubernetes_asyncio/client/models/[!_]*.py",
    "pydantic/v1",
)
# What only the Git writer loads, and so only functions that write to State Stores.
GIT: Final = (
    "_cffi_backend*",
    "bcrypt*",
    "cffi*",
    "cryptography*",
    "dulwich*",
    "invoke*",
    "jwt",
    "nacl",
    "paramiko*",
    "pycparser*",
    "pyjwt*",
    "pynacl*",
)
WRITERS: Final = frozenset({"cleanup", "write-canary", "write-documents"})


def functions() -> list[str]:
    """Return the names of all functions, which are those of their folders."""
    return sorted(folder.name for folder in (ROOT / "functions").iterdir() if any(folder.glob("*.py")))


def build(names: list[str], targets: Mapping[str, Path], architecture: str) -> None:
    """Make artifacts.

    Args:
        names: of the functions.
        targets: by function, the folder that becomes its artifact; what is in it goes.
        architecture: `x86_64` or `arm64`, as in the template's parameter.

    Raises:
        SystemExit: infra/samconfig.toml asks for what cannot be deployed with these artifacts, or pip fails.
    """
    _check_settings(architecture)
    dependencies = _staged_dependencies(architecture)
    with tempfile.TemporaryDirectory() as temporary:
        own = Path(temporary) / "own"
        shutil.copytree(ROOT / "shared", own / "shared", ignore=shutil.ignore_patterns("__pycache__"))
        (own / "shared" / "architecture.txt").write_text(MACHINES[architecture])  # shared/__init__.py compares
        _compile(own)
        for name in names:
            target = targets[name]
            shutil.rmtree(target, ignore_errors=True)
            left_out = shutil.ignore_patterns(*(() if name in WRITERS else GIT))
            shutil.copytree(
                dependencies,
                target,
                ignore=lambda folder, entries, out=left_out: (
                    out(folder, entries) if Path(folder) == dependencies else set()
                ),
            )
            shutil.copytree(own / "shared", target / "shared")
            handler = Path(temporary) / name
            shutil.copytree(ROOT / "functions" / name, handler, ignore=shutil.ignore_patterns("__pycache__"))
            _compile(handler)
            shutil.copytree(handler, target, dirs_exist_ok=True)


def sizes(artifact: Path) -> tuple[int, int]:
    """Return the bytes of an artifact as Lambda counts them: zipped, and unpacked."""
    zipped, unpacked = _ZIP_END, 0
    for path in artifact.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            unpacked += len(content)
            zipped += _deflated(hashlib.sha256(content).digest(), content)
            zipped += _ZIP_ENTRY + 2 * len(str(path.relative_to(artifact)).encode())
    return zipped, unpacked


def longest_stack_name() -> int:
    """Return how many characters a stack's name may have: its functions are called `<stack>-<name>`."""
    return _FUNCTION_NAME - 1 - max(map(len, functions()))


def _check_settings(architecture: str) -> None:
    """Refuse at once what CloudFormation or Lambda would refuse later, as far as infra/samconfig.toml says it."""
    deployed: set[str] = set()
    for environment, commands in tomllib.loads(SETTINGS.read_text()).items():
        for command in commands.values() if isinstance(commands, dict) else ():
            given = command.get("parameters", {})
            stack = str(given.get("stack_name", ""))
            if len(stack) > longest_stack_name():
                raise SystemExit(
                    f"stack_name {stack!r} of [{environment}] in {SETTINGS.name} has {len(stack)} characters, and its"
                    f" functions' names would have more than {_FUNCTION_NAME}: use at most {longest_stack_name()}"
                )
            overrides = given.get("parameter_overrides", "")
            words = overrides if isinstance(overrides, list) else shlex.split(overrides)
            deployed.update(word.partition("=")[2] for word in words if word.startswith("Architecture="))
    if deployed and architecture not in deployed:
        wanted = " or ".join(sorted(deployed))
        raise SystemExit(
            f"{SETTINGS.name} deploys Architecture={wanted}, and this build is for {architecture}: set the environment"
            f" variable ARCHITECTURE to {wanted}, or correct the parameter"
        )


_FUNCTION_NAME: Final = 64  # most characters, https://docs.aws.amazon.com/lambda/latest/api/API_CreateFunction.html
_ZIP_ENTRY: Final = 30 + 46  # of a local header and of a central one (APPNOTE 4.3.7, 4.3.12), the file's name in each
_ZIP_END: Final = 22
_known: dict[bytes, int] = {}


def _deflated(digest: bytes, content: bytes) -> int:
    """Return the length of a file in a zip; artifacts have most of their files in common."""
    if digest not in _known:
        deflate = zlib.compressobj(wbits=-15)
        _known[digest] = len(deflate.compress(content)) + len(deflate.flush())
    return _known[digest]


def _staged_dependencies(architecture: str) -> Path:
    """Return a folder with all dependencies, pruned and compiled: made once for a lock, and for this file."""
    key = hashlib.sha256()
    for part in (LOCK.read_bytes(), Path(__file__).read_bytes(), architecture.encode(), importlib.util.MAGIC_NUMBER):
        key.update(hashlib.sha256(part).digest())
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    staged = folder / f"dependencies-{key.hexdigest()[:16]}"
    with _locked(folder / ".lock"):
        if not staged.is_dir():
            with tempfile.TemporaryDirectory(prefix=".dependencies-", dir=folder) as scratch:
                made = Path(scratch) / "made"
                _install(made, architecture)
                _prune(made)
                _compile(made)
                made.replace(staged)
    return staged


def _install(target: Path, architecture: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile"]
    command += ["--disable-pip-version-check", "--root-user-action=ignore"]
    command += ["--require-hashes", "--only-binary=:all:", "--implementation=cp"]
    command += [f"--python-version={RUNTIME[0]}.{RUNTIME[1]}", f"--target={target}", f"--requirement={LOCK}"]
    command += [f"--platform={platform}_{MACHINES[architecture]}" for platform in PLATFORMS]
    if subprocess.run(command, check=False).returncode:  # noqa: S603 -- all of it is ours
        raise SystemExit("the dependencies of infra/locks/requirements.txt could not be installed: pip says why above")


def _prune(folder: Path) -> None:
    for pattern in UNUSED:
        for path in list(folder.glob(pattern)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    data = folder / "botocore" / "data"
    for service in data.iterdir():
        if service.is_dir() and service.name not in SERVICES:
            shutil.rmtree(service)
    # Read at every cold start: a megabyte of JSON for 400 services, and documentation of every operation and shape.
    _rewrite(data / "endpoints.json", _without_other_services)
    for packed in data.rglob("*.json.gz"):
        plain = packed.with_suffix("")
        plain.write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
        _rewrite(plain, _without_documentation)


def _rewrite(path: Path, change: Any) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text())), separators=(",", ":")))


def _without_other_services(endpoints: Any) -> Any:
    for partition in endpoints["partitions"]:
        partition["services"] = {name: spec for name, spec in partition["services"].items() if name in SERVICES}
    return endpoints


def _without_documentation(node: Any) -> Any:
    if isinstance(node, dict):
        # The key stays: it is asked for.
        return {
            key: "" if key == "documentation" and isinstance(value, str) else _without_documentation(value)
            for key, value in node.items()
        }
    return [_without_documentation(value) for value in node] if isinstance(node, list) else node


def _compile(folder: Path) -> None:
    """Compile what is in a folder; bytecode is never compared with its source, and names no folder of this machine."""
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    if not compileall.compile_dir(folder, quiet=1, workers=0, invalidation_mode=mode, stripdir=folder):
        raise SystemExit(f"{folder} does not compile: the compiler says why above")


def cache() -> Path:
    """Return the folder of what is made once, outside the tree so that every checkout shares it."""
    own = os.environ.get("LANDFALL_CACHE")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "landfall"
    return base.expanduser().resolve() / "artifacts"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Run the command: one function for SAM, or all of them with a table of sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", choices=MACHINES, default="x86_64")
    parser.add_argument("--function", choices=functions(), help="only this one; TARGET is its artifact")
    parser.add_argument("target", type=Path, help="folder that gets a folder for each function")
    given = parser.parse_args()
    if sys.version_info[:2] != RUNTIME:
        version = ".".join(map(str, RUNTIME))
        raise SystemExit(f"the functions run on Python {version}, and this is {sys.version.split()[0]}: use {version}")
    if given.function:
        build([given.function], {given.function: given.target}, given.architecture)
        return
    names = functions()
    targets = {name: given.target / name for name in names}
    build(names, targets, given.architecture)
    print(f"{'artifact':24}{'zipped':>10}{'unpacked':>12}")  # noqa: T201 -- this is a command
    for name in names:
        zipped, unpacked = sizes(targets[name])
        print(f"{name:24}{zipped / 1e6:7.1f} MB{unpacked / 1e6:9.1f} MB")  # noqa: T201


if __name__ == "__main__":
    main()
