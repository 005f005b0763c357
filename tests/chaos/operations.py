"""What people do, drawn from one seed: to Destinations here, to State Stores, Secrets and files in `neighbours`."""

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from tests.chaos.journal import FOR_EVER, Deletion, Incarnation, Spec, Store, Version
from tests.chaos.model import canaries, invalid, join
from tests.chaos.verdicts import FINALIZER
from tests.chaos.world import GROUP, World

DESTINATIONS = f"{GROUP}/destinations"
MODES = ("nestedByMetadata", "nestedByMetadata", "none", "aggregatedYAML")

# Left out, nested in others, shared by many under several spellings, the root, a refused one.
PATHS = (
    *("" for _ in range(10)),
    *("shared", "./shared//", "/shared", "env/shared"),
    *("worker-1/inner", "worker-1/inner/deep", "worker-1/dependencies", "worker-10/resources", "worker-2/x"),
    *("worker-1", "worker-10", "team-a/one", "team-a", "team-a/two"),
    "/",
    "a" * 256,  # no file system has such a name; the CRD lets it pass
)


class Destinations:
    """Creates, changes and deletes Destinations, and records what became of it.

    Attributes:
        reborn: names that were deleted and are to be created again at once, each with its spec.
    """

    def __init__(self, world: World, chance: random.Random, names: int) -> None:
        self._world = world
        self._journal = world.journal
        self._random = chance
        self._names = [f"worker-{number}" for number in (*range(1, names - 1), 10 * names, 100)]
        self.reborn: dict[str, Spec] = {}

    async def look(self) -> None:
        """Record which of those that were deleted are gone by now."""
        uids = {obj["metadata"]["uid"] for obj in await self._world.objects("Destination")}
        for each in self._journal.destinations:
            if each.deletion is not None and each.deletion.gone == FOR_EVER and each.uid not in uids:
                each.deletion.gone = time.monotonic()
        for name, spec in list(self.reborn.items()):
            if await self._create(name, spec):
                del self.reborn[name]
                self._count("re-created under the same name")

    def draw(self) -> Callable[[], Awaitable[None]]:
        """Draw what to do next with some Destination."""
        live = [name for name in self._names if self._journal.live(name)]
        if len(live) < len(self._names) // 2 or (len(live) < len(self._names) and self._random.random() < 0.3):
            return self._create_one
        actions = {
            self._move: 5,
            self._flip_cleanup: 3,
            self._flip_init: 3,
            self._relabel: 2,
            self._change_store: 2,
            self._change_mode: 1,
            self._delete_one: 4,
            self._delete_and_create: 4,
            self._flip_and_delete: 1,
        }
        return self._random.choices(list(actions), list(actions.values()))[0]

    def random_live(self) -> Incarnation | None:
        """Return some Destination that is not being deleted."""
        live = [each for name in self._names if (each := self._journal.live(name))]
        return self._random.choice(live) if live else None

    async def _create_one(self) -> None:
        free = [name for name in self._names if not self._journal.live(name) and name not in self.reborn]
        if free and await self._create(self._random.choice(free), self._spec()):
            self._count("created")

    async def _create(self, name: str, spec: Spec) -> bool:
        body = {
            "apiVersion": "platform.kratix.io/v1alpha1",
            "kind": "Destination",
            "metadata": {"name": name, "labels": {"round": str(self._random.randrange(9))}},
            "spec": _as_declared(spec),
        }
        began = time.monotonic()
        answer = await self._world.request("POST", DESTINATIONS, body)
        if answer.status == 409:  # the one before waits for its clean-up
            return False
        assert answer.status == 201, answer
        before = self._journal.latest(name)
        if before is not None and before.deletion is not None:
            before.deletion.gone = min(before.deletion.gone, time.monotonic())
        metadata = answer.json()["metadata"]
        self._journal.destinations.append(
            Incarnation(metadata["uid"], name, metadata["creationTimestamp"], [Version(spec, began)])
        )
        return True

    async def _move(self) -> None:
        await self._change("path changed", lambda spec: replace(spec, path=self._random.choice(PATHS)))

    async def _flip_cleanup(self) -> None:
        await self._change("cleanup changed", _flipped)

    async def _flip_init(self) -> None:
        await self._change("initWorkloads changed", lambda spec: replace(spec, init=not spec.init))

    async def _change_store(self) -> None:
        await self._change("moved to another State Store", lambda spec: replace(spec, store=self._store()))

    async def _change(self, what: str, change: Callable[[Spec], Spec]) -> None:
        each = self.random_live()
        if each is None:
            return
        spec = change(each.versions[-1].spec)
        began = time.monotonic()
        answer = await self._world.request("PATCH", f"{DESTINATIONS}/{each.name}", {"spec": _as_declared(spec)})
        assert answer.status == 200, answer
        if spec != each.versions[-1].spec:
            self._journal.change(each.versions, spec, began)
        self._count(what)

    async def _relabel(self) -> None:
        each = self.random_live()
        if each is not None:
            labels = {"metadata": {"labels": {"round": str(self._random.randrange(9))}}}
            await self._world.call("PATCH", f"{DESTINATIONS}/{each.name}", labels)
            self._count("labels changed")

    async def _change_mode(self) -> None:
        each = self.random_live()
        if each is not None:
            other = next(mode for mode in MODES if mode != each.versions[-1].spec.mode)
            patch = {"spec": {"filepath": {"mode": other}}}
            answer = await self._world.request("PATCH", f"{DESTINATIONS}/{each.name}", patch)
            assert answer.status == 422, f"filepath.mode is immutable, and was changed: {answer}"
            self._count("mode changes refused by the API server")

    async def _delete_one(self) -> None:
        each = self.random_live()
        if each is not None:
            await self.delete(each)
            self._count("deleted")

    async def _delete_and_create(self) -> None:
        each = self.random_live()
        if each is not None:
            await self.delete(each)
            self.reborn[each.name] = self._spec() if self._random.random() < 0.5 else each.versions[-1].spec
            await self.look()

    async def _flip_and_delete(self) -> None:
        """Turn cleanup on or off and delete at once, before anybody can have seen it."""
        each = self.random_live()
        if each is None:
            return
        spec = _flipped(each.versions[-1].spec)
        began = time.monotonic()
        await self._world.call("PATCH", f"{DESTINATIONS}/{each.name}", {"spec": _as_declared(spec)})
        self._journal.change(each.versions, spec, began)
        await self.delete(each)
        self._count("cleanup changed and deleted at once")

    async def delete(self, each: Incarnation) -> None:
        """Delete a Destination; of one without clean-up, what lies there now is to stay."""
        spec = each.versions[-1].spec
        if spec.cleanup == "none":
            await self._note_what_stays(each, spec)
        requested = time.monotonic()
        answer = await self._world.request("DELETE", f"{DESTINATIONS}/{each.name}")
        assert answer.status == 200, answer
        obj = answer.json()
        # The API server answers with the object where it stays for its finalizers, with a Status where it is gone.
        waits = obj.get("kind") == "Destination" and bool(obj["metadata"].get("deletionTimestamp"))
        finalizer = waits and FINALIZER in (obj["metadata"].get("finalizers") or [])
        each.deletion = Deletion(requested, finalizer, FOR_EVER if waits else time.monotonic())

    async def _note_what_stays(self, each: Incarnation, spec: Spec) -> None:
        versions = self._journal.stores.get(spec.store, [])
        if not versions or versions[-1].until != FOR_EVER or invalid(spec.path):
            return
        place = versions[-1].spec
        mine = canaries(join(place.path, spec.path or each.name), spec.mode)
        began = time.monotonic()
        held = await self._world.read(place.where)
        for path in mine:
            if path in held:
                self._journal.put(place.where, path, held[path], began, each.uid)

    def _spec(self) -> Spec:
        choose = self._random.choice
        cleanup = "all" if self._random.random() < 0.6 else "none"
        path = choose(PATHS)
        if join(path) == "" and path and self._random.random() < 0.7:
            path = ""  # a root that is cleaned takes everybody's files with it: seldom
        return Spec(self._store(), path, choose(MODES), cleanup, self._random.random() < 0.85)

    def _store(self) -> Store:
        return self._random.choice(list(self._world.stores))

    def _count(self, what: str) -> None:
        self._journal.operations[f"Destinations {what}"] += 1


def _flipped(spec: Spec) -> Spec:
    return replace(spec, cleanup="all" if spec.cleanup == "none" else "none")


def _as_declared(spec: Spec) -> dict[str, Any]:
    kind, name = spec.store
    return {
        "path": spec.path,
        "cleanup": spec.cleanup,
        "filepath": {"mode": spec.mode},
        "initWorkloads": {"enabled": spec.init},
        "stateStoreRef": {"kind": kind, "name": name},
    }
