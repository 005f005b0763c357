"""What a command's argument names: `destination/NAME`, `store/NAME`, or kubectl's names of the kinds."""

from dataclasses import dataclass
from typing import Final, TypeVar

from infra.cli.fleet import Fleet, store_name
from shared.errors import InvalidObject
from shared.kube import Key
from shared.reconcile.view import StoreKey
from shared.resources import STORE_KINDS

_Key = TypeVar("_Key", Key, StoreKey)
_DESTINATIONS: Final = ("destination", "destinations", "dest", "dests")
_STORES: Final = ("store", "stores", "statestore", "statestores")
_KINDS: Final = {
    "bucketstatestore": "BucketStateStore",
    "bucketstatestores": "BucketStateStore",
    "bucket": "BucketStateStore",
    "gitstatestore": "GitStateStore",
    "gitstatestores": "GitStateStore",
    "git": "GitStateStore",
}


class NoSuchObject(InvalidObject):
    """The cluster has no object of that kind and name."""


@dataclass(frozen=True, slots=True)
class Named:
    """One object that is meant.

    Attributes:
        destination: the Destination; None where a State Store is meant.
        store: the State Store; None where a Destination is meant.
    """

    destination: Key | None = None
    store: StoreKey | None = None

    @property
    def kind(self) -> str:
        """The kind of the object."""
        return "Destination" if self.store is None else self.store[0]

    @property
    def key(self) -> Key:
        """Its namespace and name."""
        return self.destination or ((self.store or ("", "", ""))[1:])

    def destinations(self, fleet: Fleet) -> list[Key]:
        """Return the Destinations that are meant: the one, or all of the State Store."""
        return [self.destination] if self.destination is not None else fleet.of_store(self.store or ("", "", ""))


def find(text: str, fleet: Fleet) -> Named:
    """Return what `KIND/NAME` or `KIND/NAMESPACE/NAME` means in a fleet.

    Raises:
        InvalidObject: it cannot be read, or there is no such object, or more than one.
    """
    kind, *rest = text.split("/")
    if not rest or not all(rest) or len(rest) > 2:  # noqa: PLR2004 -- namespace and name
        raise InvalidObject(f"{text!r} names no object: write destination/NAME or store/NAME")
    namespace, name = (rest[0], rest[1]) if len(rest) > 1 else ("", rest[0])
    if kind.lower() in _DESTINATIONS:
        keys = [key for key in fleet.destinations if key[1] == name and namespace in {"", key[0]}]
        return Named(destination=_only(keys, text, ["/".join(("destination", *filter(None, key))) for key in keys]))
    if kind.lower() in _STORES or kind.lower() in _KINDS:
        kinds = STORE_KINDS if kind.lower() in _STORES else (_KINDS[kind.lower()],)
        stores = [key for key in fleet.stores if key[0] in kinds and key[2] == name and namespace in {"", key[1]}]
        return Named(store=_only(stores, text, [store_name(key) for key in stores]))
    raise InvalidObject(f"{kind!r} is not a kind that is known here: write destination/NAME or store/NAME")


def _only(keys: list[_Key], text: str, names: list[str]) -> _Key:
    if not keys:
        raise NoSuchObject(f"{text} not found: see `landfall status`")
    if len(keys) > 1:
        raise InvalidObject(f"{text} may be {' or '.join(sorted(names))}: name one of them")
    return keys[0]
