"""The demo: embedded servers, the reference example's manifests and their twin on Git, and what became of them."""

import asyncio
import shutil
import string
import tempfile
from collections.abc import Mapping
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
_LOG_LINES: Final = 20

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
        waiting = dict.fromkeys(destinations)
        with self._progress.waiting("waiting for Ready"):
            try:
                async with asyncio.timeout(_READY_SECONDS):
                    while waiting and all(pool.failures < _FAILURES for pool in runtime.functions.values()):
                        for name in list(waiting):
                            if condition_line(self._destination(name)) == _READY_LINE:
                                self._progress.step("Ready", f"Destination/{name}")
                                del waiting[name]
                        await asyncio.sleep(0.02)
            except TimeoutError:
                pass
        return [
            f"Destination/{name} is not Ready after {self._progress.seconds - began:.0f} s:"
            f" {condition_line(self._destination(name))}"
            for name in waiting
        ]

    def _destination(self, name: str) -> dict[str, Any]:
        return self._kubernetes.store.get(self._kubernetes.kind("destinations"), "", name)

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
            self._progress.heading("$ git log -1 --stat main")
            self._progress.lines(await self._git.git(_REPOSITORY, "log", "-1", "--stat=120", "main"))
        except RuntimeError as error:
            self._progress.lines(f"  {error}")

    def _events(self, name: str) -> list[dict[str, Any]]:
        events = self._kubernetes.store.list(self._kubernetes.kind("events"), "")
        return [event for event in events if event["involvedObject"]["name"] == name]

    async def _wait_for_events(self, destinations: list[str]) -> None:
        """Give the Events, which follow their conditions, a moment."""
        for _ in range(100):
            if all(self._events(name) for name in destinations):
                return
            await asyncio.sleep(0.02)

    async def _check_files(self) -> list[str]:
        """Return complaints about what the two stores hold, read without the functions' own code."""
        complaints = []
        in_bucket = self._s3.files(_BUCKET)
        for path, content in _EXPECTED.items():
            if in_bucket.get(path) != content.encode():
                complaints.append(f"the bucket's {path} is not as it should be: {in_bucket.get(path)!r}")
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
            self._progress.lines(f"Destination/{name:<14} {line}", style="green" if line == _READY_LINE else "red")
        self._progress.lines(f"That took {self._progress.seconds:.1f} s.")
        if complaints:
            self._progress.failure("\n".join(["", "The demo failed:", *(f"- {complaint}" for complaint in complaints)]))
            self._progress.failure("\n".join(["", "The functions' last words:", *runtime.log.tail(_LOG_LINES)]))

    def _say_how_to_reach_it(self) -> None:
        kubeconfig = self._folder / "kubeconfig"
        credentials = f"{self._git.username}:{self._git.password}"
        self._progress.heading("It stays up until Ctrl-C")
        self._progress.lines(
            f"export KUBECONFIG={kubeconfig}\n"
            "kubectl get destinations\n"
            "kubectl describe destination worker-1\n"
            "kubectl apply --validate=false -f <your Destination>.yaml\n"
            f"git clone {self._repository_url.replace('http://', f'http://{credentials}@')}\n"
            f"S3: endpoint http://{self._s3.endpoint}, bucket {_BUCKET}, path style,"
            f" access key {self._s3.access_key}, secret key {self._s3.secret_key}\n"
            f"functions' log: {self._folder / 'functions.log'}"
        )


async def run_demo(*, keep: bool, verbose: bool) -> int:
    """Run the demo, and return the exit status: 0 only if both Destinations are Ready and their files are there."""
    progress = Progress()
    progress.lines("Landfall demo: two Destinations become Ready, one on a bucket and one on Git.", style="bold")
    try:
        return 0 if await Demo(progress, keep=keep, verbose=verbose).run() else 1
    except* (RuntimeError, FunctionFailed, OSError) as errors:
        for error in errors.exceptions:
            progress.failure(f"The demo failed: {error}")
    return 1
