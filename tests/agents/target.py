"""The target cluster's administrator: applies what docs/agents.md says, and looks at what arrives."""

import subprocess
from collections.abc import Mapping
from typing import Any

from tests.servers.kubernetes import KubernetesApi
from tests.servers.process import private_environment

SOURCES = "/apis/source.toolkit.fluxcd.io/v1/namespaces/flux-system"
KUSTOMIZATIONS = "/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/flux-system/kustomizations"


class Target:
    """A cluster that an agent reconciles."""

    def __init__(self, api: KubernetesApi) -> None:
        self.api = api

    def run(self, commands: str, *, text: str = "") -> str:
        """Run commands as a person does, with the target's kubeconfig; return what they print."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            input=text,
            env=private_environment(KUBECONFIG=str(self.api.kubeconfig)),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def apply(self, manifests: str) -> None:
        """Apply manifests."""
        self.run("kubectl apply --filename -", text=manifests)

    def get(self, path: str) -> Any:
        """Return an object, or None where there is none; its kind may be unknown."""
        answer = self.api.request("GET", path)
        assert answer.status in {200, 404}, answer
        return answer.json() if answer.status == 200 else None

    def config_map(self, name: str, namespace: str = "default") -> dict[str, str] | None:
        """Return the data of a ConfigMap."""
        found = self.get(f"/api/v1/namespaces/{namespace}/configmaps/{name}")
        return None if found is None else dict(found.get("data") or {})

    def ready(self, name: str, kind: str = KUSTOMIZATIONS) -> tuple[str, str, str]:
        """Return status, reason and message of the Ready of an object of Flux; empty strings where it has none."""
        status = (self.get(f"{kind}/{name}") or {}).get("status") or {}
        conditions: list[Mapping[str, str]] = status.get("conditions") or []
        found = next((one for one in conditions if one["type"] == "Ready"), {})
        return found.get("status", ""), found.get("reason", ""), found.get("message", "")

    def end_namespaces(self) -> None:
        """End the namespaces that are being deleted, in place of a controller that the target does not have."""
        for namespace in self.api.call("GET", "/api/v1/namespaces")["items"]:
            if namespace["metadata"].get("deletionTimestamp"):
                namespace["spec"]["finalizers"] = []
                self.api.call("PUT", f"/api/v1/namespaces/{namespace['metadata']['name']}/finalize", namespace)
