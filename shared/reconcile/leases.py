"""One writer at a time for each State Store: a `coordination.k8s.io/v1` Lease for each place.

A place is a bucket at an endpoint, or a branch of a repository; several State Store objects may be one. A function that
changes files there takes the Lease before it reads the objects that decide what is written, and releases it when all
calls have been answered. The term is fixed and never renewed: it covers a State Store's share of an invocation, and a
margin in which calls that were cut off may still take effect. After a crash the Lease runs out
(docs/decisions/0001-one-writer-at-a-time.md).
"""

import asyncio
import json
import math
import random
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final

from shared.deadline import Deadline
from shared.errors import KubernetesConflict, KubernetesError, KubernetesUnavailable, LandfallError
from shared.kube import Cluster, Object
from shared.observability import logger
from shared.settings import Settings

API_VERSION: Final = "coordination.k8s.io/v1"
WAITING_ANNOTATION: Final = "landfall.kratix.io/waiting"
STORE_ANNOTATION: Final = "landfall.kratix.io/state-store"
CLAIMS_ANNOTATION: Final = "landfall.kratix.io/claims"

_KNOWN: Final = 1000  # Leases that a container remembers, so that taking one again needs no read
_POLL_SECONDS: Final = (0.02, 0.08)  # between two looks at a Lease that another has
_TURN_SECONDS: Final = 6.0  # for which a Lease is kept for a waiting function: longer than its messages' first delay
_RELEASES: Final = 5  # tries, at a Lease on which others leave their names meanwhile


def lease_name(identity: str) -> str:
    """Return the name of a place's Lease, from the State Store's `identity`."""
    return f"place-{sha256(identity.encode()).hexdigest()[:40]}"


@dataclass(frozen=True, slots=True)
class Held:
    """A Lease that this invocation holds.

    Attributes:
        lease: as the API server answered when it was taken.
        deadline: after which no call to the State Store may begin; the margin follows.
    """

    lease: Object
    deadline: Deadline

    @property
    def holder(self) -> str:
        """The holder: the function's name and an id of this invocation."""
        return str(self.lease["spec"]["holderIdentity"])


