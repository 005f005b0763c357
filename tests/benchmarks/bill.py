"""The month's bill by the size of the fleet: `python -m tests.benchmarks.bill` prints its table and writes its plot.

Prices, and what is counted, are those of docs/operations.md, "Cost"; what a fleet does in a month is an assumption.
"""

from collections.abc import Mapping
from typing import Final

from tests.benchmarks.curves import curves
from tests.benchmarks.servers import ROOT

SIZES: Final = (100, 1000, 10_000, 100_000)
PLOT: Final = ROOT / "docs" / "bill.svg"

# Dollars.
_EVENT, _SQS, _INVOCATION, _GB_SECOND, _S3 = 1e-6, 0.4e-6, 0.2e-6, 0.0000166667, 0.005 / 1000
_FIXED: Final = 15.88  # of any deployment
# Of a fleet.
_PLACEMENTS: Final = 10  # of each Destination
_DOCUMENTS: Final = 5  # of each WorkPlacement
_CHANGES: Final = _PLACEMENTS * 0.05 * 30  # of each Destination's WorkPlacements a month: 5 % a day
_RESYNCS: Final = 4320
# Of a change that comes alone: a burst costs less. Calls are those of `make simulate`.
_CHANGE_EVENTS, _CHANGE_SQS, _CHANGE_INVOCATIONS, _CHANGE_GB_SECONDS, _CHANGE_LISTS = 2, 12, 3, 0.9, 8
# Of a resync: of each Destination and each WorkPlacement.
_RESYNC_GB_SECONDS, _RESYNC_SQS, _KEYS_A_LIST = 0.0032, 0.017, 1000


def month(destinations: int) -> Mapping[str, float]:
    """Return the dollars of a month, by what they are for."""
    changes = destinations * _CHANGES
    objects = destinations * (1 + _PLACEMENTS)
    keys = destinations * (2 + _PLACEMENTS * _DOCUMENTS)
    functions = _CHANGE_INVOCATIONS * _INVOCATION + _CHANGE_GB_SECONDS * _GB_SECOND
    return {
        "any deployment": _FIXED,
        "changes: events, queues": changes * (_CHANGE_EVENTS * _EVENT + _CHANGE_SQS * _SQS),
        "changes: Lambda": changes * functions,
        "changes: S3": changes * (_CHANGE_LISTS + _DOCUMENTS) * _S3,
        "resync: Lambda": _RESYNCS * objects * _RESYNC_GB_SECONDS * _GB_SECOND,
        "resync: S3, queues": _RESYNCS * (keys / _KEYS_A_LIST * _S3 + objects * _RESYNC_SQS * _SQS),
    }


def table() -> str:
    """Return the bills as a Markdown table."""
    bills = {size: month(size) for size in SIZES}
    lines = ["| | " + " | ".join(f"{size:,}" for size in SIZES) + " |", "|---|" + "---|" * len(SIZES)]
    lines += [f"| {name} | " + " | ".join(_dollars(bills[size][name]) for size in SIZES) + " |" for name in month(1)]
    lines.append("| **all** | " + " | ".join(f"**{_dollars(sum(bills[size].values()))}**" for size in SIZES) + " |")
    return "\n".join(lines)


def plot() -> str:
    """Return the bills as SVG."""
    series = {name: [(float(size), month(size)[name]) for size in SIZES] for name in month(1)}
    total = {"all": [(float(size), sum(month(size).values())) for size in SIZES]}
    return curves(total | series, x="Destinations", y="dollars a month")


def _dollars(value: float) -> str:
    return f"${value:,.2f}" if value < 100 else f"${value:,.0f}"


if __name__ == "__main__":
    PLOT.write_text(plot())
    print(table())
