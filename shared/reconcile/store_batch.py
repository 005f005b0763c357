"""One changeset a State Store a batch: group edits by where they go, and write the groups side by side."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from shared import paths
from shared.deadline import Deadline
from shared.errors import AccessDenied, LandfallError, OutOfTime, StoreUnavailable
from shared.kube import Cluster, Key, together
from shared.observability import log_unexpected
from shared.plan import Edit, Outcome
from shared.reconcile.connections import Connections, Writers
from shared.reconcile.view import StoreKey, read_secret, secret_key, store_key
from shared.resources import Secret, StateStore
from shared.writers.base import Writer

_Result = TypeVar("_Result")


@dataclass
class _Group:
    """Edits that one writer carries out as one changeset."""

    store: StateStore
    secret: Secret | None
    edits: list[Edit] = field(default_factory=list)

    async def write(self, writer: Writer, deadline: Deadline) -> dict[str, Outcome]:
        outcomes = await writer.write(self.edits, deadline)
        denied = [outcome for outcome in outcomes.values() if isinstance(outcome, AccessDenied)]
        if denied and len(denied) == len(outcomes):
            raise denied[0]
        return outcomes


class StateStores:
    """The State Stores of one share of a batch: what is done there, a bound on how many at once, the time for it.

    Attributes:
        settled: whether every call that changes something was answered, so that none can still take effect.
    """

    def __init__(self, cluster: Cluster, connections: Connections, deadline: Deadline, within: Deadline) -> None:
        """Begin; nothing is sent.

        Args:
            cluster: where the Secrets are.
            connections: of this container.
            deadline: of the invocation.
            within: of all work in the State Stores, while their Lease is held.
        """
        self._cluster, self._connections, self._deadline, self._within = cluster, connections, deadline, within
        self._at_once = asyncio.Semaphore(connections.settings.stores_concurrency)
        self.settled = True

    async def check_all(self, stores: Iterable[StateStore]) -> dict[StoreKey, LandfallError | None]:
        """Prove for each State Store that it can be written to, side by side; nothing is left behind.

        Returns:
            By State Store: None where it can, else why not. `OutOfTime` means that it was not tried.
        """
        stores = list(stores)
        secrets = await self._secrets(stores)

        async def check(store: StateStore) -> LandfallError | None:
            secret = secrets[secret_key(store)]
            if isinstance(secret, LandfallError):
                return secret
            try:
                root = paths.check_directory(store.spec.path, "spec.path")
                await self._run(store, secret, lambda writer, own: writer.check(root, own))
            except LandfallError as error:
                return error
            return None

        results = await together(check(store) for store in stores)
        return dict(zip(map(store_key, stores), results, strict=True))

    async def read_all(
        self, wanted: Mapping[Key, tuple[StateStore, Collection[str]]]
    ) -> dict[Key, dict[str, bytes] | LandfallError]:
        """Read files of State Stores, side by side.

        Args:
            wanted: by the caller's key, where to read which paths.

        Returns:
            By the caller's key: the contents of those files that are there, or why they could not be read.
        """
        secrets = await self._secrets([store for store, _ in wanted.values()])

        async def read(store: StateStore, files: Collection[str]) -> dict[str, bytes] | LandfallError:
            secret = secrets[secret_key(store)]
            if isinstance(secret, LandfallError):
                return secret
            try:
                return await self._run(store, secret, lambda writer, own: writer.read_many(files, own))
            except LandfallError as error:
                return error

        answers = await together(read(store, files) for store, files in wanted.values())
        return dict(zip(wanted, answers, strict=True))

    async def write_all(self, edits: Mapping[str, tuple[StateStore, Edit]]) -> dict[str, Outcome]:
        """Write all edits: one changeset for each place and set of credentials, different ones side by side.

        Args:
            edits: by the edit's id, where it goes and what it is.

        Returns:
            What became of each edit by its id. `OutOfTime` means that it was not tried; everything else is an answer.
        """
        secrets = await self._secrets([store for store, _ in edits.values()])
        outcomes: dict[str, Outcome] = {}
        groups: dict[str, _Group] = {}
        keys: dict[StoreKey, str] = {}
        for edit_id, (store, edit) in edits.items():
            secret = secrets[secret_key(store)]
            if isinstance(secret, LandfallError):
                outcomes[edit_id] = secret
                continue
            key = keys.setdefault(store_key(store), Writers.key(store, secret))
            groups.setdefault(key, _Group(store, secret)).edits.append(edit)

        async def write(group: _Group) -> dict[str, Outcome]:
            try:
                return await self._run(group.store, group.secret, group.write)
            except LandfallError as error:
                return dict.fromkeys((edit.id for edit in group.edits), error)

        for written in await together(write(group) for group in groups.values()):
            outcomes |= written
        return outcomes

    async def _secrets(self, stores: Sequence[StateStore]) -> dict[Key | None, Secret | LandfallError | None]:
        """Read the Secrets of State Stores, each once; a Secret that cannot be had is its stores' outcome."""
        by_key = {secret_key(store): store for store in stores}

        async def read(store: StateStore) -> Secret | LandfallError | None:
            try:
                return await read_secret(store, self._cluster, self._deadline)
            except LandfallError as error:
                return error

        return dict(zip(by_key, await together(read(store) for store in by_key.values()), strict=True))

    async def _run(
        self, store: StateStore, secret: Secret | None, act: Callable[[Writer, Deadline], Awaitable[_Result]]
    ) -> _Result:
        """Let the writer of a State Store act, within the store's share of the time.

        Raises:
            LandfallError: what the writer said; `OutOfTime` only where the function itself has no time left.
        """
        async with self._at_once:
            seconds = self._connections.settings.store_deadline_seconds
            try:
                return await self._run_with_fresh_credentials(store, secret, act)
            except OutOfTime:
                if self._deadline.remaining < 1:
                    raise
                raise StoreUnavailable(
                    f"{store.kind}/{store.name} did not finish a batch within {seconds:.0f} seconds"
                ) from None
            except LandfallError:
                raise
            except Exception as error:  # noqa: BLE001 -- one store's surprise must not take the other stores down
                log_unexpected(f"the writer of {store.name}", error)
                self.settled = False
                raise StoreUnavailable(
                    f"an unexpected {type(error).__name__}; the function's log has the place"
                ) from None

    async def _run_with_fresh_credentials(
        self, store: StateStore, secret: Secret | None, act: Callable[[Writer, Deadline], Awaitable[_Result]]
    ) -> _Result:
        """Act; where access is denied, once more with the Secret read again, as it may have been rotated."""
        writers = self._connections.writers
        warm = writers.has(store, secret)
        try:
            return await self._act(await writers.get(store, secret), act)
        except AccessDenied:
            await writers.drop(store, secret)
            fresh = await read_secret(store, self._cluster, self._within)
            if not warm and Writers.key(store, fresh) == Writers.key(store, secret):
                raise
            return await self._act(await writers.get(store, fresh), act)

    async def _act(self, writer: Writer, act: Callable[[Writer, Deadline], Awaitable[_Result]]) -> _Result:
        try:
            return await act(writer, self._within)
        finally:
            self.settled = self.settled and not writer.in_doubt
