"""The environment, parsed once into one frozen model and passed down.

Every limit of the system has its name, its default and its reason here; nothing else reads `os.environ`.
"""

import json
import os
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from shared.errors import LandfallError

PREFIX = "LANDFALL_"


def _split(value: object) -> object:
    return [part for part in value.replace(",", " ").split() if part] if isinstance(value, str) else value


def _read_map(value: object) -> object:
    """Read JSON, or YAML as it is easier to write on a command line: `{edge: {eks: edge}}`."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value)
    except ValueError:
        import yaml  # noqa: PLC0415 -- no function needs it otherwise

        try:
            found = yaml.safe_load(value)
        except yaml.YAMLError:
            found = None
    if not isinstance(found, dict) or not found:
        raise ValueError('write a map in JSON or YAML: {"<name>": {"eks": "<name of the EKS cluster>"}}')
    return found


Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], BeforeValidator(_split)]


ClusterName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}$")]
Region = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,}(-[a-z]+)+-[0-9]+$")]


class ClusterSettings(BaseModel):
    """How one cluster is reached: exactly one of `eks`, `kubeconfigSecret` and `kubeconfig`.

    In each, `{function}` stands for the name of the function that reads it, so that each can have its own identity.

    Attributes:
        eks: name of an EKS cluster; the function's role needs eks:DescribeCluster on it and an access entry in it.
        region: of the EKS cluster; the function's own where it is left out.
        role: ARN of a role to be there, for a cluster of another account.
        kubeconfig_secret: name or ARN of a Secrets Manager secret that holds a kubeconfig.
        kubeconfig: path of a kubeconfig file.
        context: in the kubeconfig; its current one where it is left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, validate_by_name=True)

    eks: str | None = Field(None, pattern=r"^[0-9A-Za-z][A-Za-z0-9_-]{0,99}$")
    region: Region | None = None
    role: str | None = Field(None, pattern=r"^arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=,.@/-]+$")
    kubeconfig_secret: str | None = Field(None, min_length=1, max_length=2048)
    kubeconfig: Path | None = None
    context: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum(way is not None for way in (self.eks, self.kubeconfig_secret, self.kubeconfig)) != 1:
            raise ValueError("give exactly one of eks, kubeconfigSecret and kubeconfig")
        if self.eks is None and (self.region or self.role):
            raise ValueError("region and role belong to eks")
        if self.eks is not None and self.context:
            raise ValueError("context belongs to a kubeconfig")
        return self


