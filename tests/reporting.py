"""What a test run says of itself: how far it is, in a log without a terminal, and how each suite did in the end."""

import os
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Generator

import pytest

from infra.local.workers import Log

PROGRESS_SECONDS = 15.0
LOG_LINES = 60

_OUTCOMES = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Report progress in lines where a terminal's dots would stay unseen until their line is full."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")  # a worker of pytest-xdist has none
    if isinstance(terminal, pytest.TerminalReporter) and not terminal.isatty and terminal.verbosity == 0:
        config.pluginmanager.register(Progress(terminal), "landfall-progress")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what functions said that a failed test has run: of its fixtures, those with a log."""
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(log := getattr(value, "log", None), Log):
                said = [line for line in log.tail(LOG_LINES * 5) if '"_aws"' not in line]  # no metrics
                report.sections.append((f"the functions' log ({name})", "\n".join(said[-LOG_LINES:])))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many tests ran in each suite, the folders below tests/, and the sum of their seconds."""
    suites: dict[str, Counter[str]] = {}
    seconds: defaultdict[str, float] = defaultdict(float)
    for outcome, reports in terminalreporter.stats.items():
        for report in reports:
            if not isinstance(report, pytest.TestReport | pytest.CollectReport):
                continue
            parts = report.nodeid.split("::")[0].split("/")
            suite = parts[1] if len(parts) > 2 else "tests"
            if outcome in _OUTCOMES:
                suites.setdefault(suite, Counter())[outcome] += 1
            if isinstance(report, pytest.TestReport):
                seconds[suite] += report.duration
    if not suites:
        return
    terminalreporter.section("tests by suite")
    for suite, counts in sorted(suites.items()):
        by_outcome = ", ".join(f"{counts[outcome]} {outcome}" for outcome in _OUTCOMES if counts[outcome])
        terminalreporter.line(f"{suite:<12} {counts.total():>5} {seconds[suite]:>6.0f} s  ({by_outcome})")
    total = sum(counts.total() for counts in suites.values())
    terminalreporter.line(f"{'all':<12} {total:>5} {sum(seconds.values()):>6.0f} s")
    _measured(terminalreporter)
    _left_out(terminalreporter)


def _measured(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have measured: lines that they recorded as property `measured`."""
    lines = [
        str(value)
        for report in terminalreporter.stats.get("passed", ())
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, value in report.user_properties
        if name == "measured"
    ]
    if lines:
        terminalreporter.section("measured")
        for line in sorted(lines):
            terminalreporter.line(line)


def _left_out(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the modules whose tests did not run, with the reason: a summary that is green says so itself."""
    why: Counter[tuple[str, str]] = Counter()
    for report in terminalreporter.stats.get("skipped", ()):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        why[report.nodeid.split("::")[0], reason.removeprefix("Skipped: ")] += 1
    if why:
        terminalreporter.section("NOT RUN", red=True, bold=True)
        for (module, reason), count in sorted(why.items()):
            terminalreporter.line(f"{count} tests of {module}: {reason}", red=True)


class Progress:
    """A line every few seconds, and one for each failure at once, in place of a letter for each test."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal
        # Of our own: while a test runs in this process, its output is captured, and so would ours be.
        self._log = os.fdopen(os.dup(sys.stdout.fileno()), "w")
        self._began = time.monotonic()
        self._done = self._failed = 0
        self._running: dict[str, None] = {}  # test ids, in the order in which they began
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._report, name="progress", daemon=True)
        terminal.showfspath = False

    def pytest_sessionstart(self) -> None:
        """Begin to report, also while long tests say nothing."""
        self._thread.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note what runs; pytest-xdist calls this for its workers' tests too."""
        self._running[nodeid] = None

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Note what has ended."""
        self._running.pop(nodeid, None)
        self._done += 1

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Name a failure when it happens; its traceback comes at the end."""
        if report.failed:
            self._failed += 1
            self._say(f"FAILED {report.nodeid} ({report.when})")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_report_teststatus(self) -> Generator[None, tuple[str, str, str], tuple[str, str, str]]:
        """Leave the letters away: lines of ours would stand between them."""
        category, _, _ = yield
        return category, "", ""

    def pytest_sessionfinish(self) -> None:
        """End."""
        self._ended.set()
        self._thread.join()
        self._log.close()

    def _report(self) -> None:
        while not self._ended.wait(PROGRESS_SECONDS):
            minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
            total = getattr(getattr(self._terminal, "_session", None), "testscollected", 0)
            doing = f"{self._done} of {total} tests done" if total else "collecting tests"
            failed = f", {self._failed} failed" if self._failed else ""
            files = dict.fromkeys(nodeid.partition("::")[0] for nodeid in list(self._running))
            now = f": {', '.join(files)}" if files else ""
            self._say(f"[{minutes:3}:{seconds:02}] {doing}{failed}{now}")

    def _say(self, line: str) -> None:
        self._terminal.flush()
        print(line, file=self._log, flush=True)
