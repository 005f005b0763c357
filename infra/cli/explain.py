"""Why an object is as it is: its reason and what to do, its Events, its last writes, its State Store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from rich.text import Text

from infra.checks.kubernetes import Kubernetes
from infra.cli.fleet import Fleet, destination_name, ready_of, store_name
from infra.cli.meanings import meaning
from infra.cli.output import Output, status_text
from infra.cli.overview import age
from infra.cli.session import Session
from infra.cli.targets import Named
from shared.kube import Key, Object
from shared.reconcile.locations import recorded

_EVENTS: Final = 10


@dataclass(frozen=True, slots=True)
class Part:
    """One object that is explained.

    Attributes:
        name: as in output.
        ready: its condition Ready.
        means: what the reason means.
        todo: what to do about it.
        hint: what to do about the very message.
    """

    name: str
    ready: Mapping[str, Any]
    means: str
    todo: str
    hint: str

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON and YAML."""
        wanted = ("status", "reason", "message", "lastTransitionTime", "observedGeneration")
        return {
            "name": self.name,
            "ready": {name: self.ready[name] for name in wanted if name in self.ready},
            "meaning": self.means,
            "whatToDo": self.todo,
            **({"aboutThisMessage": self.hint} if self.hint else {}),
        }


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything that is known of one object.

    Attributes:
        parts: the object, and its State Store.
        placements: of a Destination, each WorkPlacement that is not Ready.
        written: of a Destination, the latest versions of its WorkPlacements: commits, or digests in a bucket.
        locations: where it has been written, as it remembers.
        events: the newest first.
        outdated: whether the condition is about an older generation than the object has.
    """

    parts: Sequence[Part]
    placements: Sequence[Part]
    written: Mapping[str, str]
    locations: Sequence[str]
    events: Sequence[Mapping[str, Any]]
    outdated: bool

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON and YAML."""
        return {
            **self.parts[0].as_dict(),
            "aboutOlderGeneration": self.outdated,
            "stateStore": self.parts[1].as_dict() if len(self.parts) > 1 else None,
            "workPlacementsNotReady": [part.as_dict() for part in self.placements],
            "versions": dict(self.written),
            "writtenTo": list(self.locations),
            "events": [dict(event) for event in self.events],
        }


async def explain(named: Named, fleet: Fleet, session: Session) -> Explanation:
    """Explain a Destination or a State Store.

    Raises:
        KubernetesError: something could not be read.
    """
    if named.destination is None:
        store = named.store or ("", "", "")
        obj = fleet.stores[store]
        part = _part(store_name(store), store[0], obj)
        return Explanation([part], [], {}, [], await _events(store[0], obj, session), _is_outdated(obj))
    key = named.destination
    obj = fleet.destinations[key]
    parts = [_part(destination_name(key), "Destination", obj)]
    store = fleet.store_key(obj)
    if store in fleet.stores:
        parts.append(_part(store_name(store), store[0], fleet.stores[store]))
    await fleet.read_placements([key], session.cluster, session.deadline)
    placements = fleet.placements_of(key)
    failing = [
        _part(f"workplacement/{'/'.join(own)}", "WorkPlacement", one)
        for own, one in placements.items()
        if ready_of(one).get("status") != "True"
    ]
    written = {_name(own): version for own, one in placements.items() if (version := _version(one))}
    locations = [str(location) for location in recorded(obj) or ()]
    return Explanation(
        parts, failing, written, locations, await _events("Destination", obj, session), _is_outdated(obj)
    )


def _part(name: str, kind: str, obj: Object) -> Part:
    ready = ready_of(obj)
    reason, message = str(ready.get("reason") or ""), str(ready.get("message") or "")
    if kind == "WorkPlacement":  # its Ready only sums up
        failed: Mapping[str, Any] = next((c for c in _conditions(obj) if c.get("status") == "False"), {})
        message = str(failed.get("message") or message)
        ready = {**ready, "message": message}
    if reason == "NoCondition":
        todo = "wait some seconds. If it stays: is a forwarder running, and does the deployment serve this cluster?"
        return Part(name, ready, "no function has reported on it yet", todo, "")
    found = meaning(kind, reason)
    return Part(name, ready, found.means, found.todo, found.hint(message) if ready.get("status") != "True" else "")


