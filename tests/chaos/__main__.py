"""`python -m tests.chaos --minutes 10 --seed N`: exit status 1 if the world differs from the model at the end."""

import argparse
import asyncio
import random
import sys
from functools import partial
from pathlib import Path

from tests.chaos.run import chaos
from tests.chaos.world import world
from tests.servers.git import git_server
from tests.servers.kubernetes import kubernetes_api
from tests.servers.proxy import toxiproxy
from tests.servers.s3 import minio

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Run, print, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="of shaking; settling comes on top")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of operations and faults")
    parser.add_argument("--names", type=int, default=24, help="how many Destinations live at most")
    parser.add_argument("--concurrency", type=int, default=2, help="processes a function")
    parser.add_argument("--log", type=Path, default=ROOT / ".landfall" / "chaos.log", help="of the functions")
    chosen = parser.parse_args()
    chosen.log.parent.mkdir(exist_ok=True)
    chosen.log.unlink(missing_ok=True)
    print(f"chaos for {chosen.minutes:g} minutes, seed {chosen.seed}; the functions' log: {chosen.log}", flush=True)
    with kubernetes_api() as api, minio() as buckets, git_server() as git, toxiproxy() as proxies:
        api.apply_crds(ROOT / "infra" / "kubernetes" / "crds")
        with world(api, buckets, git, proxies) as shaken:
            report = asyncio.run(
                chaos(
                    shaken,
                    seconds=chosen.minutes * 60,
                    seed=chosen.seed,
                    names=chosen.names,
                    concurrency=chosen.concurrency,
                    log=chosen.log,
                    say=partial(print, flush=True),
                )
            )
    print(report)
    return 1 if report.differences else 0


if __name__ == "__main__":
    sys.exit(main())