@dataclass
class Leases:
    """The Leases of one cluster, as one function takes them.

    Attributes:
        role: the function's name; waiting functions take turns by it.
    """

    cluster: Cluster
    settings: Settings
    role: str
    _known: OrderedDict[str, Object] = field(default_factory=OrderedDict)

    async def acquire(self, name: str, store: str, deadline: Deadline) -> Held | None:
        """Take a place's Lease; return None if another function holds it for longer than `lease_wait_seconds`.

        Args:
            name: of the Lease.
            store: kind and name of a State Store at that place, for people.
            deadline: of the invocation.

        Raises:
            KubernetesError: Leases cannot be read or written; nothing may be written to the State Store.
            OutOfTime: the deadline has passed.
        """
        holder = f"{self.role}/{uuid.uuid4().hex}"
        end = time.monotonic() + min(self.settings.lease_wait_seconds, deadline.remaining)
        known = self._known.pop(name, None)
        if known is not None and self._is_free(known):
            held = await self._take(known, holder, deadline)
            if held is not None:
                return held
        registered = False
        while True:
            lease = await self._read(name, store, deadline)
            if self._is_free(lease):
                held = await self._take(lease, holder, deadline)
                if held is not None:
                    return held
            elif not registered:
                registered = await self._register(lease, deadline)
            if time.monotonic() >= end:
                return None
            await asyncio.sleep(random.uniform(*_POLL_SECONDS))  # noqa: S311 -- jitter, not a secret

    async def release(self, held: Held, deadline: Deadline, *, settled: bool) -> None:
        """Release a Lease. A failure is only logged: the Lease runs out by itself.

        Args:
            held: what `acquire` returned.
            deadline: of the invocation, which may have passed: there is time in the reserve for this.
            settled: whether every call to the State Store has been answered. If one may still take effect, the
                Lease is kept for the margin.
        """
        if settled:
            spec: dict[str, Any] = {"holderIdentity": ""}
        else:
            seconds = math.ceil(self.settings.lease_margin_seconds) + 1
            spec = {"renewTime": _micro_time(self.cluster.now()), "leaseDurationSeconds": seconds}
        lease: Object | None = held.lease
        later = deadline.later(self.settings.reserve_seconds / 2)
        try:
            for _ in range(_RELEASES):
                if lease is None or lease["spec"].get("holderIdentity") != held.holder:
                    return
                try:
                    released = await self.cluster.patch(lease, {"spec": spec}, later)
                except KubernetesConflict:  # a function has left its name there
                    lease = await self._get(held.lease["metadata"]["name"], later)
                else:
                    if released is not None and settled:
                        self._remember(released)
                    return
        except LandfallError as error:
            logger.warning("Lease %s was not released, so it runs out: %s", held.lease["metadata"]["name"], error)

    async def annotate(self, held: Held, annotations: Mapping[str, str | None]) -> Held:
        """Set annotations on a Lease that is held, and return it as it is then.

        Raises:
            KubernetesError: it could not be written, or has run out and is another's by now.
        """
        lease: Object | None = held.lease
        for _ in range(_RELEASES):
            if lease is None or lease["spec"].get("holderIdentity") != held.holder:
                break
            try:
                said = await self.cluster.patch(lease, {"metadata": {"annotations": dict(annotations)}}, held.deadline)
            except KubernetesConflict:  # a function has left its name there
                lease = await self._get(held.lease["metadata"]["name"], held.deadline)
            else:
                if said is not None:
                    return replace(held, lease={**said, "kind": "Lease"})
                break
        raise KubernetesUnavailable(f"Lease {held.lease['metadata']['name']} is another function's by now")

    async def _read(self, name: str, store: str, deadline: Deadline) -> Object:
        """Return the Lease; create it if it does not exist."""
        lease = await self._get(name, deadline)
        if lease is not None:
            return lease
        new = {
            "apiVersion": API_VERSION,
            "kind": "Lease",
            "metadata": {
                "name": name,
                "namespace": self.settings.lease_namespace,
                "annotations": {STORE_ANNOTATION: store},
            },
            "spec": {"holderIdentity": ""},
        }
        try:
            made = await self.cluster.create(new, deadline)
        except KubernetesConflict:
            made = await self._get(name, deadline)
        if made is None:
            raise KubernetesError(
                f"Lease {name} cannot be created: namespace {self.settings.lease_namespace} does not exist; apply"
                " infra/kubernetes/rbac.yaml, which has it"
            )
        return {**made, "kind": "Lease"}

    async def _get(self, name: str, deadline: Deadline) -> Object | None:
        lease = await self.cluster.get("Lease", self.settings.lease_namespace, name, deadline)
        return None if lease is None else {**lease, "kind": "Lease"}

    def _is_free(self, lease: Object) -> bool:
        """Whether the Lease has no holder, and no other function has waited for it longer than this one."""
        spec, now = lease.get("spec") or {}, self.cluster.now()
        if spec.get("holderIdentity"):
            taken = _time(spec.get("renewTime"))
            if taken is None or now < taken + timedelta(seconds=int(spec.get("leaseDurationSeconds") or 0)):
                return False
        waiting = _waiting(lease, now)
        own = waiting.pop(self.role, None)
        return all(own is not None and own[0] <= since for since, _ in waiting.values())

    async def _take(self, lease: Object, holder: str, deadline: Deadline) -> Held | None:
        """Become the holder; return None on a conflict with another function."""
        now = self.cluster.now()
        ends = Deadline.after(min(self.settings.store_deadline_seconds, deadline.remaining))
        term = math.ceil(self.settings.store_deadline_seconds + self.settings.lease_margin_seconds) + 1
        transitions = int((lease.get("spec") or {}).get("leaseTransitions") or 0) + 1
        spec = {
            "holderIdentity": holder,
            "leaseDurationSeconds": term,
            "acquireTime": _micro_time(now),
            "renewTime": _micro_time(now),
            "leaseTransitions": transitions,
        }
        waiting = _waiting(lease, now)
        waiting.pop(self.role, None)
        metadata = _noted(waiting)
        if shards := claimed_shards(lease):  # each holder vouches for the claims; one that knows none does not
            metadata["annotations"][CLAIMS_ANNOTATION] = claims_text(lease, shards, transitions)
        try:
            taken = await self.cluster.patch(lease, {"metadata": metadata, "spec": spec}, deadline)
        except KubernetesConflict:
            return None
        return None if taken is None else Held({**taken, "kind": "Lease"}, ends)

    async def _register(self, lease: Object, deadline: Deadline) -> bool:
        """Add this function to the waiting ones, so that it gets its turn; return False on a conflict."""
        now = self.cluster.now()
        waiting = _waiting(lease, now)
        since = waiting.get(self.role, (now, now))[0]
        waiting[self.role] = (since, now)
        try:
            await self.cluster.patch(lease, {"metadata": _noted(waiting)}, deadline)
        except KubernetesConflict:
            return False
        return True

    def _remember(self, lease: Object) -> None:
        self._known[lease["metadata"]["name"]] = {**lease, "kind": "Lease"}
        while len(self._known) > _KNOWN:
            self._known.popitem(last=False)


def claimed_shards(lease: Object) -> int:
    """Return how many shards of claims are complete; 0 where a Lease does not say, or its last holder has not said it.

    That is a copy of another Lease, or one that a version without claims has held since.
    """
    text = (lease["metadata"].get("annotations") or {}).get(CLAIMS_ANNOTATION)
    try:
        said = json.loads(text or "{}")
        vouched = (said["lease"], said["transitions"])
        shards = int(said["shards"])
    except (ValueError, TypeError, KeyError):
        return 0
    return shards if vouched == (lease["metadata"]["uid"], lease["spec"].get("leaseTransitions")) else 0


def claims_text(lease: Object, shards: int, transitions: int) -> str:
    """Return the annotation by which the holder of a Lease says that so many shards of claims are complete.

    Args:
        lease: that is held.
        shards: that are complete.
        transitions: of the Lease with this holder.
    """
    return json.dumps({"lease": lease["metadata"]["uid"], "transitions": transitions, "shards": shards})


def _waiting(lease: Object, now: datetime) -> dict[str, tuple[datetime, datetime]]:
    """Return the functions that wait for a Lease: since when, and when they last registered."""
    text = (lease["metadata"].get("annotations") or {}).get(WAITING_ANNOTATION) or "{}"
    try:
        found = {role: (_time(since), _time(said)) for role, (since, said) in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError):
        return {}
    fresh = now - timedelta(seconds=_TURN_SECONDS)
    return {role: (since, said) for role, (since, said) in found.items() if since and said and said > fresh}


def _noted(waiting: Mapping[str, tuple[datetime, datetime]]) -> dict[str, Any]:
    noted = {role: [_micro_time(since), _micro_time(said)] for role, (since, said) in waiting.items()}
    return {"annotations": {WAITING_ANNOTATION: json.dumps(noted) if noted else None}}


def _micro_time(moment: datetime) -> str:
    """Return a moment as Kubernetes' MicroTime has it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
