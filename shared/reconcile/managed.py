"""Which State Stores are ours beside a Kratix that runs on, and their way over and back (decision 5).

Where a deployment serves all State Stores (the default) nothing is set aside, and annotations are obeyed all the same:
they keep Kratix from writing, not us from serving.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from shared import conditions, handover
from shared.deadline import Deadline
from shared.errors import InvalidObject, KubernetesForbidden, LandfallError, StateStoreNotReady
from shared.handover import Step
from shared.kube import Cluster, Key, Object, together
from shared.observability import logger
from shared.queues import Outgoing
from shared.reconcile.batch import Tasks
from shared.reconcile.locations import LOCATIONS_ANNOTATION
from shared.reconcile.view import StoreKey, View
from shared.resources import STORE_KINDS
from shared.settings import Settings

_LOOK_AGAIN_SECONDS: Final = 2


def serves_all(settings: Settings) -> bool:
    """Whether every State Store is ours, and with them scheduling."""
    return settings.state_stores == "all"


def is_ours(store: Mapping[str, Any] | None, settings: Settings, now: datetime | None = None) -> bool:
    """Whether Landfall serves a State Store, as it is now; one that does not exist is Kratix's to report on."""
    if serves_all(settings):
        return True
    if store is None or handover.next_step(store) is not Step.SERVE:
        return False
    return _waits(store, settings, now or datetime.now(UTC)) <= 0


def is_changing_hands(store: Mapping[str, Any] | None) -> bool:
    """Whether a State Store's annotations ask for a step that was not taken yet."""
    return store is not None and handover.next_step(store) not in {Step.KRATIX, Step.SERVE}


def is_between(store: Mapping[str, Any], settings: Settings) -> bool:
    """Whether a State Store is on its way from one writer to the other, so that write-canary has to look at it."""
    waits = handover.next_step(store) is Step.SERVE and not is_ours(store, settings)
    return waits or is_changing_hands(store)


def only_ours(view: View, settings: Settings) -> View:
    """Return a view in which what Kratix serves is known by its directories alone."""
    if serves_all(settings):
        return view
    now = datetime.now(UTC)
    kept = frozenset(key for key, obj in view.stores.items() if not is_ours(obj, settings, now))
    theirs = {key: obj for key, obj in view.destinations.items() if _store_of(key, obj, view) in {None, *kept}}
    ours = {key: obj for key, obj in view.destinations.items() if key not in theirs}
    return replace(view, destinations=ours, theirs=theirs, stores_kept=kept, partial=True)


def _store_of(key: Key, obj: Object, view: View) -> StoreKey | None:
    ref = (obj.get("spec") or {}).get("stateStoreRef") or {}
    names = ((str(ref.get("kind")), namespace, str(ref.get("name"))) for namespace in (key[0], ""))
    return next((name for name in names if name in view.stores), None)


@dataclass
class HandedOver:
    """What a batch did for State Stores that are between two writers.

    Attributes:
        outgoing: what to send.
        failures: by message id, why it has to be delivered again.
    """

    outgoing: list[Outgoing] = field(default_factory=list)
    failures: dict[str, Exception] = field(default_factory=dict)


async def hand_over(
    tasks: Tasks, place: str, view: View, cluster: Cluster, *, settings: Settings, deadline: Deadline
) -> HandedOver:
    """Take the next step for the State Stores of a batch that are between two writers.

    Args:
        tasks: of the batch.
        place: whose Lease is held, so that no write of ours is under way.
        view: of the cluster; it has the State Stores as they are afterwards.
        cluster: that they are in.
        settings: of the deployment.
        deadline: of the invocation.
    """
    done = HandedOver()
    for (kind, key), task in tasks.items():
        store = (kind, *key)
        obj = view.stores.get(store) if kind in STORE_KINDS else None
        if obj is None or not is_between(obj, settings):
            continue
        reference = view.store_reference(store)
        if view.store_place(store) not in {place, ""}:
            done.outgoing.append(Outgoing("canary", reference, task.origin))
            continue
        try:
            again = await _take_step(store, view, cluster, settings=settings, deadline=deadline)
        except KubernetesForbidden as error:
            words = f"it cannot be handed over: {error}; apply infra/kubernetes/takeover"
            verdict = conditions.store_failed(reference, StateStoreNotReady(words))
            done.outgoing.append(Outgoing("status", verdict.seeing(obj), task.origin))
        except InvalidObject as error:
            done.outgoing.append(Outgoing("status", conditions.store_failed(reference, error).seeing(obj), task.origin))
        except LandfallError as error:
            done.failures.update(dict.fromkeys(task.origin, error))
        else:
            if again is not None:
                done.outgoing.append(Outgoing("canary", reference, task.origin, again))
    return done


async def _take_step(
    store: StoreKey, view: View, cluster: Cluster, *, settings: Settings, deadline: Deadline
) -> int | None:
    """Take a State Store's next step if it is time; return in how many seconds it has to be looked at again."""
    obj, now = view.stores[store], datetime.now(UTC)
    step, wait = handover.next_step(obj), _waits(obj, settings, now)
    if wait > 0:
        return wait
    if step is Step.HOLD:
        patch, again = handover.hold_patch(obj, now), handover.HOLD_SECONDS
    elif step is Step.PARK:
        patch, again = handover.park_patch(obj, now), settings.handover_seconds
    elif step is Step.RESTORE:
        await _forget(store, view, cluster, deadline)
        patch, again = handover.restore_patch(obj, now), _LOOK_AGAIN_SECONDS
    else:
        patch, again = handover.release_patch(), 0
    patched = await cluster.patch({**obj, "kind": store[0]}, patch, deadline)
    if patched is None:
        return None
    view.stores[store] = {**patched, "kind": store[0]}
    logger.info("%s %s: %s", store[0], store[2], step.value)
    return again or None


def _waits(obj: Mapping[str, Any], settings: Settings, now: datetime) -> int:
    """Return how many seconds are left until a State Store's next step may be taken."""
    step, began = handover.next_step(obj), handover.since(obj)
    if began is None:
        return 0
    if step is Step.RELEASE and not handover.has_kratix_reported(obj):
        left = began + timedelta(seconds=handover.RETURN_SECONDS) - now
        return min(_LOOK_AGAIN_SECONDS, _whole(left))
    term = {Step.PARK: handover.HOLD_SECONDS, Step.SERVE: settings.handover_seconds}.get(step, 0)
    return _whole(began + timedelta(seconds=term) - now)


def _whole(left: timedelta) -> int:
    return -int(-left.total_seconds() // 1)


async def _forget(store: StoreKey, view: View, cluster: Cluster, deadline: Deadline) -> None:
    """Take our memories off a State Store's Destinations: where Kratix writes next, nobody would note.

    Raises:
        KubernetesError: one could not be changed; all is tried again.
    """
    patches = []
    for key, obj in {**view.destinations, **view.theirs}.items():
        if LOCATIONS_ANNOTATION in (obj["metadata"].get("annotations") or {}) and _store_of(key, obj, view) == store:
            patch = {"metadata": {"annotations": {LOCATIONS_ANNOTATION: None}}}
            patches.append(cluster.patch({**obj, "kind": "Destination"}, patch, deadline))
    await together(patches)
