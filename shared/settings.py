"""The environment, parsed once into one frozen model and passed down.

Every limit of the system has its name, its default and its reason here; nothing else reads `os.environ`.
"""

import os
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from shared.errors import LandfallError

PREFIX = "LANDFALL_"


def _split(value: object) -> object:
    return [part for part in value.replace(",", " ").split() if part] if isinstance(value, str) else value


Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], BeforeValidator(_split)]


class Settings(BaseModel):
    """What an operator can set, each as an environment variable `LANDFALL_<NAME>`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Where messages go. Only the queues that a function sends to need to be set for it.
    canary_queue_url: str = ""
    cleanup_queue_url: str = ""
    status_queue_url: str = ""
    works_queue_url: str = ""
    documents_queue_url: str = ""
    sqs_endpoint_url: str | None = Field(None, description="an SQS other than AWS's: the local runtime's, or a test's")

    # Which Kubernetes API a message's cluster name means.
    cluster: str = Field("default", description="the name of the cluster whose events carry none")
    kubeconfig: Path | None = Field(None, description="kubeconfig file; KUBECONFIG where this is not set")
    kubeconfig_context: str | None = None
    kubernetes_timeout_seconds: float = Field(10, gt=0)
    kubernetes_concurrency: int = Field(32, ge=1, description="calls at once to one Kubernetes API")
    list_above: int = Field(5, ge=1, description="more objects of one kind than this are listed, not read one by one")

    # Time. A function keeps `reserve_seconds` of its own time to report what it did.
    reserve_seconds: float = Field(5, ge=0)
    store_timeout_seconds: float = Field(20, gt=0, description="for one call to a State Store")
    store_deadline_seconds: float = Field(60, gt=0, description="for one State Store's share of a batch")
    retry_delays_seconds: Annotated[tuple[int, ...], BeforeValidator(_split)] = Field(
        (5, 10, 20, 40, 80, 160, 300),
        description="delays before a failed write is tried again; then the resync takes over",
    )
    cleanup_grace_seconds: int = Field(900, ge=0, description="a deletion waits so long for a store that is gone")
    sweep_delay_seconds: int = Field(
        180, ge=0, le=900, description="after a clean-up, longer than a function runs; then canaries are removed again"
    )
    cleanup_give_up_seconds: int = Field(86_400, ge=0, description="and so long for one that cannot be written to")

    # Concurrency.
    stores_concurrency: int = Field(16, ge=1, description="State Stores written at once by one function")
    bucket_concurrency: int = Field(32, ge=1, description="calls at once to one bucket")

    # Limits.
    max_file_bytes: int = Field(16 * 1024 * 1024, ge=1, description="of one document, inflated")
    max_placement_bytes: int = Field(64 * 1024 * 1024, ge=1, description="of one WorkPlacement's documents, inflated")
    max_placement_files: int = Field(10_000, ge=1, description="documents of one WorkPlacement")
    max_pack_bytes: int = Field(512 * 1024 * 1024, ge=1, description="largest pack that is fetched from a repository")

    # Network safety. Loopback, link-local, private-metadata and unspecified addresses are refused unless listed here.
    allowed_networks: Networks = Field((), description="CIDRs that endpoints may resolve to although they are refused")
    allow_plain_http_git: bool = Field(False, description="send Git credentials over http:// (never on a real network)")
    ca_bundle: Path | None = Field(None, description="PEM file of further CAs that State Stores' certificates may use")

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
        if "kubeconfig" not in found and environment.get("KUBECONFIG"):
            found["kubeconfig"] = environment["KUBECONFIG"].split(os.pathsep)[0]
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            problems = "; ".join(
                f"{PREFIX}{'_'.join(str(part) for part in problem['loc'][:1]).upper()}: {problem['msg']}"
                for problem in error.errors(include_input=False, include_url=False)
            )
            raise LandfallError(f"the function's environment cannot be used: {problems}") from None
