"""How commands run: to their end, with kubectl's exit status, and errors of ours as one sentence."""

import asyncio
import logging
import os
import sys
from collections.abc import Coroutine
from typing import Annotated, Any, Final

import typer

from infra.cli.output import Format, error
from shared.errors import LandfallError, first

FAILED: Final = 1
_INTERRUPTED: Final = 130

Form = Annotated[Format, typer.Option("-o", "--output", help="What to print.", show_default=True)]


def leave(work: Coroutine[Any, Any, int], *, failed: int = FAILED) -> None:
    """Run a command to its end, and leave with its exit status.

    Args:
        work: returns the exit status.
        failed: the exit status of an error.
    """
    logging.getLogger("kubernetes_asyncio").setLevel(logging.CRITICAL)  # what it says is said by our errors
    try:
        code = asyncio.run(work)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except BrokenPipeError:  # `landfall tree … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = failed
    except (LandfallError, ExceptionGroup) as raised:
        cause = first(raised)
        if not isinstance(cause, LandfallError):
            raise
        error(str(cause))
        code = failed
    raise typer.Exit(code)
