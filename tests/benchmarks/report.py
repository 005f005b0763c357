"""The report of what was measured: Markdown, and one HTML page that needs nothing but itself."""

import html
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from tests.benchmarks.curves import curves
from tests.benchmarks.results import Results, Row, SideRow

_SIZED: Final = re.compile(r"growth-(\w+)-(\d+)")
_GROWING: Final = {"seconds": "seconds", "calls": "calls", "read_kb": "KB read", "cpu_seconds": "CPU seconds"}
_STEPS: Final = ("destination", "workplacement", "relabel")
_WIDTH, _LABEL, _BAR, _STEP = 760, 190, 18, 30
_SHADES: Final = {"ours": "var(--ours)", "peer": "var(--peer)", "floor": "var(--floor)"}
_PAGE: Final = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Landfall: benchmarks</title>
<style>
:root {{ color-scheme: light dark; --ours: light-dark(#0969da, #58a6ff); --peer: light-dark(#8c6d46, #b58c5c);
  --floor: light-dark(#8b949e, #6e7681); --ink: light-dark(#1f2328, #e6edf3); --paper: light-dark(#fff, #0d1117); }}
body {{ font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; padding: .2rem .6rem; border-bottom: 1px solid var(--floor); }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
.missed {{ font-weight: 700; }}
section {{ margin: 2.5rem 0; overflow-x: auto; }}
svg text {{ fill: var(--ink); font: 13px system-ui, sans-serif; }}
svg .spread {{ stroke: var(--ink); stroke-width: 1.5; }}
svg circle {{ fill: var(--ink); opacity: .55; }}
small {{ opacity: .75; }}
</style></head><body>
<h1>Landfall: benchmarks</h1>
<p>Sides took turns in one run on the same servers. Times are seconds; a bar is the median, the line goes from the
quickest round to the slowest, each dot is a round. A ratio is the other's median by ours: above 1, ours is faster.</p>
{summary}
{sections}
</body></html>
"""


def write_report(results: Results) -> tuple[Path, Path]:
    """Write report.md and report.html beside the results, and return their paths."""
    rows = sorted(results.rows.values(), key=lambda row: row.name)
    paths = results.path.with_name("report.md"), results.path.with_name("report.html")
    paths[0].write_text(markdown(rows))
    paths[1].write_text(page(rows))
    return paths


def markdown(rows: Sequence[Row]) -> str:
    """Return the report in Markdown."""
    lines = ["# Benchmarks", "", *_table(_summary(rows)), ""]
    for row in rows:
        lines += [f"## {row.name}", "", f"{row.measures}.", "", *_table(_details(row)), ""]
        lines += [f"- {verdict}" for verdict in row.verdicts()]
        lines += ["", f"{_about(row)}", ""]
    return "\n".join(lines)


def page(rows: Sequence[Row]) -> str:
    """Return the report as an HTML page, plots included."""
    sections = []
    for row in rows:
        verdicts = "".join(f"<li>{html.escape(verdict)}</li>" for verdict in row.verdicts())
        sections.append(
            f"<section><h2>{html.escape(row.name)}</h2><p>{html.escape(row.measures)}.</p>{plot(row)}"
            f"{_html_table(_details(row))}<ul>{verdicts}</ul><small>{html.escape(_about(row))}</small></section>"
        )
    sections = [*growth(rows), *sections]
    return _PAGE.format(summary=_html_table(_summary(rows)), sections="\n".join(sections))


def growth(rows: Sequence[Row]) -> list[str]:
    """Return plots of what one change costs against the size of the fleet, from rows called `growth-<store>-<N>`."""
    sections = []
    sized = [(match[1], float(match[2]), row) for row in rows if (match := _SIZED.fullmatch(row.name))]
    for store in sorted({store for store, _, _ in sized}):
        for figure, unit in _GROWING.items():
            series: dict[str, list[tuple[float, float]]] = {}
            for _, size, row in sorted((each for each in sized if each[0] == store), key=lambda each: each[1]):
                for side in row.sides:
                    for step in _STEPS:
                        values = [value for value in side.figures.get(f"{step}_{figure}", ()) if value > 0]
                        if values:
                            series.setdefault(f"{side.name}: {step}", []).append((size, statistics.median(values)))
            if series:
                drawn = curves(series, x="Destinations", y=unit)
                sections.append(f"<section><h2>growth, {store}: {unit} of one change</h2>{drawn}</section>")
    return sections


def plot(row: Row) -> str:
    """Return a bar chart of a row's sides as SVG."""
    longest = max((value for side in row.sides for value in side.seconds), default=0.0)
    scale = (_WIDTH - _LABEL - 90) / longest if longest else 0.0
    parts = []
    for number, side in enumerate(row.sides):
        top, median = number * _STEP + 6, side.median
        middle = top + _BAR / 2
        parts.append(f'<text x="0" y="{middle + 4:.0f}">{html.escape(side.name)}</text>')
        if median is None:
            parts.append(f'<text x="{_LABEL}" y="{middle + 4:.0f}">{html.escape(side.out or "no round yet")}</text>')
            continue
        low, high = (_LABEL + value * scale for value in (min(side.seconds), max(side.seconds)))
        parts.append(
            f'<rect x="{_LABEL}" y="{top}" width="{max(median * scale, 1):.1f}" height="{_BAR}" rx="2"'
            f' fill="{_SHADES[side.role]}"><title>{html.escape(side.name)}: {median:.3f} s</title></rect>'
            f'<line class="spread" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>'
        )
        parts += [f'<circle cx="{_LABEL + value * scale:.1f}" cy="{middle}" r="2.5"/>' for value in side.seconds]
        parts.append(f'<text x="{high + 8:.1f}" y="{middle + 4:.0f}">{_seconds(median)} s</text>')
    height = len(row.sides) * _STEP + 6
    return f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" role="img">{"".join(parts)}</svg>'


def _summary(rows: Iterable[Row]) -> list[list[str]]:
    table = [["work", "ours, s", "against", "theirs, s", "ratio", "target", ""]]
    for row in rows:
        ours = row.ours.out if row.ours.median is None else _seconds(row.ours.median)
        for other in row.others:
            ratio, target = row.ratio(other), row.targets.get(other.name)
            theirs = other.out if other.median is None else _seconds(other.median)
            reached = "" if target is None or ratio is None else "reached" if ratio >= target else "MISSED"
            shown = "" if ratio is None else f"{ratio:.2f}"
            table.append([row.name, ours, other.name, theirs, shown, "" if target is None else f"{target:g}", reached])
        for figure, limit in row.limits.items():
            worst = max(row.ours.figures.get(figure, ()), default=None)
            reached = "" if worst is None else "reached" if worst <= limit else "MISSED"
            shown = "not measured" if worst is None else f"{worst:,.6g}"
            table.append([row.name, ours, figure, shown, "", f"≤ {limit:g}", reached])
        if not row.others and not row.limits:
            table.append([row.name, ours, "", "", "", "", ""])
    return table


def _details(row: Row) -> list[list[str]]:
    figures = list(dict.fromkeys(name for side in row.sides for name in side.figures))
    heads = ["side", "median, s", "min", "max", "rounds", *(name.replace("_", " ") for name in figures)]
    return [heads, *(_detail(side, figures) for side in row.sides)]


def _detail(side: SideRow, figures: Sequence[str]) -> list[str]:
    if side.median is None:
        return [side.name, side.out or "no round yet", *[""] * (3 + len(figures))]
    times = [_seconds(value) for value in (side.median, min(side.seconds), max(side.seconds))]
    medians = [statistics.median(side.figures[name]) if name in side.figures else None for name in figures]
    return [side.name, *times, str(len(side.seconds)), *("" if m is None else f"{m:,.4g}" for m in medians)]


def _about(row: Row) -> str:
    loads = [load for side in row.sides for load in side.load]
    busy = f", load average {min(loads):.1f} to {max(loads):.1f}" if loads else ""
    about = row.machine
    return f"Measured {about['at']} on {about['cores']} cores{busy}; Python {about['python']}, Linux {about['kernel']}."


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value >= 10 else f"{value:.3f}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [head, "|" + "---|" * len(rows[0]), *body]


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    heads = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = [f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in body]
    return f"<table><tr>{heads}</tr>{''.join(lines)}</table>"


def _cell(text: str) -> str:
    number = text.replace(",", "").replace(".", "").isdigit()
    kind = ' class="number"' if number else ' class="missed"' if text == "MISSED" else ""
    return f"<td{kind}>{html.escape(text)}</td>"
