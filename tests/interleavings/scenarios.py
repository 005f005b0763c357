"""Pairs of operations on one WorkPlacement, Destination or Work: what users do, and the world before it."""

import base64
import gzip
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from infra.local.embedded.kubernetes.store import ApiError
from tests.interleavings.git_remote import Remote
from tests.interleavings.oracle import Expectation, differences
from tests.interleavings.running import Act, Plan, Runner
from tests.interleavings.s3 import Bucket
from tests.interleavings.world import World

Object = dict[str, Any]

MODES: Final = ("nestedByMetadata", "none", "aggregatedYAML")
STORES: Final = ("bucket", "git")
GIT_URL: Final = "https://git.example.com/platform/documents.git"
BUCKET: Final = "documents"
STRANGERS: Final[Mapping[str, bytes]] = {
    "README.md": b"somebody's\n",
    "worker-1/resources/x.yaml": b"a sibling's\n",
    "worker/notes.txt": b"of somebody, in the Destination's directory\n",
    "moved/notes.txt": b"of somebody, where the Destination moves to\n",
}
_REPO: Final = "finalizers.workplacement.kratix.io/repo-cleanup"
_STATE_FILE: Final = "finalizers.workplacement.kratix.io/kratix-dot-files-cleanup"


@dataclass(frozen=True)
class Scenario:
    """Two operations on one object.

    Attributes:
        target: `placement`, `destination` or `work`.
        first, second: names of operations.
    """

    target: str
    mode: str
    store: str
    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.target}/{self.mode}/{self.store}/{self.first}+{self.second}"

    @classmethod
    def parse(cls, text: str) -> "Scenario":
        """Read a scenario's name."""
        target, mode, store, pair = text.split("/")
        first, _, second = pair.partition("+")
        return cls(target, mode, store, first, second)

    @property
    def has_another(self) -> bool:
        """Whether there is a Destination that no Work selects."""
        return not {"match", "select-other"}.isdisjoint({self.first, self.second})

    @property
    def where(self) -> str:
        """The place that the Destination is in."""
        return BUCKET if self.store == "bucket" else GIT_URL


@dataclass
class Ran:
    """A schedule that was run.

    Attributes:
        runner: with the trace.
        before: what was wrong at rest.
        after: what was wrong after a resync on top; None where none was needed.
    """

    runner: Runner
    before: list[str]
    after: list[str] | None


def run(scenario: Scenario, plan: Plan, *, resync: bool = False) -> Ran:
    """Run one schedule, and judge it.

    Args:
        resync: do it where nothing was wrong before, too.
    """
    absent, other = "write" in (scenario.first, scenario.second) and scenario.first != "delete", scenario.has_another
    world = _prepared(scenario.target, scenario.mode, scenario.store, absent, other).fork()
    expected = Expectation({scenario.where: STRANGERS})
    operations = _OPERATIONS[scenario.target]
    second = "update-again" if scenario.first == scenario.second == "update" else scenario.second
    acts = [operations[name](scenario, expected) for name in (scenario.first, second)]
    runner = Runner(world, acts, plan)
    runner.run()
    before = differences(world, expected)
    after = None
    if before or resync:
        again = Runner(world, [[tick]], Plan())
        again.run()
        runner.trace += again.trace
        after = differences(world, expected)
    world.close()
    return Ran(runner, before, after)


def all_scenarios() -> Iterator[Scenario]:
    """Yield every pair of operations, in every mode, on both kinds of State Store."""
    for target, pairs in PAIRS.items():
        for mode in MODES:
            for store in STORES:
                for first, second in pairs:
                    yield Scenario(target, mode, store, first, second)


# Each mode, and each kind of State Store: the ones that `make test` explores. `make fuzz` has all six.
_QUICK: Final = (("nestedByMetadata", "bucket"), ("none", "bucket"), ("aggregatedYAML", "git"))


def quick_scenarios() -> Iterator[Scenario]:
    """Yield every pair of operations, in every mode on one kind of State Store."""
    return (scenario for scenario in all_scenarios() if (scenario.mode, scenario.store) in _QUICK)


