"""The command line: `python -m infra.smoke STACK --store NAME`.

It ends with 0, with 1 where something failed, and with 2 where it could not run, or not to its end.
"""

import argparse
import asyncio
import contextlib
import secrets
import signal
import sys
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from infra.checks.aws import Aws
from infra.checks.checks import run as run_checks
from infra.checks.kubernetes import Kubernetes
from infra.checks.lines import CannotRun, Line, NotChecked, Result
from infra.checks.look import Look
from infra.checks.stack import read_stack
from infra.local.progress import Progress
from infra.smoke.delivery import PART, Delivery
from infra.smoke.report import Mask, markdown, summary
from infra.smoke.store import Wanted
from shared.kube.access import KubeconfigFile
from shared.settings import Settings

_PROJECT: Final = Path(__file__).parents[2] / "pyproject.toml"
_FAILED: Final = 1
_COULD_NOT_RUN: Final = 2


class Smoke:
    """One run: what it looks at, what it says, and what it writes."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._began = datetime.now(UTC)
        self._clock = time.monotonic()
        self._mask = Mask()
        self._progress = Progress()
        base = f"landfall-smoke-{arguments.stack}-{self._began:%Y%m%dT%H%M%SZ}"
        self.report: Path = arguments.output / f"{base}.md"
        self._log: Path = arguments.output / f"{base}.log"
        self._parts: dict[str, list[Line]] = {}
        self._facts: dict[str, str] = {}
        self._interrupted = False

    async def run(self) -> int:
        """Check, deliver, and write the report; return the exit status."""
        try:
            self._log.touch()
        except OSError as error:
            raise CannotRun(
                f"{self._log.parent} cannot be written to ({type(error).__name__}): name OUTPUT=…"
            ) from None
        async with Aws() as aws:
            self._mask.hide(*await aws.secrets())
            self.say("reading", f"stack {self._arguments.stack} in {aws.region}")
            stack = await read_stack(aws, self._arguments.stack)
            self._mask.account(stack.account)
            cluster = self._arguments.cluster or stack.settings().default_cluster
            look = Look(aws, stack, cluster, self._arguments.forwarder)
            await self._connect(look)
            self._facts |= {
                "stack": f"{stack.name} in {stack.region}, account {stack.account}, {stack.status}",
                "cluster": f"{cluster or 'not named'}, {look.connection.server if look.connection else 'not reached'}",
                "State Store": str(self._arguments.wanted),
            }
            try:
                await self._look_and_deliver(look)
            except asyncio.CancelledError:
                self._interrupted = True
                self._facts["interrupted"] = "yes: what is not listed was not checked"
            finally:
                if look.connection is not None:
                    await look.connection.close()
                self._write()
        lines = [line for part in self._parts.values() for line in part]
        self.say("report", str(self.report))
        self.say("result", summary(lines))
        if self._interrupted:
            return _COULD_NOT_RUN
        return _FAILED if any(line.result is Result.FAILED for line in lines) else 0

    def say(self, what: str, text: str) -> None:
        """Say what has been done or found: on the terminal as it is, in the log without account ids and secrets."""
        self._progress.step(what, text)
        with self._log.open("a") as log:
            log.write(f"[{self._progress.seconds:6.1f} s] {what:<12} {self._mask(' '.join(text.split()))}\n")

    def cannot_run(self, error: CannotRun) -> None:
        """Say why nothing was checked."""
        self._progress.failure(f"The smoke test cannot run: {error}")

    async def _connect(self, look: Look) -> None:
        arguments = self._arguments
        settings = Settings(kubeconfig=arguments.kubeconfig, kubeconfig_context=arguments.context)
        try:
            look.connection = await Kubernetes.connect(KubeconfigFile(settings, None))
        except NotChecked as error:
            look.no_connection = str(error)

    async def _look_and_deliver(self, look: Look) -> None:
        async for check, lines in run_checks(look):
            self._parts.setdefault(check.part, []).extend(lines)
            for line in lines:
                self.say(line.result, str(line))
        name = f"landfall-smoke-{secrets.token_hex(4)}"
        self._facts["run"] = name
        arguments = self._arguments
        delivery = Delivery(
            look, arguments.wanted, name, self.say, namespace=arguments.namespace, seconds=arguments.seconds
        )
        try:
            await delivery.run()
        finally:
            self._mask.hide(*delivery.secrets)
            self._parts[PART] = delivery.lines

    def _write(self) -> None:
        with _PROJECT.open("rb") as project:
            version = tomllib.load(project)["project"]["version"]
        took = f"{self._began:%Y-%m-%d %H:%M:%S} UTC, {time.monotonic() - self._clock:.0f} s"
        facts = {**self._facts, "when": took, "Landfall": version}
        title = f"Landfall: smoke test of stack {self._arguments.stack}"
        self.report.write_text(markdown(title, facts, self._parts, self._mask))


def parse(given: list[str] | None = None) -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.smoke",
        description="Check a deployed stack from the outside, deliver one document, delete it, and write a report.",
    )
    parser.add_argument("stack", help="name of the CloudFormation stack")
    parser.add_argument("--store", default="", help="an existing BucketStateStore to deliver to")
    parser.add_argument("--bucket", default="", help="a bucket, for a BucketStateStore of its own")
    parser.add_argument("--endpoint", default="", help="of the bucket (Amazon S3 in the stack's region)")
    parser.add_argument("--secret", help="namespace/name of the Secret with its access key (authMethod IAM without)")
    parser.add_argument("--path", default="", help="directory in the bucket")
    parser.add_argument("--cluster", default="", help="the name by which the stack knows the kubeconfig's cluster")
    parser.add_argument("--kubeconfig", type=Path, help="instead of KUBECONFIG or ~/.kube/config")
    parser.add_argument("--context", help="of the kubeconfig, instead of its current one")
    parser.add_argument("--namespace", default="default", help="that the Work is created in")
    parser.add_argument(
        "--forwarder", default="landfall/landfall-forwarder", help="namespace/name of its Deployment, or none"
    )
    parser.add_argument("--seconds", type=float, default=180, help="that each step of the delivery may take")
    parser.add_argument("--output", type=Path, default=Path(), help="folder of the report and the log")
    arguments = parser.parse_args(given)
    if arguments.store and arguments.bucket:
        parser.error("give --store or --bucket, not both")
    secret = _pair(parser, "--secret", arguments.secret) if arguments.secret else None
    arguments.wanted = Wanted(arguments.store, arguments.bucket, arguments.endpoint, secret, arguments.path)
    other = arguments.forwarder == "none"
    arguments.forwarder = None if other else _pair(parser, "--forwarder", arguments.forwarder)
    return arguments


def _pair(parser: argparse.ArgumentParser, option: str, value: str) -> tuple[str, str]:
    namespace, slash, name = value.partition("/")
    if not (namespace and slash and name):
        parser.error(f"{option} {value!r} is not namespace/name")
    return namespace, name


async def _until_interrupted(smoke: Smoke) -> int:
    """Run; the first SIGINT or SIGTERM begins the clean-up, and later ones do not disturb it."""
    task = asyncio.ensure_future(smoke.run())
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        smoke.say("interrupted", "deleting what was created; this takes a few minutes at most")
        if not task.cancelling():
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    with contextlib.suppress(asyncio.CancelledError):
        return await task
    return _COULD_NOT_RUN


def main() -> int:
    """Read the arguments, run, and return the exit status."""
    smoke = Smoke(parse())
    try:
        return asyncio.run(_until_interrupted(smoke))
    except CannotRun as error:
        smoke.cannot_run(error)
        return _COULD_NOT_RUN


if __name__ == "__main__":
    sys.exit(main())
