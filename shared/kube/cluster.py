"""One Kubernetes API: what is read of it (`reading`), and what is written to its objects."""

from collections.abc import Mapping
from datetime import UTC, datetime

from shared.conditions import EventFact, rfc3339
from shared.deadline import Deadline
from shared.errors import KubernetesConflict
from shared.kube.answers import STATUS, Object
from shared.kube.event_objects import event_object
from shared.kube.kinds import PLURALS, key_of, path_of, scope, version_of
from shared.kube.reading import Reader


class Cluster(Reader):
    """What the use cases do with one Kubernetes API."""

    async def patch_status(self, obj: Object, status: Object, deadline: Deadline) -> Object | None:
        """Merge into an object's status, if the object is still as it was read; None where it is gone.

        Raises:
            KubernetesConflict: it has changed since (read it again and decide again).
            KubernetesError: the API refused or could not be reached.
        """
        return await self._patch(obj, {"status": status}, deadline, subresource="/status")

    async def patch_finalizers(self, obj: Object, finalizers: list[str], deadline: Deadline) -> Object | None:
        """Set an object's finalizers, if the object is still as it was read; None where it is gone.

        Raises:
            KubernetesConflict: it has changed since.
            KubernetesError: the API refused or could not be reached.
        """
        return await self._patch(obj, {"metadata": {"finalizers": finalizers}}, deadline)

    async def create(self, obj: Object, deadline: Deadline) -> Object | None:
        """Create an object; None where the kind or its namespace does not exist.

        Raises:
            KubernetesConflict: there is one of that name already.
            KubernetesError: the API refused or could not be reached.
        """
        prefix, plural = PLURALS[obj["kind"]]
        namespace = key_of(obj)[0]
        path = f"{prefix}{scope(namespace)}/{plural}"
        return await self._call(obj["kind"], "POST", path, deadline, body=obj)

    async def patch(self, obj: Object, patch: Object, deadline: Deadline) -> Object | None:
        """Merge into an object, if it is still as it was read; None where it is gone.

        Raises:
            KubernetesConflict: it has changed since.
            KubernetesError: the API refused or could not be reached.
        """
        return await self._patch(obj, patch, deadline)

    async def delete(
        self, kind: str, namespace: str, name: str, deadline: Deadline, preconditions: Mapping[str, str] | None = None
    ) -> None:
        """Ask for an object's deletion; one that is gone already is no error.

        Args:
            kind: of the object.
            namespace: of the object.
            name: of the object.
            deadline: of the call.
            preconditions: `uid` and `resourceVersion` that the object must still have; none: whatever has the name.

        Raises:
            KubernetesConflict: the object does not meet the preconditions.
            KubernetesError: the API refused or could not be reached.
        """
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": dict(preconditions or {})}
        body = options if preconditions else None
        kinds = (version_of(kind), STATUS)
        path = path_of(kind, namespace, name)
        await self._call(kind, "DELETE", path, deadline, body=body, kinds=kinds)

    async def record_event(self, obj: Object, fact: EventFact, deadline: Deadline) -> None:
        """Record a fact as an Event on an object; the same fact again only raises the count.

        The Event's name is made from the object's uid and the fact, so that repeats find it whichever function or
        container they come from.

        Raises:
            KubernetesError: the API refused or could not be reached.
        """
        now = rfc3339(datetime.now(UTC))
        event = event_object(obj, fact, now)
        namespace, name = key_of(event)
        prefix, plural = PLURALS["Event"]
        while True:
            try:
                await self._call("Event", "POST", f"{prefix}/namespaces/{namespace}/{plural}", deadline, body=event)
            except KubernetesConflict:
                known = await self.get("Event", namespace, name, deadline)
                if known is None:  # expired between the two calls
                    continue
                try:
                    again = {"count": int(known.get("count") or 1) + 1, "lastTimestamp": now}
                    await self._patch({**known, "kind": "Event"}, again, deadline)
                except KubernetesConflict:
                    continue
            return

    async def _patch(self, obj: Object, patch: Object, deadline: Deadline, subresource: str = "") -> Object | None:
        namespace, name = key_of(obj)
        version = {"resourceVersion": obj["metadata"]["resourceVersion"]}
        body = {**patch, "metadata": {**patch.get("metadata", {}), **version}}
        path = path_of(obj["kind"], namespace, name) + subresource
        return await self._call(obj["kind"], "PATCH", path, deadline, body=body)
