"""One changeset a State Store a batch: group edits by where they go, and write the groups side by side."""

import asyncio
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.deadline import Deadline
from shared.errors import AccessDenied, LandfallError, OutOfTime, StoreUnavailable
from shared.kube import Cluster
from shared.observability import logger
from shared.plan import Edit, Outcome
from shared.reconcile.connections import Connections, Writers
from shared.reconcile.view import read_secret, secret_key
from shared.resources import Secret, StateStore


@dataclass
class StoreWork:
    """What one batch wants of one State Store object.

    Attributes:
        store: as the cluster has it now.
        edits: with ids that are unique in the whole batch.
    """

    store: StateStore
    edits: list[Edit] = field(default_factory=list)


async def write_all(
    works: Sequence[StoreWork], cluster: Cluster, connections: Connections, deadline: Deadline
) -> dict[str, Outcome]:
    """Write all edits of a batch: one changeset for each place and set of credentials, different ones side by side.

    Args:
        works: at most one for each State Store object.
        cluster: where their Secrets are.
        connections: of this container.
        deadline: of this invocation.

    Returns:
        What became of each edit by its id. `OutOfTime` means that nobody tried; everything else is a verdict.
    """
    outcomes: dict[str, Outcome] = {}
    keys = {secret_key(work.store): work.store for work in works}
    async with asyncio.TaskGroup() as group:
        reads = {key: group.create_task(_secret(store, cluster, deadline)) for key, store in keys.items()}
    secrets = {key: read.result() for key, read in reads.items()}

    groups: dict[str, _Group] = {}
    for work in works:
        secret = secrets[secret_key(work.store)]
        if isinstance(secret, LandfallError):
            outcomes.update({edit.id: secret for edit in work.edits})
            continue
        key = Writers.key(work.store, secret)
        groups.setdefault(key, _Group(work.store, secret, cluster, connections)).edits.extend(work.edits)

    at_once = asyncio.Semaphore(connections.settings.stores_concurrency)

    async def bounded(group: _Group) -> dict[str, Outcome]:
        async with at_once:
            return await group.write(deadline)

    async with asyncio.TaskGroup() as tasks:
        writes = [tasks.create_task(bounded(group)) for group in groups.values()]
    for write in writes:
        outcomes.update(write.result())
    await connections.writers.trim()
    return outcomes


async def _secret(store: StateStore, cluster: Cluster, deadline: Deadline) -> Secret | LandfallError | None:
    try:
        return await read_secret(store, cluster, deadline)
    except LandfallError as error:
        return error


@dataclass
class _Group:
    """Edits that one writer carries out as one changeset."""

    store: StateStore
    secret: Secret | None
    cluster: Cluster
    connections: Connections
    edits: list[Edit] = field(default_factory=list)

    async def write(self, deadline: Deadline) -> dict[str, Outcome]:
        seconds = min(self.connections.settings.store_deadline_seconds, deadline.remaining)
        try:
            return await self._write_trusting_nothing_cached(Deadline.after(seconds))
        except OutOfTime as error:
            if deadline.remaining < 1:
                return self._all(error)
            name = f"{self.store.kind}/{self.store.name}"
            return self._all(StoreUnavailable(f"{name} did not finish a batch within {seconds:.0f} seconds"))
        except LandfallError as error:
            return self._all(error)
        except Exception as error:  # noqa: BLE001 -- one store's surprise must not take the other stores down
            # Only the type and the place: the text of an error that nobody translated may hold anything.
            place = "".join(traceback.format_tb(error.__traceback__))
            logger.error("the writer of %s failed unexpectedly (%s):\n%s", self.store.name, type(error).__name__, place)
            return self._all(
                StoreUnavailable(f"an unexpected {type(error).__name__}; the function's log has the place")
            )

    async def _write_trusting_nothing_cached(self, deadline: Deadline) -> dict[str, Outcome]:
        """Write; where access is denied, once more with the Secret read again, as it may have been rotated."""
        warm = self.connections.writers.has(self.store, self.secret)
        try:
            return await self._write(self.secret, deadline)
        except AccessDenied:
            await self.connections.writers.drop(self.store, self.secret)
            fresh = await read_secret(self.store, self.cluster, deadline)
            if not warm and Writers.key(self.store, fresh) == Writers.key(self.store, self.secret):
                raise
            return await self._write(fresh, deadline)

    async def _write(self, secret: Secret | None, deadline: Deadline) -> dict[str, Outcome]:
        writer = await self.connections.writers.get(self.store, secret)
        outcomes = await writer.write(self.edits, deadline)
        denied = [outcome for outcome in outcomes.values() if isinstance(outcome, AccessDenied)]
        if denied and len(denied) == len(outcomes):
            raise denied[0]
        return outcomes

    def _all(self, outcome: Outcome) -> dict[str, Outcome]:
        return dict.fromkeys((edit.id for edit in self.edits), outcome)
