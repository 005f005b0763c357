"""Asks of Destinations and State Stores, by annotations that the functions honour: reconcile now, pause, resume."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

from infra.cli.fleet import Fleet, destination_name, store_name
from infra.cli.session import Session
from infra.cli.targets import Named
from shared import conditions, steering
from shared.errors import InvalidObject, KubernetesError, StoreUnavailable
from shared.kube import Object
from shared.kube.kinds import PLURALS

_MERGE_PATCH: Final = "application/merge-patch+json"
_OK: Final = 300
_LOOK_SECONDS: Final = 0.5


def name_of(named: Named) -> str:
    """Return what an object is called in output."""
    if named.destination is not None:
        return destination_name(named.destination)
    return store_name(named.store or ("", "", ""))


def object_of(named: Named, fleet: Fleet) -> Object:
    """Return the object as it was read."""
    if named.destination is not None:
        return fleet.destinations[named.destination]
    return fleet.stores[named.store or ("", "", "")]


async def annotate(named: Named, annotations: Mapping[str, str | None], session: Session) -> None:
    """Set annotations of an object, or remove those that are None.

    Raises:
        KubernetesError: the API server refuses it.
    """
    async with session.kubernetes() as kubernetes:
        patch = {"metadata": {"annotations": dict(annotations)}}
        answer = await kubernetes.call("PATCH", _path(named), patch, content_type=_MERGE_PATCH)
    if answer.status >= _OK:
        raise KubernetesError(f"{name_of(named)}: the API server answered {answer.status}: {answer.message}")


def _path(named: Named) -> str:
    namespace, name = named.key
    prefix, plural = PLURALS[named.kind]
    scope = f"{prefix}/namespaces/{quote(namespace, safe='')}" if namespace else prefix
    return f"{scope}/{plural}/{quote(name, safe='')}"


async def pause(named: Named, session: Session) -> None:
    """Mark an object as paused."""
    await annotate(named, {steering.PAUSED_ANNOTATION: "true"}, session)


async def resume(named: Named, session: Session) -> None:
    """Let the functions go on with an object."""
    await annotate(named, {steering.PAUSED_ANNOTATION: None}, session)


async def request(named: Named, fleet: Fleet, session: Session) -> str:
    """Ask for an object to be reconciled now, and return the request.

    Raises:
        InvalidObject: it is paused, so that the request would wait.
        KubernetesError: the API server refuses it.
    """
    paused = steering.is_paused(object_of(named, fleet))
    stores = [fleet.store_key(fleet.destinations[named.destination])] if named.destination is not None else []
    if paused or any(steering.is_paused(fleet.stores[key]) for key in stores if key in fleet.stores):
        raise InvalidObject(f"{name_of(named)} is paused, itself or with its State Store: `landfall resume` it first")
    moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    await annotate(named, {steering.REQUEST_ANNOTATION: moment}, session)
    return moment


async def until(named: Named, true: Callable[[Object], bool], what: str, session: Session, seconds: float) -> Object:
    """Wait until something is true of an object, and return it as it is then.

    Raises:
        InvalidObject: it was deleted meanwhile.
        StoreUnavailable: it did not become true in time.
    """
    try:
        async with asyncio.timeout(seconds):
            while True:
                obj = await session.cluster.get(named.kind, *named.key, session.deadline)
                if obj is None:
                    raise InvalidObject(f"{name_of(named)} was deleted meanwhile")
                if true(obj):
                    return obj
                await asyncio.sleep(_LOOK_SECONDS)
    except TimeoutError:
        raise StoreUnavailable(
            f"{name_of(named)} was not {what} within {seconds:.0f} seconds: are a forwarder and the functions at work?"
            " `landfall explain` says what is known"
        ) from None


def is_carried_out(obj: Object, moment: str) -> bool:
    """Whether a request was carried out."""
    found = conditions.find((obj.get("status") or {}).get("conditions") or (), steering.RECONCILED)
    return found is not None and found.get("message") == moment


def says_paused(obj: Object) -> bool:
    """Whether an object's condition says that it is paused."""
    found = conditions.find((obj.get("status") or {}).get("conditions") or (), conditions.READY)
    return found is not None and found.get("reason") == steering.PAUSED
