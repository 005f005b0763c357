"""The ways to a cluster that lead through AWS: EKS by name, and a kubeconfig in Secrets Manager."""

import base64
import binascii
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioAssumeRoleCredentialFetcher, AioDeferredRefreshableCredentials
from aiobotocore.session import AioSession, get_session
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, ClientError

from shared.errors import KubernetesError, KubernetesUnavailable
from shared.kube.access import client_of_kubeconfig, memory_file, new_client, new_configuration
from shared.kube.library import ApiClient, Configuration
from shared.settings import ClusterSettings, Settings

if TYPE_CHECKING:
    from botocore.credentials import ReadOnlyCredentials

_FAILURES: Final = (BotoCoreError, ClientError, TimeoutError, OSError)
_CONNECT_SECONDS: Final = 5
_ATTEMPTS: Final = 3
_SAME_SECONDS: Final = 5  # AWS is not asked again for so long: many calls may fail at once
_RENEW_AT: Final = 0.9  # of a token's life
_SESSION_NAME: Final = "landfall"
_SECRET_ARN: Final = re.compile(r"arn:[^:]+:secretsmanager:([^:]+):")


def eks_token(credentials: "ReadOnlyCredentials", cluster: str, sts_host: str, region: str, seconds: int) -> str:
    """Return a token by which EKS knows the owner of AWS credentials.

    It is a signed request "who am I?" that the cluster sends to STS in our place (aws-iam-authenticator's
    documentation, "API Authorization from Outside a Cluster"): `k8s-aws-v1.` and base64url, without padding, of a
    presigned GetCallerIdentity with the header `x-k8s-aws-id`, so that it is good for this one cluster.

    Args:
        credentials: of the caller.
        cluster: its name in EKS.
        sts_host: host name of the region's STS.
        region: of that STS.
        seconds: how long it is valid, 900 at most.
    """
    url = f"https://{sts_host}/?Action=GetCallerIdentity&Version=2011-06-15"
    request = AWSRequest("GET", url, headers={"x-k8s-aws-id": cluster})
    SigV4QueryAuth(credentials, "sts", region, expires=seconds).add_auth(request)
    return "k8s-aws-v1." + base64.urlsafe_b64encode(str(request.url).encode()).decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class _Description:
    """What EKS says about a cluster, and when (seconds since the epoch) it said so."""

    endpoint: str
    ca: bytes
    at: float


class EksAccess:
    """An EKS cluster by its name: endpoint and CA from DescribeCluster, and a token made of the function's own role.

    A private endpoint needs nothing but a way there: its name resolves to an address in the cluster's VPC.
    """

    def __init__(self, settings: Settings, cluster: ClusterSettings) -> None:
        self._settings = settings
        self._cluster = cluster
        self._name = cluster.eks or ""
        self.advice = (
            f"does an access entry of EKS cluster {self._name} map this function's role to its group"
            " landfall:<function>, and is infra/kubernetes/rbac.yaml applied there?"
        )
        self._aws = _Aws(settings, cluster.region, cluster.role)
        self._described: _Description | None = None
        self._token = ""
        self._renew_at = 0.0  # seconds since the epoch: a frozen container's monotonic clock may stand still

    async def open(self) -> ApiClient:
        """Ask EKS where the cluster is, and sign a token."""
        described = await self._describe()
        configuration = new_configuration(self._settings)
        configuration.host = described.endpoint
        self._renew_at = 0.0
        await self._renew(configuration)
        configuration.refresh_api_key_hook = self._renew
        with memory_file(described.ca) as path:
            configuration.ssl_ca_cert = path
            return new_client(configuration)

    async def _renew(self, configuration: Configuration) -> None:
        """Give a client a token that is still good for a while."""
        now = time.time()
        if now >= self._renew_at:
            seconds = self._settings.eks_token_seconds
            self._token = await self._aws.token(self._name, seconds)
            self._renew_at = now + seconds * _RENEW_AT
        configuration.api_key["BearerToken"] = f"Bearer {self._token}"

    async def _describe(self) -> _Description:
        if self._described is not None and time.time() - self._described.at < _SAME_SECONDS:
            return self._described
        what = f"EKS cluster {self._name}"
        async with self._aws.client("eks", what, "eks:DescribeCluster") as eks:
            found = (await eks.describe_cluster(name=self._name))["cluster"]
        endpoint, ca = found.get("endpoint") or "", (found.get("certificateAuthority") or {}).get("data") or ""
        if not endpoint.startswith("https://") or not ca:
            raise KubernetesUnavailable(f"{what} has no endpoint yet: its status is {found.get('status')}")
        try:
            self._described = _Description(endpoint, base64.b64decode(ca, validate=True), time.time())
        except binascii.Error:
            raise KubernetesError(f"the CA of {what} is not base64") from None
        return self._described


