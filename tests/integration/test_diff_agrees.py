"""What `landfall diff` says is what the next write does, file by file: random fleets, stores and changes of both."""

import random
from typing import Any

import pytest

from infra.cli.changes import DestinationChanges
from shared.messages import Reference
from shared.steering import PAUSED_ANNOTATION
from tests.integration.console_world import World
from tests.integration.platform_team import API_VERSION, GROUP, Platform
from tests.integration.test_documents import group
from tests.servers.kubernetes import KubernetesApi

MODES = ("nestedByMetadata", "none", "aggregatedYAML")
FILES = ("one.yaml", "two.yaml", "deep/three.yaml", "kratix-canary-namespace.yaml")


def files(chance: random.Random) -> dict[str, bytes]:
    names = chance.sample(FILES, chance.randint(1, 3))
    return {name: chance.choice([b"a: 1\n", b"b: 2\n", b""]) for name in names}


class Fleet:
    """A random fleet, and random changes of it."""

    def __init__(self, platform: Platform, chance: random.Random) -> None:
        self._platform = platform
        self._chance = chance
        self._names: dict[str, dict[str, Any]] = {}

    def begin(self) -> None:
        self._platform.secret("any", accessKeyID="a", secretAccessKey="s", username="u", password="p")
        bucket = {"endpoint": "s3.example.com", "bucketName": "landfall", "secretRef": {"name": "any"}}
        self._platform.bucket_store("one", **bucket, path=self._chance.choice(["", "below"]))
        self._platform.git_store("two", url="https://git.example.com/a", secretRef={"name": "any"}, path="fleet")
        for number in range(self._chance.randint(2, 4)):
            self._names[f"d{number}"] = self._spec(f"d{number}")
        for name, spec in self._names.items():
            self._platform.destination(name, **spec)
        for number in range(self._chance.randint(1, 3)):
            self._work(f"w{number}")

    def _spec(self, name: str) -> dict[str, Any]:
        return {
            "store": self._chance.choice(["bucket/one", "git/two"]),
            "path": self._chance.choice([name, f"d0/inner/{name}", "same", f"{name}/sub"]),
            "cleanup": self._chance.choice(["all", "none"]),
            "filepath": {"mode": self._chance.choice(MODES)},
            "initWorkloads": {"enabled": self._chance.random() < 0.8},
            "labels": {"team": self._chance.choice(["red", "blue"])},
        }

    def _work(self, name: str) -> None:
        match = self._chance.choice([{}, {"team": "red"}, {"team": "blue"}])
        resource = self._chance.choice(["", "mine"])
        self._platform.work(name, group(files(self._chance), **match), promise=name, resource=resource)

    def by_hand(self, stores: dict[str, dict[str, bytes]]) -> None:
        """Change files as a person would: one goes, one is edited, one comes."""
        for held in stores.values():
            for path in self._chance.sample(sorted(held), min(len(held), 2)):
                if self._chance.random() < 0.5:
                    del held[path]
                else:
                    held[path] = b"by hand\n"
            if held and self._chance.random() < 0.7:
                folder = self._chance.choice(sorted(held)).rpartition("/")[0]
                held[f"{folder}/stranger.yaml" if folder else "stranger.yaml"] = b"not ours\n"

    def manifest(self) -> dict[str, Any]:
        """Return a changed Destination, or a changed or new Work."""
        name = self._chance.choice(sorted(self._names))
        if self._chance.random() < 0.3:
            named = {"name": self._chance.choice(["w0", "new"]), "namespace": "default"}
            groups = [group(files(self._chance), **self._chance.choice([{}, {"team": "red"}]))]
            work = {"promiseName": named["name"], "workloadGroups": groups}
            return {"apiVersion": API_VERSION, "kind": "Work", "metadata": named, "spec": work}
        known = self._names[name]
        others = [str(spec["path"]) for spec in self._names.values()]
        spec: dict[str, Any] = {"path": self._chance.choice([f"moved/{name}", "d0", *others])}
        if self._chance.random() < 0.5:
            spec["cleanup"] = self._chance.choice(["all", "none"])
        kind = {"bucket": "BucketStateStore", "git": "GitStateStore"}
        store = self._chance.choice([known["store"], "bucket/one", "git/two"])
        spec["stateStoreRef"] = {"kind": kind[store.partition("/")[0]], "name": store.partition("/")[2]}
        metadata = {"name": name, "labels": known["labels"]}
        return {"apiVersion": API_VERSION, "kind": "Destination", "metadata": metadata, "spec": spec}

    def apply(self, obj: dict[str, Any]) -> None:
        plural, namespace = ("works", "/namespaces/default") if obj["kind"] == "Work" else ("destinations", "")
        self._platform._apply(f"{GROUP}{namespace}/{plural}", obj["metadata"]["name"], obj)

    def delete_one(self) -> None:
        self._platform.delete("destinations", self._chance.choice(sorted(self._names)))

    def pause_one(self) -> None:
        """Pause a Destination or a State Store, in one of four fleets."""
        if self._chance.random() < 0.25:
            objects = [f"destinations/{name}" for name in self._names]
            path = f"{GROUP}/{self._chance.choice([*objects, 'bucketstatestores/one', 'gitstatestores/two'])}"
            patch = {"metadata": {"annotations": {PAUSED_ANNOTATION: "true"}}}
            answer = self._platform.api.request("PATCH", path, patch, content_type="application/merge-patch+json")
            assert answer.status == 200, answer