def _conditions(obj: Object) -> list[Mapping[str, Any]]:
    return (obj.get("status") or {}).get("conditions") or []


def _is_outdated(obj: Object) -> bool:
    observed = ready_of(obj).get("observedGeneration")
    return observed is not None and observed != obj["metadata"].get("generation")


def _version(placement: Object) -> str:
    return str((placement.get("status") or {}).get("versionID") or "")


def _name(key: Key) -> str:
    return "/".join(filter(None, key))


async def _events(kind: str, obj: Object, session: Session) -> list[dict[str, Any]]:
    """Return an object's Events, the newest first; none where they may not be read."""
    selector = f"involvedObject.kind={kind},involvedObject.name={obj['metadata']['name']}"
    async with session.kubernetes() as kubernetes:
        found = await events_of(selector, kubernetes)
    return [event for event in found if event.pop("uid") in {"", obj["metadata"].get("uid")}][:_EVENTS]


async def events_of(selector: str, kubernetes: Kubernetes) -> list[dict[str, Any]]:
    """Return the Events that a field selector finds, the newest first."""
    answer = await kubernetes.call("GET", "/api/v1/events", query={"fieldSelector": selector})
    items = answer.body.get("items") or [] if answer.status == 200 else []  # noqa: PLR2004
    found = [
        {
            "last": str(item.get("lastTimestamp") or item.get("eventTime") or item["metadata"]["creationTimestamp"]),
            "type": str(item.get("type")),
            "reason": str(item.get("reason")),
            "message": str(item.get("message")),
            "count": int(item.get("count") or 1),
            "uid": str((item.get("involvedObject") or {}).get("uid") or ""),
        }
        for item in items
    ]
    return sorted(found, key=lambda event: event["last"], reverse=True)


def print_explanation(found: Explanation, output: Output) -> None:
    """Print an explanation."""
    now = datetime.now(UTC)
    for at, part in enumerate([*found.parts, *found.placements]):
        if at:
            output.line()
        _print_part(part, output, now)
        if at == 0 and found.outdated:
            output.line(
                "This is about an older generation: a function has not looked at the last change yet.", style="yellow"
            )
    if found.written:
        output.heading("Written")
        output.table(("WORKPLACEMENT", "VERSION"), sorted(found.written.items()))
    if found.locations:
        output.heading("Directories that it remembers")
        output.lines(found.locations)
    output.heading("Events")
    if not found.events:
        output.line("none that the cluster still has")
        return
    rows = [
        (age(_time(event["last"]), now), event["type"], event["reason"], str(event["count"]), event["message"])
        for event in found.events
    ]
    output.table(("LAST SEEN", "TYPE", "REASON", "COUNT", "MESSAGE"), rows)


def _print_part(part: Part, output: Output, now: datetime) -> None:
    status = str(part.ready.get("status"))
    since = part.ready.get("lastTransitionTime")
    for_how_long = f"  for {age(_time(since), now)}" if isinstance(since, str) else ""
    reason = str(part.ready.get("reason"))
    output.line((part.name, "bold"), "  Ready ", status_text(status), f"  {reason}", (for_how_long, "dim"))
    rows: list[tuple[str, str]] = [("Message", str(part.ready.get("message")))]
    if part.means:
        rows.append(("Meaning", part.means))
    if part.todo and part.todo != "nothing":
        rows.append(("To do", part.todo))
    if part.hint:
        rows.append(("About this message", part.hint))
    width = max(len(name) for name, _ in rows)
    for name, words in rows:
        output.line("  ", Text(f"{name:<{width}}", style="dim"), "  ", words)


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return datetime.now(UTC)
