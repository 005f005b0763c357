"""Manifests laid over a fleet: what the API server would make of them, and where Works would go then.

The API server is asked with `dryRun=All`, so its defaults, its validation and its webhooks count; nothing is stored.
"""

import contextlib
import json
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import yaml

from infra.checks.kubernetes import Answer, Kubernetes
from infra.cli.fleet import Fleet
from infra.cli.session import Session
from shared.errors import InvalidObject, KubernetesError
from shared.kube import Key, Object, key_of
from shared.kube.kinds import PLURALS
from shared.reconcile import placements
from shared.resources import STORE_KINDS
from shared.schedule import DestinationInfo, Placed, schedule
from shared.works import DESTINATION_LABEL, GROUP_LABEL, WORK_LABEL, Work

_KINDS: Final = ("Destination", *STORE_KINDS, "Work", "Secret")
_CLUSTER_SCOPED: Final = ("Destination", *STORE_KINDS)
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_MERGE_PATCH: Final = "application/merge-patch+json"
_OK: Final = 300
_NOT_FOUND: Final = 404


def read_manifests(files: Iterable[str]) -> list[Object]:
    """Read the objects of YAML or JSON files, of the files in folders, and of standard input where one is `-`.

    Raises:
        InvalidObject: a file cannot be read, or holds something else.
    """
    found: list[Object] = []
    for name in files:
        for path, text in _texts(name):
            try:
                documents = [one for one in yaml.safe_load_all(text) if one is not None]
            except yaml.YAMLError as error:
                where = getattr(error, "problem_mark", None)
                line = f" (line {where.line + 1})" if where is not None else ""
                raise InvalidObject(f"{path} is not YAML{line}: correct it") from None
            for document in documents:
                found += _objects(document, path)
    return found


def _texts(name: str) -> Iterable[tuple[str, str]]:
    if name == "-":
        yield "standard input", sys.stdin.read()
        return
    path = Path(name)
    try:
        if path.is_dir():
            files = sorted(one for one in path.iterdir() if one.suffix in {".yaml", ".yml", ".json"})
            yield from ((str(one), one.read_text()) for one in files)
        else:
            yield name, path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidObject(f"{name} cannot be read ({type(error).__name__}): name a YAML file") from None


def _objects(document: object, path: str) -> list[Object]:
    if isinstance(document, dict) and str(document.get("kind")).endswith("List") and "items" in document:
        return [obj for item in document["items"] for obj in _objects(item, path)]
    if not isinstance(document, dict) or not isinstance(document.get("metadata"), dict):
        raise InvalidObject(f"{path} holds something that is not an object of Kubernetes")
    kind, name = document.get("kind"), document["metadata"].get("name")
    if kind not in _KINDS:
        raise InvalidObject(f"{path}: {kind}/{name} changes nothing here: give {', '.join(_KINDS)}")
    if not name:
        raise InvalidObject(f"{path}: a {kind} has no metadata.name")
    return [document]


async def lay_over(fleet: Fleet, objects: Iterable[Object], session: Session) -> tuple[Fleet, set[Key]]:
    """Return the fleet as it would be once objects are applied, and the Destinations that this concerns.

    Raises:
        LandfallError: the API server would refuse an object; its own words are given.
    """
    after = Fleet(
        dict(fleet.destinations), dict(fleet.stores), dict(fleet.placements), dict(fleet.secrets), fleet.claims
    )
    concerned: set[Key] = set()
    works: list[Object] = []
    relabelled = False
    changed_stores: set[tuple[str, str, str]] = set()
    async with session.kubernetes() as kubernetes:
        for given in objects:
            obj = {**await _dry_run(given, kubernetes), "kind": given["kind"]}
            key = key_of(obj)
            if given["kind"] == "Destination":
                before = fleet.destinations.get(key)
                relabelled = relabelled or before is None or _labels(before) != _labels(obj)
                after.destinations[key] = obj
                concerned.add(key)
            elif given["kind"] in STORE_KINDS:
                after.stores[given["kind"], *key] = obj
                changed_stores.add((given["kind"], *key))
            elif given["kind"] == "Secret":
                after.secrets[key] = obj
            else:
                works.append(obj)
    concerned |= {key for store in changed_stores for key in after.of_store(store)}
    await after.read_placements(concerned, session.cluster, session.deadline)
    if relabelled:
        named = {key_of(obj) for obj in works}
        async for page in session.cluster.pages("Work", session.deadline):
            works += [obj for obj in page if key_of(obj) not in named]
    for obj in works:
        concerned |= await _reschedule(obj, after, session)
    return after, concerned