def after(stores: dict[str, dict[str, bytes]], foretold: list[DestinationChanges]) -> dict[str, dict[str, bytes]]:
    """Return what the State Stores hold once what was foretold is done."""
    found = {name: dict(held) for name, held in stores.items()}
    for one in foretold:
        for file in one.files:
            held = found.setdefault(file.store.partition("/")[2], {})
            assert (file.path in held) == file.replaces or file.after is None, file
            assert file.before == held.get(file.path), file
            if file.after is None:
                held.pop(file.path, None)
    for one in foretold:
        for file in one.files:
            if file.after is not None:
                found[file.store.partition("/")[2]][file.path] = file.after
    return {name: held for name, held in found.items() if held}


# Half of them have disagreed once.
SEEDS = (0, 1, 2, 3, 4, 9, 10, 13, 75, 113, 138, 186)


@pytest.mark.parametrize("seed", SEEDS)
async def test_the_next_write_does_what_diff_says(cluster: KubernetesApi, platform: Platform, seed: int) -> None:
    chance = random.Random(seed)
    fleet = Fleet(platform, chance)
    fleet.begin()
    async with World.on(cluster) as world:
        await world.everything()
        await world.everything()
        fleet.by_hand(world.files)
        fleet.pause_one()
        manifests = [fleet.manifest()] if seed % 3 == 0 else []
        if seed % 3 == 1:
            fleet.delete_one()
        foretold = await world.foretold(manifests)
        expected = after(world.files, foretold)
        for obj in manifests:
            fleet.apply(obj)
            metadata = obj["metadata"]
            named = Reference(kind=obj["kind"], namespace=metadata.get("namespace", ""), name=metadata["name"])
            await world.happens([named])  # before a look at the others mends what was done to them by hand
        if manifests:  # placements are not foretold of a deletion: what goes elsewhere then is a later write
            await world.everything(only=("works", "status"))
        for _ in range(3):  # a deletion takes its WorkPlacements first
            await world.everything(only=("canary", "documents", "cleanup", "status"))
        found = {name: held for name, held in world.files.items() if held}
        wrong = {
            f"{store}:{path}": (found.get(store, {}).get(path), expected.get(store, {}).get(path))
            for store in found.keys() | expected.keys()
            for path in found.get(store, {}).keys() | expected.get(store, {}).keys()
            if found.get(store, {}).get(path) != expected.get(store, {}).get(path)
        }
        assert wrong == {}, "by path: what is there, what diff said"
