"""Reading the objects of one Kubernetes API, as plain dictionaries: the generated models would cost time and memory."""

import math
from collections.abc import AsyncIterator, Collection, Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final, Self

from shared.deadline import Deadline
from shared.kube.access import Access, access_to
from shared.kube.answers import Gone, Kind, NotFound, NotKubernetes, Object
from shared.kube.connection import Connection, ResponseTooLarge, together
from shared.kube.discovery import scopes, serves
from shared.kube.forms import METADATA_LIST, PARTIAL_LIST, Form
from shared.kube.kinds import PLURALS, Key, key_of, path_of, scope, uid_of, version_of
from shared.kube.paging import OF_DOCUMENTS, PageSize
from shared.settings import Settings

_LIST_RESTARTS: Final = 3
# Objects of a list that cost as much as one object by name, measured with 20,000 Destinations, and with WorkPlacements
# of a few kilobytes: a call costs a millisecond at either end.
_WORTH_A_GET: Final = 20
_WORTH_A_GET_OF_DOCUMENTS: Final = 4
_METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_PARTIAL: Final[Kind] = ("meta.k8s.io/v1", "PartialObjectMetadata")


class Reader:
    """What the use cases read of one Kubernetes API."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection = connection
        self._settings = settings
        self._scopes: Mapping[str, bool] = {}

    @classmethod
    async def connect(cls, settings: Settings, access: Access | None = None) -> Self:
        """Open the way to a cluster, KUBECONFIG's where none is given; nothing is sent to it yet.

        Raises:
            KubernetesError: it cannot be used.
        """
        return cls(await Connection.connect(access or access_to(settings), settings), settings)

    async def close(self) -> None:
        """Give back connections."""
        await self._connection.close()

    def now(self) -> datetime:
        """Return the API server's time, up to a second early: its last answer's, and what has passed since."""
        return self._connection.now()

    async def get(
        self, kind: str, namespace: str, name: str, deadline: Deadline, *, metadata_only: bool = False
    ) -> Object | None:
        """Return an object, or None where there is none of that name.

        Raises:
            KubernetesError: the API refused or could not be reached.
        """
        path = path_of(kind, namespace, name)
        if not metadata_only:
            return await self._call(kind, "GET", path, deadline)
        kinds = (version_of(kind), _PARTIAL)
        return await self._call(kind, "GET", path, deadline, accept=_METADATA, kinds=kinds)

    async def pages(
        self,
        kind: str,
        deadline: Deadline,
        labels: Mapping[str, str] | str | None = None,
        *,
        namespace: str = "",
        metadata_only: bool = False,
        columns: bool = False,
        first: int | None = None,
    ) -> AsyncIterator[list[Object]]:
        """Yield all objects of a kind, page by page; nothing where the cluster does not serve the kind.

        A page has about 8 MiB at most. A caller that keeps no page needs memory for one; do not read many lists side by
        side. Each object comes once: from the snapshot that the list began with or, where that expired, a later one.

        Args:
            kind: of the objects.
            deadline: of the calls.
            labels: that the objects have, or a selector in the API's own words; none means all objects.
            namespace: of the objects; empty means all.
            metadata_only: whether their `spec` and `status` stay where they are (documents make those large).
            columns: the same, but each object has `cells` besides: what `kubectl get` prints of it, by the columns'
                names in small letters (the CRD's additionalPrinterColumns, computed by the API server); and
                `status_changed`, when its status was last written (RFC 3339), empty where that is not known.
            first: objects on the first page at most, for a caller that may need no more than those.

        Raises:
            KubernetesError: the API refused or could not be reached, or something else answered.
        """
        more = self._pages(
            kind, deadline, labels, namespace=namespace, metadata_only=metadata_only, columns=columns, first=first
        )
        async for page, _ in more:
            yield page

    async def _pages(
        self,
        kind: str,
        deadline: Deadline,
        labels: Mapping[str, str] | str | None = None,
        *,
        namespace: str = "",
        metadata_only: bool = False,
        columns: bool = False,
        first: int | None = None,
    ) -> AsyncIterator[tuple[list[Object], float]]:
        """Yield each page, and how many objects come after it: infinity where the API server does not say."""
        prefix, plural = PLURALS[kind]
        path = f"{prefix}{scope(namespace)}/{plural}"
        api_version, name = version_of(kind)
        form = Form.of((api_version, f"{name}List"), metadata_only=metadata_only, columns=columns)
        query = _selector(labels)
        size = PageSize.first(kind, metadata_only=metadata_only or columns, most=first)
        seen: set[str] = set()
        restarts = 0
        while True:
            query["limit"] = str(size.limit)
            try:
                page = await self._call(
                    kind, "GET", path, deadline, kinds=form.kinds, query=query, accept=form.accept, measure=size.measure
                )
            except ResponseTooLarge:
                if size.limit == 1:
                    raise
                size.reduce()
                continue
            except Gone:  # the list took longer than the server keeps it: begin again
                restarts += 1
                if "continue" not in query or restarts > _LIST_RESTARTS:
                    raise
                del query["continue"]
                continue
            if page is None:
                return
            items = form.items(page)
            size.learn(len(items))
            fresh = [item for item in items if not restarts or uid_of(item) not in seen]
            seen.update(uid_of(item) for item in fresh)
            for item in fresh:
                item["kind"] = kind
                item["metadata"].pop("managedFields", None)  # half of what metadata is, and of no use here
            metadata = page.get("metadata") or {}
            token = metadata.get("continue")
            left = metadata.get("remainingItemCount", math.inf) if token else 0
            del page, items
            if fresh:
                yield fresh, left
            if not token:
                return
            query["continue"] = token

    async def list_all(
        self,
        kind: str,
        deadline: Deadline,
        labels: Mapping[str, str] | str | None = None,
        *,
        namespace: str = "",
        metadata_only: bool = False,
        columns: bool = False,
    ) -> list[Object]:
        """Return all objects of a kind at once, as `pages` yields them.

        For objects that are small, or few: of WorkPlacements and Works their metadata only.

        Raises:
            KubernetesError: as `pages`.
        """
        pages = self.pages(kind, deadline, labels, namespace=namespace, metadata_only=metadata_only, columns=columns)
        return [obj async for page in pages for obj in page]

    async def is_namespaced(self, kind: str, deadline: Deadline) -> bool:
        """Return whether objects of one of our kinds have a namespace; False where the cluster does not serve it.

        Raises:
            KubernetesError: discovery could not be had.
        """
        prefix, plural = PLURALS[kind]
        if plural not in self._scopes:  # a kind keeps its scope for as long as its definition is there
            self._scopes = await scopes(self._connection, prefix, deadline)
        return self._scopes.get(plural, False)

    async def exists(self, kind: str, deadline: Deadline, labels: Mapping[str, str] | None = None) -> bool:
        """Return whether there is any object of a kind that has these labels.

        Raises:
            KubernetesError: as `pages`.
        """
        prefix, plural = PLURALS[kind]
        api_version, name = version_of(kind)
        kinds = ((api_version, f"{name}List"), PARTIAL_LIST)
        query = {"limit": "1", **_selector(labels)}
        page = await self._call(
            kind, "GET", f"{prefix}/{plural}", deadline, kinds=kinds, query=query, accept=METADATA_LIST
        )
        return bool(page and page.get("items"))

    async def read_many(
        self, kind: str, keys: Collection[Key], deadline: Deadline, *, metadata_only: bool = False
    ) -> dict[Key, Object]:
        """Return those of the named objects that exist: by name, or by a list where so many are wanted that it is less.

        A list is read page by page, and only for as long as what is left of it costs less than what is still wanted.

        Args:
            kind: of the objects.
            keys: namespaces and names.
            deadline: of the calls.
            metadata_only: as `list_all`.

        Raises:
            KubernetesError: the API refused or could not be reached.
        """
        missing = set(keys)
        found: dict[Key, Object] = {}
        if len(missing) > self._settings.list_above:
            worth = _WORTH_A_GET if metadata_only or kind not in OF_DOCUMENTS else _WORTH_A_GET_OF_DOCUMENTS
            listing = self._pages(kind, deadline, metadata_only=metadata_only)
            async for page, left in listing:
                found |= {key: obj for obj in page if (key := key_of(obj)) in missing}
                missing -= found.keys()
                if left > worth * len(missing):
                    break
            else:
                return found
        ordered = sorted(missing)
        objects = await together(self.get(kind, *key, deadline, metadata_only=metadata_only) for key in ordered)
        return found | {key: obj for key, obj in zip(ordered, objects, strict=True) if obj is not None}

    async def _call(
        self, kind: str, method: str, path: str, deadline: Deadline, *, kinds: Collection[Kind] = (), **parts: Any
    ) -> Object | None:
        """Make a call about a kind; None where the API server says that there is no such object, or no such kind."""
        try:
            return await self._connection.call(method, path, deadline, kinds=kinds or (version_of(kind),), **parts)
        except (NotFound, NotKubernetes) as error:
            prefix, plural = PLURALS[kind]
            is_collection = path.endswith(f"/{plural}")
            if isinstance(error, NotFound) and not (is_collection and method == "GET"):
                return None
            if isinstance(error, NotKubernetes) and error.status != HTTPStatus.NOT_FOUND:
                raise
            namespaced = None if is_collection else path.startswith(f"{prefix}/namespaces/")
            if await serves(self._connection, prefix, plural, deadline, namespaced=namespaced):
                raise
            return None


def _selector(labels: Mapping[str, str] | str | None) -> dict[str, str]:
    """Return the query of a list for labels, or for a selector in the API's own words."""
    given = labels or {}
    selector = given if isinstance(given, str) else ",".join(f"{k}={v}" for k, v in sorted(given.items()))
    return {"labelSelector": selector} if selector else {}