async def _dry_run(given: Object, kubernetes: Kubernetes) -> Object:
    kind, name = given["kind"], str(given["metadata"]["name"])
    prefix, plural = PLURALS[kind]
    namespace = "" if kind in _CLUSTER_SCOPED else str(given["metadata"].get("namespace") or "default")
    scope = f"{prefix}/namespaces/{quote(namespace, safe='')}" if namespace else prefix
    path = f"{scope}/{plural}"
    metadata = {name: value for name, value in given["metadata"].items() if name != "namespace" or namespace}
    obj = {**given, "metadata": {**metadata, **({"namespace": namespace} if namespace else {})}}
    known = await kubernetes.call("GET", f"{path}/{quote(name, safe='')}")
    query = {"dryRun": "All"}
    if known.status == _NOT_FOUND:
        answer = await kubernetes.call("POST", path, obj, query=query)
    else:
        _require(known, f"{kind}/{name}", "read")
        last = (known.body["metadata"].get("annotations") or {}).get(_LAST_APPLIED)
        patch = _three_way(_json(last), obj)
        answer = await kubernetes.call(
            "PATCH", f"{path}/{quote(name, safe='')}", patch, query=query, content_type=_MERGE_PATCH
        )
    _require(answer, f"{kind}/{name}", "applied")
    return answer.body


def _require(answer: Answer, what: str, verb: str) -> None:
    if answer.status >= _OK:
        raise KubernetesError(f"{what} would not be {verb}: the API server answered {answer.status}: {answer.message}")


def _json(text: object) -> Mapping[str, Any]:
    try:
        found = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _three_way(last: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the merge patch that `kubectl apply` sends: what is given, and the removal of what was given before."""
    patch: dict[str, Any] = {name: None for name in last if name not in new}
    for name, value in new.items():
        before = last.get(name)
        patch[name] = _three_way(before, value) if isinstance(value, dict) and isinstance(before, dict) else value
    return patch


async def _reschedule(obj: Object, fleet: Fleet, session: Session) -> set[Key]:
    """Lay the WorkPlacements that a Work would have over the fleet; return the Destinations that this concerns."""
    namespace, name = key_of(obj)
    if obj["metadata"].get("deletionTimestamp"):
        return set()
    found = await session.cluster.list_all("WorkPlacement", session.deadline, {WORK_LABEL: name}, namespace=namespace)
    placed = {one["metadata"]["name"]: one for one in found if placements.belongs_to(one, obj)}
    near = _near(namespace, fleet)
    try:
        work = Work.parse(obj)
        plan = schedule(work, [_placed(one) for one in placed.values()], list(near.values()))
    except InvalidObject as error:
        raise InvalidObject(f"Work {name}: {error}") from None
    if plan.refused:
        raise InvalidObject(f"Work {name}: {plan.refused[0].why}")
    concerned: set[Key] = set()
    new: dict[Key, Object] = {}
    for placement in plan.placements:
        at = near.get(placement.destination)
        want = placements.wanted(work, placement, "" if at is None else at.mode)
        new[key_of(want)] = _merged(placed.get(placement.name), want)
    for gone in plan.dangling:
        new[namespace, gone] = _deleted(placed[gone])
    for key, one in new.items():
        target = fleet.view.target(key[0], one["spec"]["targetDestinationName"])
        if target is not None and _differs(fleet.placements.get(key) or placed.get(key[1]), one):
            concerned.add(target)
    unread = concerned - {target for one in fleet.placements.values() if (target := _target(fleet, one))}
    await fleet.read_placements(unread, session.cluster, session.deadline)
    fleet.placements |= new
    return concerned


def _near(namespace: str, fleet: Fleet) -> dict[str, DestinationInfo]:
    """Return the Destinations that a Work of a namespace may go to, by name."""
    near: dict[str, DestinationInfo] = {}
    for key, obj in fleet.destinations.items():
        if key[0] in {"", namespace}:
            with contextlib.suppress(InvalidObject):  # it takes nothing until it can be read
                near[key[1]] = DestinationInfo.of(obj)
    return near


def _target(fleet: Fleet, placement: Object) -> Key | None:
    return fleet.view.target(key_of(placement)[0], str((placement.get("spec") or {}).get("targetDestinationName")))


def _merged(known: Object | None, want: Object) -> Object:
    """Return a WorkPlacement as it would be: what is known of it, with what it is to be."""
    if known is None:
        # The youngest: of two that want a file, the older one has it.
        born = {"uid": f"new {want['metadata']['name']}", "creationTimestamp": datetime.now(UTC).isoformat()}
        return {**want, "metadata": {**want["metadata"], **born}}
    metadata = {**known["metadata"]}
    for part in ("labels", "annotations"):
        metadata[part] = {**(metadata.get(part) or {}), **want["metadata"][part]}
    return {**known, "metadata": metadata, "spec": want["spec"]}


def _deleted(known: Object) -> Object:
    return {**known, "metadata": {**known["metadata"], "deletionTimestamp": "2000-01-01T00:00:00Z"}}


def _differs(known: Object | None, new: Object) -> bool:
    if known is None or new["metadata"].get("deletionTimestamp"):
        return True
    parts = ("workloads", "targetDestinationName", "id", "promiseName", "resourceName")
    return any((known.get("spec") or {}).get(part) != new["spec"].get(part) for part in parts)


def _placed(obj: Object) -> Placed:
    labels = obj["metadata"].get("labels") or {}
    leaving = bool(obj["metadata"].get("deletionTimestamp"))
    return Placed(obj["metadata"]["name"], labels.get(GROUP_LABEL, ""), labels.get(DESTINATION_LABEL, ""), leaving)


def _labels(obj: Object) -> dict[str, str]:
    return obj["metadata"].get("labels") or {}
