"""What pausing and requests mean to the use cases: who is left alone, and what is said of it (`shared.steering`)."""

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from shared import conditions, steering
from shared.kube import Key
from shared.messages import Reference
from shared.queues import Outgoing
from shared.reconcile.view import StoreKey, View

GO_ON: Final = f"remove the annotation {steering.PAUSED_ANNOTATION} (`landfall resume`) to go on"


def why_paused(key: Key, view: View) -> str:
    """Return why a Destination is left alone: it is paused itself, or its State Store is; empty where neither is."""
    obj = view.destinations[key]
    if steering.is_paused(obj):
        return GO_ON
    store = view.store_key(obj)
    return f"{store[0]}/{store[2]} is paused: {GO_ON}" if is_store_paused(store, view) else ""


def is_store_paused(key: StoreKey, view: View) -> bool:
    """Whether a State Store is paused itself."""
    return key in view.stores and steering.is_paused(view.stores[key])


def carried_out(
    view: View,
    destinations: Mapping[Key, frozenset[str]],
    stores: Mapping[StoreKey, frozenset[str]],
    without: Collection[str],
) -> Iterator[Outgoing]:
    """Yield what has to be said of requests that a batch has carried out, whatever came of the write.

    Args:
        view: of the objects as they were looked at.
        destinations: that were looked at, with the messages that they come from.
        stores: that were checked, with the messages that they come from.
        without: messages that come again, whose objects were not looked at.
    """
    looked_at: list[tuple[Reference, str, frozenset[str]]] = []
    for key, origin in destinations.items():
        obj = view.destinations.get(key)
        if obj is not None and not why_paused(key, view):
            looked_at.append((view.reference(obj), steering.request_of(obj), origin))
    for store, origin in stores.items():
        if store in view.stores and not is_store_paused(store, view):
            looked_at.append((view.store_reference(store), steering.request_of(view.stores[store]), origin))
    for reference, request, origin in looked_at:
        if request and origin.isdisjoint(without):
            yield Outgoing("status", conditions.reconciled(reference, request), origin)
