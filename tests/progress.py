"""Lines of progress for commands that would otherwise be silent for minutes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

SECONDS = 15.0


@contextlib.asynccontextmanager
async def telling(
    line: Callable[[], str], say: Callable[[str], None], *, seconds: float = SECONDS
) -> AsyncIterator[None]:
    """Say a line every so many seconds while the block runs; a block that is shorter says nothing."""

    async def tell() -> None:
        while True:
            await asyncio.sleep(seconds)
            say(line())

    task = asyncio.create_task(tell())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
