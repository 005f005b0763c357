"""What every status must say, judged by the objects at the end: by the contract, not by our code.

See docs/contract.md#objects, #destination-conditions, #state-store-conditions.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.journal import Place, Store
from tests.chaos.model import canaries, invalid, join

Object = Mapping[str, Any]
FINALIZER = "kratix.io/destination-cleanup"


@dataclass(frozen=True)
class Words:
    """A Ready that would be true. The message is compared as a whole, or its beginning where it ends in `…`."""

    status: str
    reason: str
    message: str

    def fit(self, condition: Object) -> bool:
        """Whether a condition says this."""
        message = str(condition.get("message", ""))
        right = message.startswith(self.message[:-1]) if self.message.endswith("…") else message == self.message
        return condition.get("status") == self.status and condition.get("reason") == self.reason and right


WRITTEN = Words("True", "TestDocumentsWritten", "Test documents written to State Store")
READY = Words("True", "DestinationReady", "Destination is ready")
STORE_READY = Words("True", "StateStoreReady", "State store is ready")


@dataclass
class Verdicts:
    """The objects of a cluster at the end.

    Attributes:
        destinations: all that there are.
        stores: by kind and name.
        secrets: by name, in namespace `default`.
        right: by State Store, the credentials that it takes.
        places: by State Store, where its files go.
        required, refused: as `model.Contents` needs them; filled by `differences`.
    """

    destinations: Sequence[Object]
    stores: Mapping[Store, Object]
    secrets: Mapping[str, Object]
    right: Mapping[Store, Mapping[str, str]]
    places: Mapping[Store, Place]
    required: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refused: dict[str, frozenset[str]] = field(default_factory=dict)

    def differences(self) -> list[str]:
        """Return, as sentences, every status and finalizer that is not as it should be."""
        return [*self._of_stores(), *self._of_destinations()]

    def _of_stores(self) -> Iterator[str]:
        for store, obj in self.stores.items():
            name = "/".join(store)
            (words,) = self._store_words(store)
            yield from _condition(name, obj, [words])
            status = obj.get("status") or {}
            if status.get("status") != ("Ready" if words.status == "True" else "NotReady"):
                yield f"{name}: status.status is {status.get('status')}, though Ready must be {words.status}"
            if status.get("observedGeneration") != obj["metadata"]["generation"]:
                yield f"{name}: status.observedGeneration is {status.get('observedGeneration')}"

    def _store_words(self, store: Store) -> list[Words]:
        """Return what a State Store's Ready must say (docs/contract.md#state-store-conditions)."""
        secret = self.stores[store]["spec"]["secretRef"]["name"]
        if secret not in self.secrets:
            return [Words("False", "SecretNotFound", f"Secret {secret} not found in namespace default")]
        data = {k: base64.b64decode(v).decode() for k, v in (self.secrets[secret].get("data") or {}).items()}
        missing = next((key for key in self.right[store] if not data.get(key)), None)
        if missing:
            return [Words("False", "ErrorInitialisingWriter", f"secret is missing key: {missing}…")]
        if data != self.right[store]:
            why = "Error validating state store permissions: …"
            return [Words("False", "ErrorValidatingPermissions", why)]
        return [STORE_READY]

    def _of_destinations(self) -> Iterator[str]:
        owners = self._owners()
        for obj in self.destinations:
            name, spec = obj["metadata"]["name"], obj["spec"]
            if obj["metadata"].get("deletionTimestamp"):
                yield f"Destination/{name}: is still being deleted, with {obj['metadata'].get('finalizers')}"
                continue
            has = FINALIZER in (obj["metadata"].get("finalizers") or [])
            if has != (spec.get("cleanup") == "all"):
                there = "there" if has else "not there"
                yield f"Destination/{name}: cleanup is {spec.get('cleanup')}, its finalizer is {there}"
            words = self._words(obj, owners)
            yield from _condition(f"Destination/{name}", obj, words)
            if words in ([WRITTEN], [READY]):
                place = self.places[_store(obj)]
                paths = canaries(_root(obj, place), spec["filepath"]["mode"])
                if words == [WRITTEN]:
                    self.required.setdefault(place.where, {}).update(paths)
                else:
                    self.refused[place.where] = self.refused.get(place.where, frozenset()) | set(paths)

    def _words(self, obj: Object, owners: Mapping[tuple[str, str], list[str]]) -> list[Words]:
        """Return what a Destination's Ready may say: more than one where several things are wrong at once."""
        name, spec, store = obj["metadata"]["name"], obj["spec"], _store(obj)
        called = "/".join(store)
        if store not in self.stores:
            return [Words("False", "StateStoreNotFound", f"{called}: not found")]
        if invalid(spec.get("path", "")):
            return [Words("False", "InvalidDestination", "spec.path…")]
        wrong = []
        place = self.places[store]
        root = _root(obj, place)
        oldest = owners[place.where, root]
        if oldest[0] != name:
            other = f"Destination {oldest[0]} has the same path in the same State Store…"
            wrong.append(Words("False", "PathClash", other))
        (ready,) = self._store_words(store)
        if ready.status == "False":
            told = _ready(self.stores[store]).get("message")
            wrong.append(Words("False", "StateStoreNotReady", f"{called}: {told}"))
        if wrong:
            return wrong
        return [WRITTEN if spec.get("initWorkloads", {}).get("enabled", True) else READY]

    def _owners(self) -> dict[tuple[str, str], list[str]]:
        """Return by place and directory the Destinations that want it, the oldest first; where two are of the same
        second, which is all that creationTimestamp tells, the names decide."""
        found: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for obj in self.destinations:
            place = self.places.get(_store(obj)) if _store(obj) in self.stores else None
            if place is not None and not invalid(obj["spec"].get("path", "")):
                metadata = obj["metadata"]
                age = (metadata["creationTimestamp"], metadata["name"])
                found.setdefault((place.where, _root(obj, place)), []).append(age)
        return {key: [name for _, name in sorted(ages)] for key, ages in found.items()}


def _condition(name: str, obj: Object, allowed: Sequence[Words]) -> Iterator[str]:
    ready = _ready(obj)
    if not any(words.fit(ready) for words in allowed):
        said = f"{ready.get('status')} {ready.get('reason')} {ready.get('message')!r}"
        yield f"{name}: Ready is {said}, and must be {' or '.join(map(str, allowed))}"
    if ready.get("observedGeneration") != obj["metadata"]["generation"]:
        observed, generation = ready.get("observedGeneration"), obj["metadata"]["generation"]
        yield f"{name}: Ready is about generation {observed}, the object has {generation}"
    if not ready.get("lastTransitionTime"):
        yield f"{name}: Ready has no lastTransitionTime"


def _ready(obj: Object) -> Object:
    conditions = (obj.get("status") or {}).get("conditions") or []
    return next((condition for condition in conditions if condition["type"] == "Ready"), {})


def _store(obj: Object) -> Store:
    ref = obj["spec"]["stateStoreRef"]
    return ref["kind"], ref["name"]


def _root(obj: Object, place: Place) -> str:
    return join(place.path, obj["spec"].get("path") or obj["metadata"]["name"])
