"""What has to happen with a Destination as it is now. Pure: the cluster's objects in, decisions out."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from shared import conditions
from shared.documents import canary_edit
from shared.errors import InvalidObject, LandfallError, StateStoreNotReady
from shared.kube import Key, Object
from shared.messages import Reference, Verdict
from shared.plan import Edit
from shared.reconcile.pausing import why_paused
from shared.reconcile.view import StoreKey, View, store_key
from shared.resources import CLEANUP_FINALIZER, MAX_LABEL, Destination, StateStore, is_label_value
from shared.steering import PAUSED
from shared.works import DESTINATION_LABEL

# What is known of a State Store better than its status tells: None where a check has just passed, else what it said.
Checked = Mapping[StoreKey, LandfallError | None]


@dataclass(frozen=True, slots=True)
class Write:
    """A Destination that may be written.

    Attributes:
        edit: its canary documents, with `<namespace>/<name>` as id.
    """

    destination: Destination
    store: StateStore
    edit: Edit


@dataclass(frozen=True, slots=True)
class Decision:
    """What has to happen with one Destination; the empty decision means nothing.

    Attributes:
        reference: to the Destination as it is now.
        verdict: to be reported now; what a write finds comes later.
        write: its documents may be brought to its State Store, if it has or gets the claim to its directory.
        cleanup: it is being deleted, and its files have to go first.
        destination: as it was read; None where it cannot be.
        wants: it is not to be written now, and will be: its directory is its own against younger ones already.
    """

    reference: Reference
    verdict: Verdict | None = None
    write: Write | None = None
    cleanup: bool = False
    destination: Destination | None = None
    wants: bool = False


def decide(key: Key, view: View, checked: Checked | None = None) -> Decision | None:
    """Decide about one Destination; None where there is none of that name.

    Args:
        key: of the Destination.
        view: with it and its State Store.
        checked: State Stores whose readiness is known better than from their status.
    """
    obj = view.destinations.get(key)
    if obj is None:
        return None
    reference = view.reference(obj)
    try:
        destination = Destination.parse(obj)
    except InvalidObject as error:
        return Decision(reference, conditions.destination_failed(reference, None, error))
    metadata = destination.metadata
    if why := why_paused(key, view):
        paused = conditions.paused(reference, why, leaving=metadata.being_deleted)
        return Decision(reference, paused, destination=destination, wants=not metadata.being_deleted)
    has_finalizer = CLEANUP_FINALIZER in metadata.finalizers
    if metadata.being_deleted and (destination.spec.cleanup == "all" or not has_finalizer):
        return Decision(reference, cleanup=has_finalizer, destination=destination)
    if destination.spec.cleanup == "none" and has_finalizer:
        turned_off = Verdict(reference=reference, remove_finalizers=(CLEANUP_FINALIZER,))
        return Decision(reference, turned_off, destination=destination)
    return _decide_write(reference, destination, view, checked or {})


def says_nothing_new(verdict: Verdict, obj: Object) -> bool:
    """Whether an object already carries all of a verdict."""
    if verdict.add_finalizers or verdict.remove_finalizers:
        return False
    return conditions.merged(verdict, obj) is None


def _decide_write(reference: Reference, destination: Destination, view: View, checked: Checked) -> Decision:
    ref = destination.spec.state_store_ref

    def refused(verdict: Verdict) -> Decision:
        return Decision(reference, verdict, destination=destination)

    try:
        _check_name(destination)
        store = view.store(destination)
        if store is None:
            return refused(conditions.store_not_found(reference, ref))
        edit = canary_edit(f"{reference.namespace}/{reference.name}", destination, store)
    except (InvalidObject, StateStoreNotReady) as error:
        return refused(conditions.destination_failed(reference, ref, error))
    not_ready = _why_not_ready(store, checked)
    if not_ready is not None:
        return replace(refused(conditions.destination_failed(reference, ref, not_ready)), wants=True)
    first_seen = None
    if destination.condition(conditions.READY) is None:
        first_seen = conditions.destination_first_seen(reference)
    return Decision(reference, first_seen, Write(destination, store, edit), destination=destination)


def _check_name(destination: Destination) -> None:
    """Check that WorkPlacements can name the Destination in their label.

    Raises:
        InvalidObject: they cannot, so that none could be found.
    """
    if not is_label_value(destination.name):
        words = f"metadata.name is over {MAX_LABEL} characters, which the label {DESTINATION_LABEL} of WorkPlacements"
        raise InvalidObject(f"{words} cannot hold: create the Destination under a shorter name")


def _why_not_ready(store: StateStore, checked: Checked) -> StateStoreNotReady | None:
    """Return why nothing is to be written to a State Store; None where it is ready, or nobody has looked yet."""
    key = store_key(store)
    if key in checked:
        error = checked[key]
        return None if error is None else StateStoreNotReady(conditions.store_failed_message(error))
    ready = store.condition(conditions.READY)
    if (
        ready is None
        or ready.status == "True"
        or ready.reason == PAUSED
        or ready.observed_generation != store.metadata.generation
    ):
        return None
    return StateStoreNotReady(ready.message)
