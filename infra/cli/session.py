"""One run of a command: its settings, its way to the cluster, its time, and what it says while it works."""

import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from rich.console import Console

from infra.checks.kubernetes import Kubernetes
from infra.checks.lines import NotChecked
from infra.cli.fleet import Fleet
from infra.cli.stores import Credentials, Stores
from shared.deadline import Deadline
from shared.documents import Limits
from shared.errors import KubernetesError
from shared.kube import Cluster
from shared.kube.access import access_to
from shared.reconcile.placing import limits_of
from shared.settings import Settings

_SECONDS: Final = 600.0  # of a command that does not wait
_LOOPBACK: Final = "127.0.0.0/8,::1/128"  # a person's own stores may be on this machine


@dataclass(frozen=True)
class Options:
    """What all commands take.

    Attributes:
        kubeconfig: file; None for KUBECONFIG, or kubectl's default.
        context: of the kubeconfig; None for its current one.
        credentials: whose, for State Stores.
        environment: of this process.
    """

    kubeconfig: Path | None = None
    context: str | None = None
    credentials: Credentials = "cluster"
    environment: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass
class Session:
    """What a command works with."""

    options: Options
    settings: Settings
    cluster: Cluster
    deadline: Deadline

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, options: Options, seconds: float = _SECONDS) -> AsyncIterator["Session"]:
        """Connect; nothing is sent to the cluster yet.

        Raises:
            LandfallError: there is no way to the cluster, or a variable LANDFALL_… is wrong.
        """
        settings = settings_of(options)
        cluster = await Cluster.connect(settings, access_to(settings))
        try:
            yield cls(options, settings, cluster, Deadline.after(seconds))
        finally:
            await cluster.close()

    @cached_property
    def limits(self) -> Limits:
        """The limits of documents."""
        return limits_of(self.settings)

    @contextlib.asynccontextmanager
    async def stores(self, fleet: Fleet) -> AsyncIterator[Stores]:
        """Open State Stores for reading."""
        stores = Stores(self.cluster, self.settings, fleet, self.options.credentials)
        try:
            yield stores
        finally:
            await stores.close()

    @contextlib.asynccontextmanager
    async def kubernetes(self) -> AsyncIterator[Kubernetes]:
        """Open a plain connection, for calls that the functions do not make.

        Raises:
            KubernetesError: there is no way to the cluster, or it did not answer.
        """
        try:
            connection = await Kubernetes.connect(access_to(self.settings))
            try:
                yield connection
            finally:
                await connection.close()
        except NotChecked as error:
            raise KubernetesError(str(error)) from None


def settings_of(options: Options) -> Settings:
    """Return the settings for this machine: those of LANDFALL_… variables, for one cluster.

    Raises:
        LandfallError: a variable is wrong.
    """
    environment = dict(options.environment)
    environment.pop("LANDFALL_CLUSTERS", None)  # of a deployment; a command has one cluster, the kubeconfig's
    environment.setdefault("LANDFALL_ALLOWED_NETWORKS", _LOOPBACK)
    if options.kubeconfig is not None:
        environment["LANDFALL_KUBECONFIG"] = str(options.kubeconfig)
    if options.context is not None:
        environment["LANDFALL_KUBECONFIG_CONTEXT"] = options.context
    return Settings.from_environment(environment)


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Show on a terminal what is being done; yields what changes the words."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    console = Console(stderr=True)
    with console.status("reading the cluster") as status:
        yield status.update
