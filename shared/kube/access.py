"""How a deployment gets to a cluster: endpoint, trust and identity, read again whenever they may have changed."""

import base64
import binascii
import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from shared.errors import KubernetesError
from shared.kube.library import ApiClient, ConfigException, Configuration, config
from shared.settings import ClusterSettings, Settings

# What a kubeconfig may not hold that comes from elsewhere: programs and files that a function does not have, a server
# whose certificate nobody looks at, and what the library would silently leave out, so that we were somebody else.
_NOT_OF_A_USER: Final = ("exec", "auth-provider", "tokenFile", "client-certificate", "client-key", "as", "username")
_NOT_OF_A_CLUSTER: Final = ("certificate-authority", "insecure-skip-tls-verify")
_READ_BYTES: Final = 2**21  # of a body that wait to be read; the library's own session has the same
_DATA: Final = ("certificate-authority", "client-certificate", "client-key")


class Access(Protocol):
    """The way to one cluster.

    Attributes:
        advice: what to check where the API server knows us not, or does not allow us something.
    """

    advice: str

    async def open(self) -> ApiClient:
        """Return a client with endpoint, trust and identity as they are now; the Kubernetes API is not asked yet.

        Raises:
            KubernetesError: they cannot be had.
        """


def access_to(settings: Settings, cluster: ClusterSettings | None = None) -> Access:
    """Return the way to a cluster; None means what KUBECONFIG names."""
    if cluster is None or cluster.kubeconfig is not None:
        return KubeconfigFile(settings, cluster)
    # Late: AWS's client is loaded where it is used alone.
    from shared.kube import aws  # noqa: PLC0415

    return aws.EksAccess(settings, cluster) if cluster.eks is not None else aws.SecretAccess(settings, cluster)


class KubeconfigFile:
    """What a kubeconfig file says; whatever kubectl can use is good."""

    advice = "check the identity in the kubeconfig and its RBAC"

    def __init__(self, settings: Settings, cluster: ClusterSettings | None) -> None:
        self._settings = settings
        self._path = settings.kubeconfig if cluster is None else cluster.kubeconfig
        self._context = settings.kubeconfig_context if cluster is None else cluster.context

    async def open(self) -> ApiClient:
        """Read the file again."""
        configuration = new_configuration(self._settings)
        try:
            await config.load_kube_config(
                config_file=None if self._path is None else str(self._path),
                context=self._context,
                client_configuration=configuration,
                persist_config=False,
            )
        except (ConfigException, OSError, ValueError, KeyError, TypeError) as error:
            raise KubernetesError(
                f"the kubeconfig {self._path or '~/.kube/config'} cannot be used ({type(error).__name__}):"
                " set KUBECONFIG, LANDFALL_KUBECONFIG or LANDFALL_CLUSTERS to one that can"
            ) from None
        return new_client(configuration)


def new_configuration(settings: Settings) -> Configuration:
    """Return what is the same for all clusters."""
    configuration = Configuration()
    # An API server behind EKS may present a CA without the key usage that Python >= 3.13 asks for; the certificate
    # itself stays verified.
    configuration.disable_strict_ssl_verification = True
    configuration.connection_pool_maxsize = settings.kubernetes_concurrency
    return configuration


def new_client(configuration: Configuration) -> ApiClient:
    """Return a client of the library's whose session reads no `.netrc`, and the environment's proxy once.

    The library's own session looks for both before each call, in a thread, which is a third of the time that a call
    costs us; and credentials in a `.netrc` would collide with the token.
    """
    if configuration.proxy is None:
        configuration.proxy = _proxy(configuration.host)
    client = ApiClient(configuration)
    rest = client.rest_client
    librarys = rest.pool_manager
    rest.pool_manager = aiohttp.ClientSession(connector=librarys.connector, read_bufsize=_READ_BYTES)
    librarys.detach()  # its connector lives on
    return client


def _proxy(url: str | None) -> str | None:
    parts = urlsplit(url or "")
    return None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)


async def client_of_kubeconfig(kubeconfig: object, context: str | None, name: str, settings: Settings) -> ApiClient:
    """Return a client for a kubeconfig that is in memory, and leave nothing of it on a disk.

    Args:
        kubeconfig: as it was read from YAML or JSON.
        context: to use; None for its current one.
        name: of where it comes from, for errors.
        settings: of the deployment.

    Raises:
        KubernetesError: it cannot be used; the sentence names what is wrong, and quotes nothing of it.
    """
    if not isinstance(kubeconfig, Mapping):
        raise KubernetesError(f"{name} holds no kubeconfig: write one there in YAML or JSON")
    try:
        chosen = context or str(kubeconfig["current-context"])
        where = _named(kubeconfig, "contexts", chosen)["context"]
        cluster = dict(_named(kubeconfig, "clusters", where["cluster"])["cluster"])
        user = dict(_named(kubeconfig, "users", where["user"])["user"])
    except (KeyError, TypeError, ValueError, StopIteration):
        raise KubernetesError(
            f"the kubeconfig in {name} has no context with a cluster and a user"
            + (f" of the name {context!r}" if context else "; set its current-context")
        ) from None
    _check(name, cluster, user)
    configuration = new_configuration(settings)
    with contextlib.ExitStack() as stack:
        try:
            for part in (cluster, user):
                for key in _DATA:
                    if encoded := part.pop(f"{key}-data", None):
                        part[key] = stack.enter_context(memory_file(base64.b64decode(encoded, validate=True)))
            alone = {
                "current-context": "it",
                "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
                "clusters": [{"name": "it", "cluster": cluster}],
                "users": [{"name": "it", "user": user}],
            }
            await config.load_kube_config_from_dict(alone, client_configuration=configuration)
            return new_client(configuration)
        except (ConfigException, binascii.Error, OSError, ValueError, KeyError, TypeError) as error:
            raise KubernetesError(
                f"the kubeconfig in {name} cannot be used ({type(error).__name__}): are its certificate-authority-data,"
                " client-certificate-data and client-key-data base64 of PEM?"
            ) from None


def _named(kubeconfig: Mapping[str, Any], what: str, name: object) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(entry for entry in kubeconfig[what] if entry["name"] == name)
    return found


def _check(name: str, cluster: Mapping[str, Any], user: Mapping[str, Any]) -> None:
    refused = [key for key in _NOT_OF_A_USER if user.get(key)] + [key for key in _NOT_OF_A_CLUSTER if cluster.get(key)]
    if refused:
        raise KubernetesError(
            f"the kubeconfig in {name} has {' and '.join(refused)}, which a function cannot use or must not: write it"
            " with `kubectl config view --raw --flatten --minify`, with a token or a client certificate"
        )
    if not str(cluster.get("server")).startswith("https://"):
        raise KubernetesError(
            f"the server in the kubeconfig in {name} is no https:// URL: nothing is sent in the clear"
        )
    if not user.get("token") and not (user.get("client-certificate-data") and user.get("client-key-data")):
        raise KubernetesError(f"the user in the kubeconfig in {name} has neither a token nor a client certificate")


@contextlib.contextmanager
def memory_file(content: bytes) -> Iterator[str]:
    """Yield a path at which OpenSSL, which reads keys from files alone, finds bytes that are on no disk."""
    if not hasattr(os, "memfd_create"):
        raise KubernetesError("EKS and kubeconfigs in Secrets Manager need Linux; elsewhere, name a kubeconfig file")
    descriptor = os.memfd_create("landfall")
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
