"""What people do, drawn from one seed, to State Stores, Secrets, buckets and branches."""

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable

from tests.chaos.journal import FOR_EVER
from tests.chaos.model import canaries, invalid, join, within
from tests.chaos.operations import Destinations
from tests.chaos.world import SECRETS, StateStore, World, replace_branch

Action = Callable[[], Awaitable[None]]


class Neighbours:
    """Changes State Stores and Secrets, and files that others, or nobody, ought to have changed."""

    def __init__(self, world: World, chance: random.Random, destinations: Destinations) -> None:
        self._world = world
        self._journal = world.journal
        self._random = chance
        self._destinations = destinations
        self._due: list[tuple[float, Action]] = []
        self._broken: set[str] = set()  # State Stores and Secrets that wait to be put right

    def draw(self) -> Action:
        """Draw what to do next."""
        actions: dict[Action, int] = {
            self._change_path: 2,
            self._break_secret: 3,
            self._drop_secret: 2,
            self._rotate: 2,
            self._drop_store: 2,
            self._push: 9,
            self._remove_own: 2,
            self._tamper: 5,
            self._empty: 1,
            self._force_push: 1,
            self._drop_branch: 1,
        }
        return self._random.choices(list(actions), list(actions.values()))[0]

    async def put_right(self, *, all_of_them: bool = False) -> None:
        """Put right what is due."""
        now = time.monotonic()
        due = [item for item in self._due if all_of_them or item[0] <= now]
        self._due = [item for item in self._due if item not in due]
        for _, action in due:
            await action()

    async def leave_two_broken(self) -> None:
        """End with a State Store that is not there, and one whose Secret is wrong: their Destinations must say so."""
        gone, wrong = self._random.sample(list(self._world.stores.values()), 2)
        await self._undeclare(gone)
        await self._world.set_secret(wrong, _wrong(wrong))

    def _later(self, action: Action) -> None:
        self._due.append((time.monotonic() + self._random.uniform(0.5, 5), action))

    def _store(self) -> StateStore | None:
        """Return some State Store with which all is well."""
        stores = [store for store in self._world.stores.values() if store.key[1] not in self._broken]
        return self._random.choice(stores) if stores else None

    async def _change_path(self) -> None:
        store = self._store()
        if store is None:
            return
        began, path = time.monotonic(), self._random.choice(store.paths)
        await self._world.call("PATCH", f"{store.path}/{store.key[1]}", {"spec": {"path": path}})
        versions = self._journal.stores[store.key]
        self._journal.change(versions, type(versions[-1].spec)(store.where, path), began)
        self._count("State Stores' paths changed")

    async def _break_secret(self) -> None:
        store = self._store()
        if store is not None:
            incomplete = dict(list(store.right.items())[:1])
            await self._world.set_secret(store, incomplete if self._random.random() < 0.3 else _wrong(store))
            self._repair(store, lambda: self._world.set_secret(store, store.right))
            self._count("Secrets made wrong, then right")

    async def _drop_secret(self) -> None:
        store = self._store()
        if store is not None:
            await self._world.call("DELETE", f"{SECRETS}/{store.secret}")
            self._repair(store, lambda: self._world.set_secret(store, store.right))
            self._count("Secrets deleted and re-created")

    async def _rotate(self) -> None:
        """Change a password where it is checked, and a moment later in the Secret."""
        store = self._store()
        if store is None or store.key[0] != "GitStateStore":
            return
        store.right["password"] = secrets.token_urlsafe(12)
        self._world.git.set_password(store.key[1], store.right["password"])
        self._repair(store, lambda: self._world.set_secret(store, store.right))
        self._count("passwords rotated")

    async def _drop_store(self) -> None:
        store = self._store()
        if store is not None:
            await self._undeclare(store)
            self._repair(store, lambda: self._world.declare(store, self._random.choice(store.paths)))
            self._count("State Stores deleted and re-created")

    def _repair(self, store: StateStore, action: Action) -> None:
        self._broken.add(store.key[1])

        async def repair() -> None:
            await action()
            self._broken.discard(store.key[1])

        self._later(repair)

    async def _undeclare(self, store: StateStore) -> None:
        await self._world.call("DELETE", f"{store.path}/{store.key[1]}")
        self._journal.stores[store.key][-1].until = time.monotonic()

    def _place(self) -> str:
        return self._random.choice([*self._world.buckets, *self._world.repositories])

    async def _push(self) -> None:
        """Put files beside those of Destinations: outside, next to one with a like name, and into their directories."""
        where, number = self._place(), self._random.randrange(10**6)
        directory = self._random.choice(
            (
                "other",
                "env/other",
                "env/worker-1x",
                "worker-1",
                "env/worker-1",
                "env/worker-10/by/hand",
                "env/shared",
                "",
            )
        )
        files = {
            join(directory, f"theirs-{number}-{at}.yaml"): secrets.token_bytes(40)
            for at in range(self._random.randrange(1, 4))
        }
        await self._world.set_files(where, files)
        self._count("pushes by someone else" if where in self._world.repositories else "objects of someone else put")

    async def _remove_own(self) -> None:
        where = self._place()
        there = await self._world.read(where)
        theirs = [path for path, _ in self._journal.strangers(where) if path in there and "theirs" in path]
        if theirs:
            await self._world.set_file(where, self._random.choice(theirs), None)
            self._count("files of someone else taken away again")

    async def _tamper(self) -> None:
        """Edit or remove a canary by hand."""
        each = self._destinations.random_live()
        if each is None:
            return
        spec = each.versions[-1].spec
        versions = self._journal.stores[spec.store]
        if versions[-1].until != FOR_EVER or invalid(spec.path):
            return
        place = versions[-1].spec
        path = self._random.choice(list(canaries(join(place.path, spec.path or each.name), spec.mode)))
        if path not in await self._world.read(place.where):
            return
        removed = self._random.random() < 0.5
        await self._world.set_file(place.where, path, None if removed else b"edited: by hand\n")
        self._count("canaries removed by hand" if removed else "canaries edited by hand")

    async def _empty(self) -> None:
        """Delete everything below a prefix."""
        where = self._place()
        prefix = self._random.choice(("env", "moved", "env/worker-1", "worker-1", "env/shared"))
        there = [path for path in await self._world.read(where) if within(path, prefix)]
        if there:
            await self._world.set_files(where, dict.fromkeys(there, None))
            self._count("prefixes emptied")

    async def _force_push(self) -> None:
        """Replace a branch's history by one commit that holds the files of others, and nothing of ours."""
        where = self._random.choice(list(self._world.repositories))
        began, there = time.monotonic(), await self._world.read(where)
        strangers = dict(self._journal.strangers(where))
        kept = {path: there[path] for path in strangers if path in there}
        if not kept:
            return
        await asyncio.to_thread(replace_branch, self._world.repositories[where], kept)
        for path in strangers:
            self._journal.put(where, path, kept.get(path), began)
        self._count("branches force-pushed")

    async def _drop_branch(self) -> None:
        where = self._random.choice(list(self._world.repositories))
        repository = self._world.repositories[where]
        if repository.head() is None:
            return
        began = time.monotonic()
        await asyncio.to_thread(repository.delete_branch)
        for path, _ in list(self._journal.strangers(where)):
            self._journal.put(where, path, None, began)
        self._count("branches deleted")

    def _count(self, what: str) -> None:
        self._journal.operations[what] += 1


def _wrong(store: StateStore) -> dict[str, str]:
    return {**store.right, list(store.right)[-1]: "not-the-right-one"}
