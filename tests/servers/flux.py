"""Flux's source-controller and kustomize-controller, at work in a cluster that they do not run in."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers import web
from tests.servers.golang import crds, go_binary
from tests.servers.process import ServerProcess, free_port, private_environment, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.kubernetes import KubernetesApi

NAMESPACE = "flux-system"
PROGRAMS = ("source-controller", "kustomize-controller")


@contextlib.contextmanager
def flux(api: KubernetesApi) -> Iterator[dict[str, ServerProcess]]:
    """Install Flux's CRDs and namespace into a cluster and run both controllers as its administrator.

    Args:
        api: the target; what is applied there is applied by Kustomizations' own service accounts, where they name one.
    """
    for program in PROGRAMS:
        api.apply_crds(crds(program))
    api.call("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    with tempfile.TemporaryDirectory(prefix="landfall-flux-") as folder, contextlib.ExitStack() as stack:
        storage, artifacts = Path(folder) / "artifacts", f"127.0.0.1:{free_port()}"
        storage.mkdir()
        served = [f"--storage-path={storage}", f"--storage-addr={artifacts}", f"--storage-adv-addr={artifacts}"]
        arguments = {
            "source-controller": served,
            # How soon it looks again whether a dependency is ready; 30 s unless something is said.
            "kustomize-controller": ["--requeue-dependency=1s"],
        }
        yield {
            program: stack.enter_context(_controller(program, api, Path(folder), arguments[program]))
            for program in PROGRAMS
        }


@contextlib.contextmanager
def _controller(program: str, api: KubernetesApi, directory: Path, arguments: list[str]) -> Iterator[ServerProcess]:
    health = f"127.0.0.1:{free_port()}"
    own = directory / program
    own.mkdir()
    command = [
        go_binary(program),
        "--watch-all-namespaces",
        "--events-addr=",
        "--metrics-addr=0",
        f"--health-addr={health}",
        *arguments,
    ]
    env = private_environment(
        KUBECONFIG=str(api.kubeconfig), RUNTIME_NAMESPACE=NAMESPACE, TMPDIR=str(own), HOME=str(own)
    )

    def ready() -> bool:
        return web.request("GET", f"http://{health}/readyz", timeout=5).status == 200

    with running(program, command, directory=directory, ready=ready, env=env) as process:
        yield process
