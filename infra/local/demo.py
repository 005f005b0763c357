"""The demo: embedded servers, the reference example's manifests and their twin on Git, and what became of them."""

import asyncio
import shutil
import string
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml

from infra.local.describe import condition_line, describe, file_list, named
from infra.local.embedded.git import GitServer
from infra.local.embedded.kubernetes.api import KubernetesApi
from infra.local.embedded.s3 import S3Server
from infra.local.kubernetes_access import ClusterAccess
from infra.local.progress import Progress
from infra.local.runtime import LocalRuntime
from infra.local.template import ROOT
from infra.local.workers import FunctionFailed

_CRDS: Final = ROOT / "infra/kubernetes/crds"
_MANIFESTS: Final = Path(__file__).with_name("manifests")
_BUCKET: Final = "kratix"
_REPOSITORY: Final = "kratix.git"
_READY_SECONDS: Final = 60.0
_FAILURES: Final = 2  # invocations without an answer; here none should be, and more waiting mends nothing
_READY_LINE: Final = "Ready True TestDocumentsWritten Test documents written to State Store"
_WRITTEN_LINE: Final = "Ready True WorkloadsWrittenToTargetDestination Ready"
_SCHEDULED_LINE: Final = "Ready True AllWorkplacementsScheduled Ready"
_NEXT: Final = (
    "docs/agents.md      let an agent on the target apply these files\n"
    "make run            the same with your own cluster and State Stores\n"
    "docs/deployment.md  deploy it to AWS"
)
_LOG_LINES: Final = 20

# What must be so in the end: by plural and name, the line of Ready.
_WORKS: Final[Mapping[tuple[str, str], str]] = {
    ("works", "redis"): _SCHEDULED_LINE,
    ("works", "redis-mine"): _SCHEDULED_LINE,
    ("workplacements", "redis.worker-1-5058f"): _WRITTEN_LINE,
    ("workplacements", "redis.worker-1-git-5058f"): _WRITTEN_LINE,
    ("workplacements", "redis-mine.worker-1-git-5058f"): _WRITTEN_LINE,
}

# Written down here once more, so that the demo does not check the functions' work by the functions' own words.
_EXPECTED: Final[Mapping[str, str]] = {
    "destinations/dev/dependencies/kratix-canary-namespace.yaml": """\
apiVersion: v1
kind: Namespace
metadata:
  name: kratix-worker-system
spec: {}
status: {}
""",
    "destinations/dev/resources/kratix-canary-configmap.yaml": """\
apiVersion: v1
data:
  canary: this confirms your infrastructure is reading from Kratix state stores
kind: ConfigMap
metadata:
  name: kratix-info
  namespace: kratix-worker-system
""",
    "destinations/dev/dependencies/redis/5058f/namespace.yaml": """\
apiVersion: v1
kind: Namespace
metadata:
  name: redis
""",
}
_EXPECTED_IN_GIT: Final[Mapping[str, str]] = {  # the Destination that redis-mine was placed at
    "destinations/dev/resources/default/redis/mine/instance-configure/5058f/mine.yaml": """\
apiVersion: v1
kind: ConfigMap
metadata:
  name: mine
  namespace: redis
data:
  size: small
""",
}