class SecretAccess:
    """A kubeconfig in Secrets Manager, read again when its identity is refused: it may have been rotated."""

    def __init__(self, settings: Settings, cluster: ClusterSettings) -> None:
        self._settings = settings
        self._context = cluster.context
        self._id = cluster.kubeconfig_secret or ""
        self._where = f"secret {self._id} of Secrets Manager"
        self.advice = f"check the identity in the kubeconfig in {self._where}, and its RBAC"
        match = _SECRET_ARN.match(self._id)
        self._aws = _Aws(settings, match[1] if match else None, None)
        self._kubeconfig: object = None
        self._read_at = 0.0

    async def open(self) -> ApiClient:
        """Read the secret, and take the client that its kubeconfig describes."""
        if time.time() - self._read_at >= _SAME_SECONDS:
            self._kubeconfig = await self._read()
            self._read_at = time.time()
        return await client_of_kubeconfig(self._kubeconfig, self._context, self._where, self._settings)

    async def _read(self) -> object:
        async with self._aws.client("secretsmanager", self._where, "secretsmanager:GetSecretValue") as secrets:
            found = await secrets.get_secret_value(SecretId=self._id)
        text = found.get("SecretString") or found.get("SecretBinary") or ""
        try:
            return json.loads(text)
        except ValueError:
            import yaml  # noqa: PLC0415 -- JSON needs it not

            try:
                return yaml.safe_load(text)
            except (yaml.YAMLError, ValueError):  # whose text may quote what it could not read
                return None


class _Aws:
    """AWS as this function, or as a role that it takes on."""

    def __init__(self, settings: Settings, region: str | None, role: str | None) -> None:
        self._region = region
        self._role = role
        self._session: AioSession | None = None
        self._config = AioConfig(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=settings.kubernetes_timeout_seconds,
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        )

    @asynccontextmanager
    async def client(self, service: str, what: str, action: str) -> AsyncIterator[Any]:
        """Open a client for a few calls.

        Args:
            service: as botocore calls it.
            what: is asked for, for errors.
            action: that the calls need, in IAM's words.

        Raises:
            KubernetesUnavailable: AWS refused a call, or could not be reached.
        """
        try:
            session, region = await self._open()
            async with session.create_client(service, region_name=region, config=self._config) as client:
                yield client
        except _FAILURES as error:
            raise KubernetesUnavailable(
                f"{what} could not be read: {_words(error)} (the function's role needs {action} on it, and in a VPC a"
                f" way to {service}'s API)"
            ) from None

    async def token(self, cluster: str, seconds: int) -> str:
        """Return a token for an EKS cluster.

        Raises:
            KubernetesUnavailable: there are no credentials to make it of.
        """
        try:
            session, region = await self._open()
            credentials = await session.get_credentials()
            if credentials is None:
                raise KubernetesUnavailable(_NO_CREDENTIALS)
            partition = session.get_partition_for_region(region)
            partitions = session.get_data("partitions")["partitions"]
            suffix = next(found["outputs"]["dnsSuffix"] for found in partitions if found["id"] == partition)
            frozen = await credentials.get_frozen_credentials()
        except _FAILURES as error:
            raise KubernetesUnavailable(f"no token for EKS cluster {cluster} can be made: {_words(error)}") from None
        # The very region: a cluster without a way to another one's STS, or to the global one, knows it.
        return eks_token(frozen, cluster, f"sts.{region}.{suffix}", region, seconds)

    async def _open(self) -> tuple[AioSession, str]:
        own = get_session() if self._session is None else self._session
        region = self._region or own.get_config_variable("region")
        if not region:
            raise KubernetesUnavailable(
                "no AWS region is known: set region in LANDFALL_CLUSTERS, or AWS_DEFAULT_REGION"
            )
        if self._session is None:
            self._session = own if self._role is None else await _assuming(own, self._role, region, self._config)
        return self._session, region


_NO_CREDENTIALS: Final = "no AWS credentials are found: a function has those of its role; locally, see `aws configure`"


async def _assuming(own: AioSession, role: str, region: str, config: AioConfig) -> AioSession:
    """Return a session as a role, which is taken on anew before its credentials expire."""
    source = await own.get_credentials()
    if source is None:
        raise KubernetesUnavailable(_NO_CREDENTIALS)
    creator: Callable[..., Any] = partial(own.create_client, region_name=region, config=config)
    fetcher = AioAssumeRoleCredentialFetcher(creator, source, role, extra_args={"RoleSessionName": _SESSION_NAME})
    session = get_session()
    # There is no public way to give a session credentials that renew themselves.
    session._credentials = AioDeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")  # type: ignore[attr-defined]  # noqa: SLF001
    return session


def _words(error: BaseException) -> str:
    if isinstance(error, ClientError):
        told = error.response.get("Error", {})
        return f"{told.get('Code')}: {str(told.get('Message'))[:300]}"
    return f"{type(error).__name__}: {error}"[:300]