_SAME: Final = tuple(
    (first, second)
    for first in ("write", "update", "delete", "recreate", "move", "resync")
    for second in ("write", "update", "delete", "recreate", "move", "resync")
    # What cannot be: to write what is there, or to change and delete what is gone.
    if not (second == "write" and first != "delete")
    and not (first == "delete" and second in {"update", "delete", "recreate"})
    and (first, second) != ("resync", "resync")
)
# Who has a directory: one that another one has, leaves or takes; one inside another's; two that change places.
_CLAIMS: Final = (
    *(("rival", second) for second in ("delete", "recreate", "move", "resync", "delete-rival")),
    *(("nest", second) for second in ("delete", "recreate", "move", "resync", "delete-inner")),
    ("exchange", "move-to-younger"),
)
PAIRS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "placement": (*_SAME, ("write", "neighbour"), ("update", "neighbour"), ("write", "twin")),
    "destination": (*_SAME, ("flaky", "update"), ("flaky", "resync"), ("touch", "take-over"), *_CLAIMS),
    "work": (
        *(pair for pair in _SAME if "move" not in pair),
        ("write", "delete-destination"),
        ("update", "delete-destination"),
        ("resync", "delete-destination"),
        # The Destination is relabelled, so that its Work's selectors match it no longer; or match it at last.
        ("write", "relabel"),
        ("update", "relabel"),
        ("recreate", "relabel"),
        ("resync", "relabel"),
        ("relabel", "relabel-back"),
        ("relabel", "update"),
        ("relabel", "delete-destination"),
        ("write", "match"),
        ("match", "write"),
        ("match", "select-other"),
        ("select-other", "match"),
    ),
}

Operation = Callable[[Scenario, Expectation], list[Act]]


def content(text: bytes) -> str:
    """Return a document as a WorkPlacement carries it."""
    return base64.b64encode(gzip.compress(text, 1, mtime=0)).decode()


def workloads(files: Mapping[str, bytes]) -> list[Object]:
    """Return documents as a WorkPlacement has them."""
    return [{"filepath": path, "content": content(text)} for path, text in files.items()]


def placement(name: str, mode: str, files: Mapping[str, bytes], **spec: Any) -> Object:
    """Return a WorkPlacement that nobody has scheduled."""
    return {
        "metadata": {
            "name": name,
            "labels": {"kratix.io/targetDestinationName": "worker", "kratix.io/pipeline-name": "pipeline"},
            "finalizers": [_REPO, *([_STATE_FILE] if mode == "none" else [])],
        },
        "spec": {
            "targetDestinationName": "worker",
            "promiseName": "redis",
            "resourceName": name,
            "id": "abcdef",
            "generation": 1,
            "workloads": workloads(files),
            **spec,
        },
    }


def destination(name: str, mode: str, store: str, **spec: Any) -> Object:
    """Return a Destination."""
    kind = "BucketStateStore" if store == "bucket" else "GitStateStore"
    return {
        "metadata": {"name": name, "labels": {"environment": "dev"}},
        "spec": {
            "filepath": {"mode": mode},
            "cleanup": "all",
            "stateStoreRef": {"kind": kind, "name": "store"},
            **spec,
        },
    }


def work(groups: Mapping[str, Mapping[str, bytes]], environment: str = "dev") -> Object:
    """Return a Work: a Promise's dependencies."""
    return {
        "metadata": {"name": "app", "labels": {"kratix.io/pipeline-name": "pipeline"}},
        "spec": {
            "promiseName": "redis",
            "workloadGroups": [
                {
                    "id": group,
                    "directory": ".",
                    "destinationSelectors": [{"matchLabels": {"environment": environment}, "source": "promise"}],
                    "workloads": workloads(files),
                }
                for group, files in groups.items()
            ],
        },
    }


@cache
def _prepared(target: str, mode: str, store: str, absent: bool, other: bool = False) -> World:
    """Return the world before the operations, at rest: with the target written, or without it.

    Args:
        other: whether there is a Destination besides, whose labels no Work selects.
    """
    world = World.new()
    declare_store(world, store, STRANGERS)
    if not (target == "destination" and absent):
        world.create("Destination", destination("worker", mode, store))
    if other:
        apart = destination("other", mode, store)
        world.create("Destination", {**apart, "metadata": {"name": "other", "labels": {"environment": "test"}}})
    if target == "work" and not absent:
        world.create("Work", work(_WORK_1), "default")
    if target == "placement" and not absent:
        world.create("WorkPlacement", placement("w", mode, _FILES_1), "default")
    if target == "destination" and not absent:
        world.create("WorkPlacement", placement("w", mode, _FILES_1), "default")
    Runner(world, [], Plan()).run()
    Runner(world, [[tick]], Plan()).run()
    place = BUCKET if store == "bucket" else GIT_URL
    wrong = differences(world, Expectation({place: STRANGERS}))
    if wrong:
        raise AssertionError(f"the world is wrong before anything is done: {wrong}")
    return world