class Demo:
    """One run of the demo."""

    def __init__(self, progress: Progress, *, keep: bool, verbose: bool) -> None:
        self._progress = progress
        self._keep = keep
        self._folder = Path(tempfile.mkdtemp(prefix="landfall-demo-"))
        self._kubernetes = KubernetesApi(_CRDS)
        self._s3 = S3Server(self._folder / "s3")
        self._git = GitServer(self._folder / "git")
        self._repository_url = ""
        self._verbose = verbose
        self._stack = AsyncExitStack()

    async def run(self) -> bool:
        """Run it, and return whether everything is as it should be.

        Raises:
            RuntimeError: one of the servers cannot be started.
            FunctionFailed: one of the functions cannot be started.
        """
        async with self._stack:
            self._stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            runtime = await self._start()
            destinations = await self._apply()
            complaints = await self._wait(destinations, runtime)
            await self._show(destinations)
            complaints += await self._check_files()
            await self._conclude(destinations, complaints, runtime)
            if self._keep and not complaints:
                self._say_how_to_reach_it()
                await asyncio.Event().wait()
            return not complaints

    async def _start(self) -> LocalRuntime:
        kubeconfig = self._folder / "kubeconfig"
        with self._progress.waiting("starting the embedded servers"):
            async with asyncio.TaskGroup() as group:
                group.create_task(self._start_kubernetes(kubeconfig))
                group.create_task(self._start_s3())
                group.create_task(self._start_git())
        access = await self._stack.enter_async_context(ClusterAccess(self._kubernetes.url))
        environment = {
            "LANDFALL_KUBECONFIG": str(kubeconfig),
            "LANDFALL_ALLOWED_NETWORKS": "127.0.0.0/8,::1/128",  # this demo's stores are on this machine
            "LANDFALL_ALLOW_PLAIN_HTTP_GIT": "true",
        }
        runtime = LocalRuntime(
            kubeconfig=kubeconfig,
            access=access,
            environment=environment,
            log_path=self._folder / "functions.log",
            verbose=self._verbose,
        )
        with self._progress.waiting("starting the functions"):
            await self._stack.enter_async_context(runtime)
        self._progress.step("Functions", ", ".join(runtime.functions))
        return runtime

    async def _start_kubernetes(self, kubeconfig: Path) -> None:
        await self._kubernetes.start()
        self._stack.push_async_callback(self._kubernetes.stop)
        self._kubernetes.write_kubeconfig(kubeconfig)
        self._progress.step("Kubernetes API", "embedded, in memory")

    async def _start_s3(self) -> None:
        self._s3.create_bucket(_BUCKET)
        self._stack.push_async_callback(self._s3.stop)
        await self._s3.start()
        self._progress.step("S3 server", f"embedded, http://{self._s3.endpoint}, bucket {_BUCKET}")

    async def _start_git(self) -> None:
        await self._git.start()
        self._stack.push_async_callback(self._git.stop)
        self._repository_url = await self._git.create_repository(_REPOSITORY)
        self._progress.step("Git server", f"embedded, {self._repository_url}")

    async def _apply(self) -> list[str]:
        """Create the manifests' objects, and return the Destinations' names."""
        values = {
            "S3_ENDPOINT": self._s3.endpoint,
            "S3_ACCESS_KEY": self._s3.access_key,
            "S3_SECRET_KEY": self._s3.secret_key,
            "GIT_URL": self._repository_url,
            "GIT_USERNAME": self._git.username,
            "GIT_PASSWORD": self._git.password,
        }
        destinations = []
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            for file in sorted(_MANIFESTS.glob("*.yaml")):
                text = string.Template(file.read_text()).substitute(values)
                objects = list(yaml.safe_load_all(text))
                for obj in objects:
                    await session.post(self._url(obj), json=obj)
                destinations += [obj["metadata"]["name"] for obj in objects if obj["kind"] == "Destination"]
                self._progress.step("Applied", f"{file.name}: {', '.join(map(named, objects))}")
        return destinations

    def _url(self, obj: Mapping[str, Any]) -> str:
        group, _, version = obj["apiVersion"].rpartition("/")
        root = f"{self._kubernetes.url}/{f'apis/{group}' if group else 'api'}/{version}"
        namespace = obj["metadata"].get("namespace")
        return f"{root}{f'/namespaces/{namespace}' if namespace else ''}/{obj['kind'].lower()}s"

    async def _wait(self, destinations: list[str], runtime: LocalRuntime) -> list[str]:
        """Wait until all are Ready, and return complaints about those that are not."""
        began = self._progress.seconds
        waiting = {**{("destinations", name): _READY_LINE for name in destinations}, **_WORKS}
        with self._progress.waiting("waiting for Ready"):
            try:
                async with asyncio.timeout(_READY_SECONDS):
                    while waiting and all(pool.failures < _FAILURES for pool in runtime.functions.values()):
                        for key, line in list(waiting.items()):
                            obj = self._object(*key)
                            if obj is not None and condition_line(obj) == line:
                                self._progress.step("Ready", named(obj))
                                del waiting[key]
                        await asyncio.sleep(0.02)
            except TimeoutError:
                pass
        return [
            f"{plural}/{name} is not Ready after {self._progress.seconds - began:.0f} s: {self._line(plural, name)}"
            for plural, name in waiting
        ]

    def _object(self, plural: str, name: str) -> dict[str, Any] | None:
        kind = self._kubernetes.kind(plural)
        found = self._kubernetes.store.list(kind, "default" if kind.namespaced else "")
        return next((obj for obj in found if obj["metadata"]["name"] == name), None)

    def _destination(self, name: str) -> dict[str, Any]:
        return self._kubernetes.store.get(self._kubernetes.kind("destinations"), "", name)

    def _line(self, plural: str, name: str) -> str:
        obj = self._object(plural, name)
        return "it does not exist" if obj is None else condition_line(obj)

    async def _show(self, destinations: list[str]) -> None:
        await self._wait_for_events(destinations)
        for name in destinations:
            self._progress.heading(f"$ kubectl describe destinations.platform.kratix.io {name}")
            self._progress.lines(describe(self._destination(name), self._events(name)))
        self._progress.heading(f"Files in the bucket {_BUCKET}")
        self._progress.lines(file_list(self._s3.files(_BUCKET)))
        self._progress.heading("Files in the Git repository, branch main")
        try:
            listed = await self._git.git(_REPOSITORY, "ls-tree", "-r", "--name-only", "main")
            self._progress.lines(file_list(listed.splitlines()))
            self._progress.heading("$ git log --stat main")
            self._progress.lines(await self._git.git(_REPOSITORY, "log", "--stat=120", "main"))
        except RuntimeError as error:
            self._progress.lines(f"  {error}")

    def _events(self, name: str) -> list[dict[str, Any]]:
        events = self._kubernetes.store.list(self._kubernetes.kind("events"), "")
        return [event for event in events if event["involvedObject"]["name"] == name]

    async def _wait_for_events(self, destinations: list[str]) -> None:
        """Give the Events, which follow their conditions, a moment."""
        for _ in range(500):
            if all(self._events(name) for name in destinations):
                return
            await asyncio.sleep(0.02)

    async def _check_files(self) -> list[str]:
        """Return complaints about what the two stores hold, read without the functions' own code."""
        in_bucket = self._s3.files(_BUCKET)
        complaints = [f"the bucket has {path}, too" for path in _EXPECTED_IN_GIT if path in in_bucket]
        for path, content in _EXPECTED.items():
            if in_bucket.get(path) != content.encode():
                complaints.append(f"the bucket's {path} is not as it should be: {in_bucket.get(path)!r}")
        return complaints + await self._check_repository({**_EXPECTED, **_EXPECTED_IN_GIT}.items())

    async def _check_repository(self, expected: Iterable[tuple[str, str]]) -> list[str]:
        complaints = []
        for path, content in expected:
            try:
                found = await self._git.git(_REPOSITORY, "show", f"main:{path}")
            except RuntimeError as error:
                found = str(error)
            if found != content:
                complaints.append(f"the repository's {path} is not as it should be: {found!r}")
        return complaints

    async def _conclude(self, destinations: list[str], complaints: list[str], runtime: LocalRuntime) -> None:
        self._progress.heading("Result")
        for name in destinations:
            line = condition_line(self._destination(name))
            self._progress.lines(f"Destination/{name:<32} {line}", style="green" if line == _READY_LINE else "red")
        for (plural, name), wanted in _WORKS.items():
            line = self._line(plural, name)
            what = {"works": "Work", "workplacements": "WorkPlacement"}[plural]
            self._progress.lines(f"{what + '/' + name:<44} {line}", style="green" if line == wanted else "red")
        self._progress.lines(f"That took {self._progress.seconds:.1f} s.")
        if complaints:
            self._progress.failure("\n".join(["", "The demo failed:", *(f"- {complaint}" for complaint in complaints)]))
            self._progress.failure("\n".join(["", "The functions' last words:", *runtime.log.tail(_LOG_LINES)]))
        else:
            self._progress.heading("What comes next")
            self._progress.lines(_NEXT)

    def _say_how_to_reach_it(self) -> None:
        kubeconfig = self._folder / "kubeconfig"
        credentials = f"{self._git.username}:{self._git.password}"
        self._progress.heading("It stays up until Ctrl-C")
        self._progress.lines(
            f"export KUBECONFIG={kubeconfig} LANDFALL_ALLOW_PLAIN_HTTP_GIT=true PYTHONPATH={ROOT}\n"
            f"alias landfall='{sys.executable} -m infra.cli'    docs/console.md shows what to try\n"
            "kubectl get destinations\n"
            "kubectl describe destination worker-1\n"
            "kubectl apply --validate=false -f <your Destination>.yaml\n"
            f"git clone {self._repository_url.replace('http://', f'http://{credentials}@')}\n"
            f"S3: endpoint http://{self._s3.endpoint}, bucket {_BUCKET}, path style,"
            f" access key {self._s3.access_key}, secret key {self._s3.secret_key}\n"
            f"functions' log: {self._folder / 'functions.log'}"
        )


async def run_demo(*, keep: bool, verbose: bool) -> int:
    """Run the demo, and return the exit status: 0 only if all is Ready and all files are there."""
    progress = Progress()
    words = "two Destinations become Ready, one on a bucket and one on Git, and take the documents of two Works"
    progress.lines(f"Landfall demo: {words}.", style="bold")
    try:
        return 0 if await Demo(progress, keep=keep, verbose=verbose).run() else 1
    except* (RuntimeError, FunctionFailed, OSError) as errors:
        for error in errors.exceptions:
            progress.failure(f"The demo failed: {error}")
    return 1
