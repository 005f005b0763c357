"""`python -m tests.benchmarks`: run benchmarks, print, and write results.json, report.md and report.html."""

import argparse
import asyncio
import sys
from pathlib import Path

from tests.benchmarks.harness import Benchmark, measure, registered
from tests.benchmarks.report import write_report
from tests.benchmarks.results import Results
from tests.benchmarks.servers import ROOT, Servers


def main() -> int:
    """Run what is asked for, and return the exit status: 1 if a side failed. A missed target is a result."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", default="", help="names, with commas; a name's beginning and * means all such")
    parser.add_argument(
        "--rounds", type=int, default=3, help="of each side; some benchmarks have a number of their own"
    )
    parser.add_argument("--results", type=Path, default=ROOT / ".landfall" / "bench" / "results.json")
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    parser.add_argument("--report", action="store_true", help="write the report of the results as they are")
    chosen = parser.parse_args()
    known = registered()
    if chosen.list:
        print("\n".join(f"{name}\n    {work.measures}" for name, work in sorted(known.items())))
        return 0
    results = Results(chosen.results)
    wanted = [] if chosen.report else _wanted(known, chosen.only)
    failed = asyncio.run(_run(wanted, results, chosen.rounds))
    for path in write_report(results):
        print(f"report: {path}")
    return 1 if failed else 0


def _wanted(known: dict[str, Benchmark], only: str) -> list[Benchmark]:
    wanted: dict[str, Benchmark] = {}
    for name in filter(None, (part.strip() for part in only.split(","))):
        found = {key: known[key] for key in sorted(known) if key == name or _begins(key, name)}
        if not found:
            sys.exit(f"there is no benchmark {name}; there are: {', '.join(sorted(known))}")
        wanted |= found
    return list((wanted or dict(sorted(known.items()))).values())


def _begins(name: str, pattern: str) -> bool:
    return pattern.endswith("*") and name.startswith(pattern[:-1])


async def _run(wanted: list[Benchmark], results: Results, rounds: int) -> bool:
    failed = False
    with Servers(results.path.parent) as servers:
        for work in wanted:
            row = await measure(work, servers, results, rounds=rounds, tell=lambda line: print(line, flush=True))
            failed = failed or any(side.failed for side in row.sides)
    return failed


if __name__ == "__main__":
    sys.exit(main())
