"""What `landfall status` prints."""

from datetime import datetime
from typing import Final

from rich.text import Text

from infra.cli.output import STYLES, Output, count, status_text
from infra.cli.overview import Overview, Row, age

_SHOWN: Final = 10  # Destinations that are not Ready, and WorkPlacements that fail; JSON and YAML have all
_MESSAGE: Final = 100  # characters


def print_overview(found: Overview, output: Output, now: datetime) -> None:
    """Print a fleet at a glance."""
    total, waiting = len(found.destinations), found.not_ready
    output.line((count(total, "Destination"), "bold"), f": {total - len(waiting):,} Ready, {len(waiting):,} not")
    if found.reasons:
        output.line()
        rows = [(f"{number:,}", status_text(status), reason) for status, reason, number in found.reasons]
        output.table(("DESTINATIONS", "READY", "REASON"), rows)
    if found.stores:
        output.line()
        stores = [
            (row.name, status_text(row.status), row.reason, f"{found.by_store.get(row.name, 0):,}", _short(row))
            for row in found.stores
        ]
        output.table(("STATE STORE", "READY", "REASON", "DESTINATIONS", "MESSAGE"), stores)
    if waiting:
        output.heading("Not Ready the longest")
        shown = [
            (row.name, _reason(row), age(row.since, now), row.store, _short(row, ready=True))
            for row in waiting[:_SHOWN]
        ]
        output.table(("DESTINATION", "REASON", "FOR", "STATE STORE", "MESSAGE"), shown)
        _and_more(len(waiting), output)
    if found.failing:
        output.heading("WorkPlacements that fail")
        output.table(("WORKPLACEMENT", "DESTINATION"), found.failing[:_SHOWN])
        _and_more(len(found.failing), output)


def _and_more(number: int, output: Output) -> None:
    if number > _SHOWN:
        output.line(f"and {number - _SHOWN:,} more: -o json shows all", style="dim")


def _reason(row: Row) -> Text:
    return Text(f"{row.reason}{', being deleted' if row.leaving else ''}", style=STYLES.get(row.status, ""))


def _short(row: Row, *, ready: bool = False) -> str:
    if row.status == "True" and not ready:
        return ""
    return row.message if len(row.message) <= _MESSAGE else f"{row.message[: _MESSAGE - 1]}…"