def declare_store(world: World, store: str, files: Mapping[str, bytes]) -> None:
    """Create a State Store that holds somebody's files, with its Secret."""
    secret = {
        name: base64.b64encode(b"x").decode() for name in ("accessKeyID", "secretAccessKey", "username", "password")
    }
    world.create("Secret", {"metadata": {"name": "credentials"}, "data": secret}, "default")
    reference = {"name": "credentials", "namespace": "default"}
    if store == "bucket":
        world.buckets[BUCKET] = Bucket(world.machine, BUCKET, files)
        spec = {"endpoint": "s3.example.com", "bucketName": BUCKET, "secretRef": reference}
        world.create("BucketStateStore", {"metadata": {"name": "store"}, "spec": spec})
    else:
        world.remotes[GIT_URL] = Remote.with_files(world.machine, GIT_URL, files)
        spec = {"url": GIT_URL, "branch": "main", "secretRef": reference}
        world.create("GitStateStore", {"metadata": {"name": "store"}, "spec": spec})


_FILES_1: Final = {"a.yaml": b"a: 1\n", "b.yaml": b"b: 1\n"}
_FILES_2: Final = {"b.yaml": b"b: 2\n", "c.yaml": b"c: 2\n"}
_FILES_3: Final = {"d.yaml": b"d: 3\n"}
_WORK_1: Final = {"aaaaa1": {"a.yaml": b"a: 1\n"}}
_WORK_2: Final = {"aaaaa1": {"b.yaml": b"b: 2\n"}, "bbbbb2": {"c.yaml": b"c: 2\n"}}
_WORK_3: Final = {"ccccc3": {"d.yaml": b"d: 3\n"}}


def tick(world: World) -> bool:
    """The schedule invokes resync."""
    world.tick(world.machine.cause)
    return True


def _once(kind: str, namespace: str, name: str, change: Callable[[Object], None]) -> Act:
    def change_it(world: World) -> bool:
        found = world.store.find(kind, namespace, name)
        if found is None or found["metadata"].get("deletionTimestamp"):
            return False
        world.patch(kind, namespace, name, change)
        return True

    return change_it


def _create(kind: str, namespace: str, obj: Object) -> Act:
    def create(world: World) -> bool:
        try:
            world.create(kind, obj, namespace)
        except ApiError:
            return False
        return True

    return create


def delete(kind: str, namespace: str, name: str) -> Act:
    """Return the deletion of an object, if it is there."""

    def delete_it(world: World) -> bool:
        if world.store.find(kind, namespace, name) is not None:
            world.delete(kind, namespace, name)
        return True

    return delete_it


def create_or_pass(kind: str, namespace: str, obj: Object) -> Act:
    """Return the creation of an object; one that is there already stays, one that is leaving is waited for."""

    def create(world: World) -> bool:
        found = world.store.find(kind, namespace, obj["metadata"]["name"])
        if found is None:
            world.create(kind, obj, namespace)
        return found is None or not found["metadata"].get("deletionTimestamp")

    return create


def change_or_pass(kind: str, namespace: str, name: str, change: Callable[[Object], None]) -> Act:
    """Return the change of an object, if it is there and not leaving."""

    def change_it(world: World) -> bool:
        found = world.store.find(kind, namespace, name)
        if found is not None and not found["metadata"].get("deletionTimestamp"):
            world.patch(kind, namespace, name, change)
        return True

    return change_it


def delete_destination(name: str, where: str, expected: Expectation) -> Act:
    """Return the deletion of a Destination with cleanup: all, below whose path nobody's files need to stay."""

    def delete_it(world: World) -> bool:
        found = world.store.find("Destination", "", name)
        if found is not None:
            expected.cleaned.setdefault(where, set()).add(found["spec"].get("path") or name)
            world.delete("Destination", "", name)
        return True

    return delete_it


def _set_spec(**spec: Any) -> Callable[[Object], None]:
    return lambda obj: obj["spec"].update(spec)


def _resync(scenario: Scenario, expected: Expectation) -> list[Act]:
    return [tick]


def _move(scenario: Scenario, expected: Expectation) -> list[Act]:
    # With cleanup: all, everything below the old path goes, as in a deletion (docs/kinds/destination.md).
    expected.cleaned.setdefault(scenario.where, set()).add("worker")
    return [_once("Destination", "", "worker", _set_spec(path="moved"))]


