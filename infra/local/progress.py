"""What a person sees: plain lines with the seconds since the start, and on a terminal what is being waited for."""

import contextlib
import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text


class Progress:
    """Prints to stdout; a terminal also gets colours and a spinner."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._began

    def step(self, what: str, text: str = "") -> None:
        """Say what has just been done."""
        # One print a line: the spinner redraws itself between prints.
        self._console.print(Text.assemble((f"[{self.seconds:5.1f} s] ", "dim"), (f"{what:<16}", "bold"), f" {text}"))

    def heading(self, text: str) -> None:
        """Begin a part."""
        self._console.print()
        self._console.print(text, style="bold cyan")

    def lines(self, text: str, style: str = "") -> None:
        """Print as it is."""
        self._console.print(text, style=style)

    def failure(self, text: str) -> None:
        """Say to stderr what went wrong."""
        Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(text, style="bold red")

    @contextlib.contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Show on a terminal that something is being waited for."""
        if sys.stdout.isatty():
            with self._console.status(text):
                yield
        else:
            yield
