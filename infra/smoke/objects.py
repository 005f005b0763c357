"""The objects of one run in the cluster: made, waited for, and deleted whatever happens."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from infra.checks.lines import Line, NotChecked, failed
from infra.checks.look import Look
from shared.works import WORK_LABEL

GROUP: Final = "/apis/platform.kratix.io/v1alpha1"
_POLL_SECONDS: Final = 0.5
_MERGE_PATCH: Final = "application/merge-patch+json"

Say = Callable[[str, str], None]


class Refused(Exception):
    """A step that failed, as its line."""

    def __init__(self, line: Line) -> None:
        super().__init__(str(line))
        self.line = line


class Objects:
    """What one run makes in the cluster; everything of it has one name.

    Attributes:
        name: of every object.
        made: the paths of what was made, in order.
        works: the path of the Works of its namespace.
        placements: the path of the WorkPlacements there.
    """

    def __init__(self, look: Look, name: str, namespace: str, seconds: float, say: Say) -> None:
        """Prepare it; nothing is created yet.

        Args:
            look: at the deployment, whose cluster it is.
            name: of every object.
            namespace: that the Work is created in.
            seconds: that one wait may take.
            say: is told what is being waited for.
        """
        self.name = name
        self.made: list[str] = []
        self.works = f"{GROUP}/namespaces/{namespace}/works"
        self.placements = f"{GROUP}/namespaces/{namespace}/workplacements"
        self._look = look
        self._seconds = seconds
        self._say = say

    async def create(self, collection: str, obj: dict[str, Any]) -> None:
        """Create an object.

        Raises:
            NotChecked: the kubeconfig's identity may not, or the API server did not answer.
            Refused: the API server refused it.
        """
        self.made.append(f"{collection}/{self.name}")  # before it is known: an interruption may come in between
        answer = await self._look.kubernetes.call("POST", collection, obj)
        if answer.status >= HTTPStatus.BAD_REQUEST:
            self.made.pop()
        if answer.status in {HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED}:
            self._look.kubernetes.require(answer, f"POST {collection}")
        if answer.status >= HTTPStatus.BAD_REQUEST:
            told = f"Kubernetes answered {answer.status}: {answer.message}"
            raise Refused(failed(f"{obj['kind']} created", told, "do what the sentence says, and run this again"))

    async def wait(
        self, path: str, wanted: Callable[[dict[str, Any]], bool], end: float | None = None, **query: str
    ) -> tuple[float, dict[str, Any]]:
        """Read until what is there is as wanted, or the time is over.

        Args:
            path: of an object or a list.
            wanted: of what is there; an empty object is nothing.
            end: of the time, on the monotonic clock; None for one step's.
            query: parameters.

        Returns:
            The seconds that it took, and what was there at last; empty where that is nothing.
        """
        began = time.monotonic()
        end = began + self._seconds if end is None else end
        told: tuple[str, str, str] | None = None
        while True:
            try:
                found = await self._look.kubernetes.read(path, **query) or {}
            except NotChecked:  # the API server may be back a moment later
                if time.monotonic() >= end:
                    raise
                await asyncio.sleep(_POLL_SECONDS)
                continue
            seconds = time.monotonic() - began
            if wanted(found) or time.monotonic() >= end:
                return seconds, found
            if (seen := condition(found)) != told and any(seen):
                told = seen
                self._say("waiting", f"{found.get('kind', '')} is not Ready yet: {seen[1]}: {seen[2]}")
            await asyncio.sleep(_POLL_SECONDS)

    async def delete(self, end: float) -> list[str]:
        """Delete objects, the last one first; return those that the functions did not let go in time."""
        left: list[str] = []
        for path in reversed(self.made):
            if not await self._gone(path, end):
                left.append(path)
            if path.startswith(self.works):
                left += await self._placements_left(end)
        for path in left:
            await self._release(path)
        return [path.rpartition("/v1alpha1/")[2] for path in left]

    async def _gone(self, path: str, end: float) -> bool:
        """Delete an object until it is gone, and return whether it is; one call that fails is made again."""
        while True:
            with contextlib.suppress(NotChecked):
                answer = await self._look.kubernetes.call("DELETE", path)
                if answer.status == HTTPStatus.NOT_FOUND:
                    return True
            if time.monotonic() >= end:
                return False
            await asyncio.sleep(_POLL_SECONDS)

    async def _placements_left(self, end: float) -> list[str]:
        """Wait for the end of our Work's WorkPlacements, and return those that are left, deleted."""
        selector = f"{WORK_LABEL}={self.name}"
        _, listed = await self.wait(self.placements, lambda found: not found.get("items"), end, labelSelector=selector)
        left = [f"{self.placements}/{item['metadata']['name']}" for item in listed.get("items") or ()]
        for path in left:
            await self._look.kubernetes.call("DELETE", path)
        return left

    async def _release(self, path: str) -> None:
        """Take the finalizers off an object of ours that no function has released."""
        none: dict[str, Any] = {"metadata": {"finalizers": []}}
        await self._look.kubernetes.call("PATCH", path, none, content_type=_MERGE_PATCH)


def condition(obj: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return status, reason and message of an object's Ready; empty strings where it has none."""
    for found in (obj.get("status") or {}).get("conditions") or ():
        if found["type"] == "Ready":
            return found["status"], found.get("reason", ""), found.get("message", "")
    return "", "", ""