def _of_placement() -> Mapping[str, Operation]:
    there = ("WorkPlacement", "default", "w")
    return {
        "write": lambda s, e: [_create("WorkPlacement", "default", placement("w", s.mode, _FILES_1))],
        "update": lambda s, e: [_once(*there, _set_spec(workloads=workloads(_FILES_2)))],
        "update-again": lambda s, e: [_once(*there, _set_spec(workloads=workloads(_FILES_3)))],
        "delete": lambda s, e: [delete(*there)],
        "recreate": lambda s, e: [
            delete(*there),
            _create("WorkPlacement", "default", placement("w", s.mode, _FILES_3)),
        ],
        "neighbour": lambda s, e: [_create("WorkPlacement", "default", placement("v", s.mode, _FILES_3))],
        # Another Work of the same Promise, pipeline and group has the same directory.
        "twin": lambda s, e: [
            _create("WorkPlacement", "default", placement("v", s.mode, _FILES_3, resourceName="w")),
        ],
        "move": _move,
        "resync": _resync,
    }


def _of_destination() -> Mapping[str, Operation]:
    there = ("Destination", "", "worker")

    def cleaned(scenario: Scenario, expected: Expectation) -> Act:
        return delete_destination("worker", scenario.where, expected)

    def flaky(world: World) -> bool:
        """The schedule invokes resync while the State Store denies access for a moment."""
        for bucket in world.buckets.values():
            bucket.denied = 4
        for remote in world.remotes.values():
            remote.denied = 1
        return tick(world)

    return {
        "write": lambda s, e: [_create("Destination", "", destination("worker", s.mode, s.store))],
        "update": lambda s, e: [_once(*there, _set_spec(initWorkloads={"enabled": False}))],
        "update-again": lambda s, e: [_once(*there, _set_spec(initWorkloads={"enabled": True}))],
        "touch": lambda s, e: [_older(s), _create("Destination", "", _younger(s))],
        "take-over": lambda s, e: [_once("Destination", "", "younger", _set_spec(path="worker"))],
        # A younger one of the same path, one inside the path, and one that comes to it while that one goes to its own.
        "rival": lambda s, e: [
            _older(s),
            _create("Destination", "", destination("rival", s.mode, s.store, path="worker")),
        ],
        "delete-rival": lambda s, e: [delete_destination("rival", s.where, e)],
        "nest": lambda s, e: [
            _create("Destination", "", destination("inner", s.mode, s.store, path="worker/inside")),
        ],
        "delete-inner": lambda s, e: [delete_destination("inner", s.where, e)],
        "exchange": _exchange,
        "move-to-younger": lambda s, e: [_once(*there, _set_spec(path="younger"))],
        "flaky": lambda s, e: [flaky],
        "delete": lambda s, e: [cleaned(s, e)],
        "recreate": lambda s, e: [cleaned(s, e), _create("Destination", "", destination("worker", s.mode, s.store))],
        "move": _move,
        "resync": _resync,
    }


def _exchange(scenario: Scenario, expected: Expectation) -> list[Act]:
    expected.cleaned.setdefault(scenario.where, set()).update({"worker", "younger"})
    younger = destination("younger", scenario.mode, scenario.store)
    return [
        _older(scenario),
        _create("Destination", "", younger),
        _once("Destination", "", "younger", _set_spec(path="worker")),
    ]


def _older(scenario: Scenario) -> Act:
    def wait(world: World) -> bool:
        """A second passes, so that creation times tell who is older."""
        world.machine.advance(world.machine.now + 1)
        return True

    return wait


def _younger(scenario: Scenario) -> Object:
    return destination("younger", scenario.mode, scenario.store, initWorkloads={"enabled": False}, cleanup="none")


def _of_work() -> Mapping[str, Operation]:
    there = ("Work", "default", "app")

    def groups(given: Mapping[str, Mapping[str, bytes]], environment: str = "dev") -> Callable[[Object], None]:
        return _set_spec(workloadGroups=work(given, environment)["spec"]["workloadGroups"])

    def labelled(name: str, environment: str) -> Act:
        return _once("Destination", "", name, lambda obj: obj["metadata"].update(labels={"environment": environment}))

    return {
        "write": lambda s, e: [_create("Work", "default", work(_WORK_1))],
        "update": lambda s, e: [_once(*there, groups(_WORK_2))],
        "update-again": lambda s, e: [_once(*there, groups(_WORK_3))],
        "delete": lambda s, e: [delete(*there)],
        "recreate": lambda s, e: [delete(*there), _create("Work", "default", work(_WORK_3))],
        "delete-destination": _of_destination()["delete"],
        "relabel": lambda s, e: [labelled("worker", "prod")],
        "relabel-back": lambda s, e: [labelled("worker", "dev")],
        "match": lambda s, e: [labelled("other", "dev")],
        "select-other": lambda s, e: [_once(*there, groups(_WORK_1, "test"))],
        "resync": _resync,
    }


_OPERATIONS: Final[Mapping[str, Mapping[str, Operation]]] = {
    "placement": _of_placement(),
    "destination": _of_destination(),
    "work": _of_work(),
}
