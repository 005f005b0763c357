"""A real kube-apiserver on a real etcd, with RBAC.

There are no controllers and no nodes: a deleted namespace stays Terminating, owner references collect nothing, and
nobody makes default service accounts. Tests take a namespace of their own and leave it behind.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import urllib3
from cryptography.hazmat.primitives.asymmetric import ec

from tests.servers import web
from tests.servers.certificates import LOOPBACK, Authority, Certificate, write_private_key
from tests.servers.golang import go_binary
from tests.servers.process import ServerFailed, free_port, running, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_RBAC = "/apis/rbac.authorization.k8s.io/v1"


@dataclass(frozen=True)
class KubernetesApi:
    """A running API server and its administrator's way in."""

    url: str
    ca: Path
    token: str = field(repr=False)
    kubeconfig: Path
    _authority: Authority = field(repr=False)
    _directory: Path = field(repr=False)
    etcd: str
    # Tests that wait look twenty times a second: a connection for each look would cost more than the look.
    _connections: urllib3.PoolManager = field(repr=False)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        group: str = "",
        content_type: str = "application/json",
    ) -> web.Response:
        """Make one call, as the administrator unless another token or a group is given; `body` is bytes or for JSON.

        Raises:
            OSError: the server does not answer.
        """
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {token or self.token}", "Content-Type": content_type}
        if group:
            headers |= {"Impersonate-User": "someone", "Impersonate-Group": group}
        try:
            answer = self._connections.request(method, self.url + path, headers=headers, body=data, redirect=False)
        except urllib3.exceptions.HTTPError as error:
            raise OSError(f"{method} {path}: {error}") from error
        return web.Response(answer.status, {key.lower(): value for key, value in answer.headers.items()}, answer.data)

    def call(self, method: str, path: str, body: Any = None, *, content_type: str = "application/json") -> Any:
        """Make one call as the administrator and return what it answers; ServerFailed unless that is a 2xx."""
        response = self.request(method, path, body, content_type=content_type)
        if response.status >= 300:
            raise ServerFailed(f"{method} {path} answered {response}")
        return response.json()

    def create_namespace(self, prefix: str = "test") -> str:
        """Create a namespace with a name of its own and return that name."""
        name = f"{prefix}-{secrets.token_hex(4)}"
        self.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        return name

    def create_service_account(
        self, namespace: str, name: str, rules: Sequence[Mapping[str, Any]] = (), *, cluster_role: str | None = None
    ) -> str:
        """Create a service account, allow it `rules` or a ClusterRole in the whole cluster, and return a token of it.

        Deleting the service account makes the token invalid: the API answers it with 401, at the latest when it
        forgets its own verdict of up to ten seconds ago.
        """
        self.call("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}})
        role = cluster_role
        if rules:
            role = f"{namespace}-{name}"
            self.call("POST", f"{_RBAC}/clusterroles", {"metadata": {"name": role}, "rules": list(rules)})
        if role:
            binding = {
                "metadata": {"name": f"{namespace}-{name}"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": name}],
            }
            self.call("POST", f"{_RBAC}/clusterrolebindings", binding)
        return self.service_account_token(namespace, name)

    def service_account_token(self, namespace: str, name: str) -> str:
        """Return a fresh token of an existing service account."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        answer = self.call("POST", path, {"spec": {"expirationSeconds": 3600}})
        return str(answer["status"]["token"])

    def client_certificate(self, user: str, groups: Sequence[str] = ()) -> Certificate:
        """Return a client certificate for a user of any name and groups."""
        name = f"user-{secrets.token_hex(4)}"
        return self._authority.issue(name, hosts=(), common_name=user, organizations=groups)

    def write_kubeconfig(self, token: str, *, url: str | None = None, namespace: str = "default") -> Path:
        """Write a kubeconfig for a token, and for another URL (a proxy's, say) if one is given."""
        cluster = {"server": url or self.url, "certificate-authority": str(self.ca)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
            "current-context": "test",
        }
        path = self._directory / f"kubeconfig-{secrets.token_hex(4)}"
        path.touch(mode=0o600)
        path.write_text(json.dumps(config))  # JSON is YAML
        return path

    def apply_crds(self, source: Path) -> list[str]:
        """Create or update the CRDs in a file or in a folder's *.yaml files; return their names once all are served."""
        files = sorted(source.glob("*.y*ml")) if source.is_dir() else [source]
        names = []
        for file in files:
            for document in re.split(r"^---.*$", file.read_text(), flags=re.MULTILINE):
                if re.search(r"^kind: *[\"']?CustomResourceDefinition\b", document, re.MULTILINE):
                    names.append(self._apply_crd(document.encode(), file))
        if not names:
            raise ServerFailed(f"no CustomResourceDefinition in {source}")
        for name in names:
            wait_until(f"CRD {name} served", partial(self._served, name), timeout=30)
        return names

    def _apply_crd(self, document: bytes, file: Path) -> str:
        # The server reads the YAML, so nobody else has to: not even to learn the CRD's name.
        answer = self.request("POST", f"{_CRDS}?fieldManager=tests", document, content_type="application/yaml")
        if answer.status == 409:
            name = str(answer.json()["details"]["name"])
            path = f"{_CRDS}/{name}?fieldManager=tests&force=true"
            answer = self.request("PATCH", path, document, content_type="application/apply-patch+yaml")
        if answer.status >= 300:
            raise ServerFailed(f"{file}: {answer}")
        return str(answer.json()["metadata"]["name"])

    def _served(self, name: str) -> bool:
        crd = self.call("GET", f"{_CRDS}/{name}")
        # Right after its creation a CRD's conditions are null.
        conditions = {c["type"]: c["status"] for c in crd.get("status", {}).get("conditions") or ()}
        if conditions.get("NamesAccepted") == "False":
            raise ServerFailed(f"CRD {name}: {crd['status']['conditions']}")
        if conditions.get("Established") != "True":
            return False
        # Established comes a moment before the paths answer.
        spec = crd["spec"]
        versions = [version["name"] for version in spec["versions"] if version["served"]]
        paths = [f"/apis/{spec['group']}/{version}/{spec['names']['plural']}?limit=1" for version in versions]
        return all(self.request("GET", path).status == 200 for path in paths)


@contextlib.contextmanager
def kubernetes_api(*arguments: str) -> Iterator[KubernetesApi]:
    """Run etcd and a kube-apiserver, with arguments of its own besides the usual ones."""
    apiserver = go_binary("kube-apiserver")
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="landfall-kubernetes-")))
        etcd = _start_etcd(stack, directory)
        authority = Authority(directory / "tls")
        serving = authority.issue("apiserver", hosts=(*LOOPBACK, "kubernetes.default.svc"))
        signing = directory / "service-accounts.key"
        write_private_key(signing, ec.generate_private_key(ec.SECP256R1()))
        token = secrets.token_urlsafe(24)
        tokens = directory / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f'{token},admin,admin,"system:masters"\n')
        port = free_port()
        url = f"https://127.0.0.1:{port}"
        authorized = {"Authorization": f"Bearer {token}"}

        def ready() -> bool:
            answers = [
                web.request("GET", url + path, headers=authorized, ca=authority.ca, timeout=5).status
                for path in ("/readyz", "/api/v1/namespaces/default", f"{_RBAC}/clusterroles/cluster-admin")
            ]
            return answers == [200, 200, 200]

        command = [
            apiserver,
            f"--etcd-servers={etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={port}",
            f"--cert-dir={directory}",
            f"--tls-cert-file={serving.certificate}",
            f"--tls-private-key-file={serving.key}",
            f"--client-ca-file={authority.ca}",
            f"--token-auth-file={tokens}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={signing}",
            f"--service-account-signing-key-file={signing}",
            "--service-cluster-ip-range=10.0.0.0/24",
            # It would wait for controllers that are not there to make default service accounts.
            "--disable-admission-plugins=ServiceAccount",
            # There is no endpoint to keep, and an etcd lease for it would outlive nothing.
            "--endpoint-reconciler-type=none",
            "--profiling=false",
            "--shutdown-delay-duration=0s",
            *arguments,
        ]
        stack.enter_context(running("kube-apiserver", command, directory=directory, ready=ready))
        connections = urllib3.PoolManager(maxsize=8, ca_certs=str(authority.ca), retries=False, timeout=30.0)
        stack.callback(connections.clear)
        kubeconfig = directory / "kubeconfig"
        made = KubernetesApi(url, authority.ca, token, kubeconfig, authority, directory, etcd, connections)
        made.write_kubeconfig(token).rename(made.kubeconfig)
        yield made


def _start_etcd(stack: contextlib.ExitStack, directory: Path) -> str:
    client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    command = [
        go_binary("etcd"),
        f"--data-dir={directory / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]

    def ready() -> bool:
        answer = web.request("GET", f"{client}/health", timeout=5)
        return answer.status == 200 and answer.json().get("health") == "true"

    stack.enter_context(running("etcd", command, directory=directory, ready=ready))
    return client