class Settings(BaseModel):
    """What an operator can set, each as an environment variable `LANDFALL_<NAME>`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Where messages go. Only the queues that a function sends to need to be set for it.
    canary_queue_url: str = ""
    cleanup_queue_url: str = ""
    status_queue_url: str = ""
    works_queue_url: str = ""
    documents_queue_url: str = ""
    own_queue_url: str = Field("", description="the queue that invokes this function; it takes more from it itself")
    batch_messages: int = Field(1000, ge=10, description="most messages that one invocation takes from its queue")
    sqs_endpoint_url: str | None = Field(None, description="an SQS other than AWS's: the local runtime's, or a test's")

    # Which Kubernetes API a message's cluster name means.
    clusters: Annotated[Mapping[ClusterName, ClusterSettings], BeforeValidator(_read_map)] = Field(
        {}, description="the clusters that are served, by the names that events carry; none means a kubeconfig's alone"
    )
    cluster: str = Field("", description="the name of the cluster whose events carry none; with one alone, that one")
    kubeconfig: Path | None = Field(None, description="kubeconfig file; KUBECONFIG where this is not set")
    kubeconfig_context: str | None = None
    kubernetes_timeout_seconds: float = Field(10, gt=0)
    eks_token_seconds: int = Field(900, ge=1, le=900, description="how long an EKS token is valid; EKS takes no longer")
    kubernetes_concurrency: int = Field(32, ge=1, description="calls at once to one Kubernetes API")
    list_above: int = Field(5, ge=1, description="more objects of one kind than this are listed, not read one by one")

    # Time. A function keeps `reserve_seconds` of its own time to report what it did; `queues` says what gets how much.
    reserve_seconds: float = Field(5, ge=0)
    store_timeout_seconds: float = Field(20, gt=0, description="for one call to a State Store")
    store_deadline_seconds: float = Field(60, gt=0, description="for one State Store's share of a batch")
    lease_namespace: str = Field(
        "landfall",
        description="namespace of the Leases that serialise writes to State Stores, and of claims to directories",
    )
    lease_wait_seconds: float = Field(
        1,
        ge=0,
        description="how long to wait for a State Store's Lease before its messages are sent again with a delay",
    )
    lease_margin_seconds: float = Field(
        20, ge=0, description="longer than a call that was cut off can still take effect; added to a Lease's term"
    )
    max_hops: int = Field(
        200, ge=1, description="how often a message is sent again to wait for a Lease before it fails instead"
    )
    retry_delays_seconds: Annotated[tuple[int, ...], BeforeValidator(_split)] = Field(
        (5, 10, 20, 40, 80, 160, 300),
        description="delays before a failed write is tried again; then the resync takes over",
    )
    first_seen_delay_seconds: int = Field(
        15, ge=0, le=900, description="before a Destination that nothing is known of says so; most are Ready by then"
    )
    cleanup_grace_seconds: int = Field(900, ge=0, description="a deletion waits so long for a store that is gone")
    cleanup_give_up_seconds: int = Field(86_400, ge=0, description="and so long for one that cannot be written to")

    not_ready_seconds: int = Field(
        300, ge=0, description="a Destination that is not Ready for so long counts in the metric DestinationsNotReady"
    )

    # Concurrency.
    stores_concurrency: int = Field(16, ge=1, description="State Stores written at once by one function")
    bucket_concurrency: int = Field(32, ge=1, description="calls at once to one bucket")

    # Limits.
    max_file_bytes: int = Field(16 * 1024 * 1024, ge=1, description="of one document, inflated")
    max_placement_bytes: int = Field(64 * 1024 * 1024, ge=1, description="of one WorkPlacement's documents, inflated")
    max_placement_files: int = Field(10_000, ge=1, description="documents of one WorkPlacement")
    max_pack_bytes: int = Field(256 * 1024 * 1024, ge=1, description="of a pack that is fetched, and of it inflated")
    memory_bytes: int = Field(
        256 * 1024 * 1024, ge=1, description="shared by all packs, kept trees and listings of a function at a time"
    )

    # Network safety. Loopback, link-local, private-metadata and unspecified addresses are refused unless listed here.
    allowed_networks: Networks = Field((), description="CIDRs that endpoints may resolve to although they are refused")
    allow_plain_http_git: bool = Field(False, description="send Git credentials over http:// (never on a real network)")
    ca_bundle: Path | None = Field(None, description="PEM file of further CAs that State Stores' certificates may use")

    @model_validator(mode="after")
    def _served(self) -> Self:
        if self.clusters and self.cluster and self.cluster not in self.clusters:
            raise ValueError("LANDFALL_CLUSTER names none of LANDFALL_CLUSTERS")
        return self

    @property
    def served(self) -> tuple[str, ...]:
        """The names of the clusters that are served."""
        return tuple(self.clusters) or (self.cluster or "default",)

    @property
    def default_cluster(self) -> str:
        """The cluster that messages without a name mean; empty where several are served and none is marked."""
        return self.cluster or (self.served[0] if len(self.served) == 1 else "")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read the settings from `LANDFALL_*` variables, and KUBECONFIG where no other kubeconfig is named.

        Raises:
            LandfallError: a variable is unknown or holds what its setting cannot be; the sentence names it.
        """
        environment = os.environ if environment is None else environment
        found = {
            name.removeprefix(PREFIX).lower(): value
            for name, value in environment.items()
            if name.startswith(PREFIX) and value != ""
        }
        if "clusters" in found:  # "write_canary.lambda_handler", which Lambda sets, is write-canary
            function = environment.get("_HANDLER", "").partition(".")[0].replace("_", "-")
            found["clusters"] = found["clusters"].replace("{function}", function)
        if "kubeconfig" not in found and environment.get("KUBECONFIG"):
            found["kubeconfig"] = environment["KUBECONFIG"].split(os.pathsep)[0]
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            problems = "; ".join(
                f"{_where(problem['loc'])}{problem['msg'].removeprefix('Value error, ')}"
                for problem in error.errors(include_input=False, include_url=False)
            )
            raise LandfallError(f"the function's environment cannot be used: {problems}") from None


def _where(loc: tuple[int | str, ...]) -> str:
    """Return the name of a variable, and of the part of it that is wrong; nothing where it is about several."""
    if not loc:
        return ""
    inner = ".".join(str(part) for part in loc[1:] if part != "[key]")
    return f"{PREFIX}{str(loc[0]).upper()}" + (f" ({inner[:150]}): " if inner else ": ")
