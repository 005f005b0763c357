"""A machine on which the documentation's commands run as they stand: bash, kubectl and the AWS CLI, no account.

kubectl talks to an API server of its own, aws to moto with a stack in it, and `make run` plays the functions. Commands
that cannot run here are only noted; `NOTED` says where each of them is run instead.
"""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, cast

from tests.infra.conftest import ROOT, SAM
from tests.infra.stack import Stack, create
from tests.infra.test_demo import start
from tests.servers.golang import go_binary
from tests.servers.kubernetes import KubernetesApi
from tests.servers.process import private_environment
from tests.servers.sqs import AwsServer

# What is only noted, by how it begins, and where it is run.
NOTED = {
    "make demo": "tests/infra/test_demo.py",
    "make test": ".ci/run",
    "make run": "tests/infra/test_run.py",
    "make artifacts": "tests/functions/test_artifacts.py",
    "make audit": ".ci/run",
    "make iam": "tests/infra/test_iam.py",
    "make smoke": "tests/infra/test_smoke.py",
    "make rie": "tests/infra/test_local_invoke.py",
    "make sam-local": "",  # needs a container engine, or Debian to install one; it runs `sam build` and `sam local`
    "sam local": "",
    "sam build": "tests/functions/test_artifacts.py",  # by the target that SAM calls
    "sam deploy": "tests/infra/test_stack.py",  # in moto; its parameters are looked at here
    "gh release": "tests/infra/test_release.py",  # needs GitHub; the release's files are there
    "gh attestation": "",  # needs GitHub
    "docker build": "tests/infra/test_forwarder_image.py",  # line by line, without a container engine
    "docker push": "",  # needs a registry
    "git clone": "",  # the tree is there
    "git checkout": "",  # in Kratix's repository
    "git ls-remote": "",  # of a repository of yours
}
# What the AWS CLI would do with the stack, which is in moto already; noted like the others.
DEPLOY = ["aws", "cloudformation", "deploy"]
# What moto does not know: the CLI reads and checks the whole command, and an empty answer comes back.
NOT_IN_MOTO = (
    "eks list-access-entries",
    "eks create-access-entry",
    "eks create-pod-identity-association",
    "lambda get-account-settings",
    "lambda invoke",
    "sqs start-message-move-task",
    "sqs list-message-move-tasks",
)

_AWS = """#!/bin/bash
case "$1 $2" in
  {not_in_moto}) exec {aws} "$@" --endpoint-url {nobody} ;;
  "cloudformation deploy") printf '%q ' aws "$@" >> {notes}; echo >> {notes}; exit ;;
  "eks update-kubeconfig") exit ;; # kubectl's cluster is chosen already
esac
exec {aws} "$@" --endpoint-url "$AWS_ENDPOINT_URL"
"""

# The cluster's controllers that the commands count on: a signer of certificates, and what ends a namespace.
_KUBECTL = """#!/bin/bash
set -e
case "$1 $2" in
  "delete -k") exec {kubectl} "$@" --wait=false ;;
  "certificate approve")
    {kubectl} "$@"
    {kubectl} get csr "$3" -o jsonpath='{{.spec.request}}' | base64 -d > signed.csr
    openssl x509 -req -in signed.csr -CA {ca} -CAkey {key} -days 1 -out signed.pem 2> /dev/null
    exec {kubectl} patch csr "$3" --subresource=status --type=merge \\
      -p "{{\\"status\\": {{\\"certificate\\": \\"$(base64 -w0 < signed.pem)\\"}}}}" ;;
esac
exec {kubectl} "$@"
"""

_NOTE = """#!/bin/bash
printf '%q ' {name} "$@" >> {notes}
echo >> {notes}
"""


@dataclass(frozen=True)
class Machine:
    """Where the commands run.

    Attributes:
        folder: the working directory, with a copy of infra/.
        environment: of every shell.
        notes: file with a line for each command that was only noted.
        stack: in moto.
        api: what kubectl talks to.
    """

    folder: Path
    environment: Mapping[str, str]
    notes: Path
    stack: Stack
    api: KubernetesApi

    def run(self, script: str, timeout: float = 120) -> str:
        """Run a script, and return what it printed; it ends at the first command that fails."""
        with tempfile.TemporaryFile("w+") as printed:
            done = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", script],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                done.wait(timeout)
            except subprocess.TimeoutExpired:
                os.killpg(done.pid, signal.SIGKILL)
                done.wait()
            printed.seek(0)
            said = printed.read()
        assert done.returncode == 0, f"{said}\nended with {done.returncode}; after {timeout:g} s it is killed"
        return said

    def noted(self, *, keep: bool = False) -> list[list[str]]:
        """Return the commands that were only noted since the last call that did not keep them."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        if not keep:
            self.notes.unlink(missing_ok=True)
        return [shlex.split(line) for line in lines]


def blocks(page: Path) -> str:
    """Return all commands of a page as one script."""
    found = re.findall(r"^( *)```console\n(.*?)^\1```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return "\n".join(commands for _, commands in found)


@contextlib.contextmanager
def machine(
    folder: Path, api: KubernetesApi, server: AwsServer, transformed: Mapping[str, Any], dist: Path, *, name: str
) -> Iterator[Machine]:
    """Prepare a machine, and let the functions work on it until the block ends.

    Args:
        folder: an empty one.
        api: an API server that nobody else uses.
        server: moto.
        transformed: the template, as CloudFormation gets it.
        dist: a release, which is what downloading leaves.
        name: of the stack.
    """
    bin_, notes = folder / "bin", folder / "noted"
    checkout = folder / "landfall"
    for part in ("infra/kubernetes", "infra/samconfig.toml"):
        target = checkout / part
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / part).is_dir() else shutil.copy)(ROOT / part, target)
    (version,) = re.findall(r"landfall-(.+)\.tgz", " ".join(path.name for path in dist.iterdir()))
    shutil.copytree(dist, checkout / f"landfall-{version}")
    (checkout / "landfall-source").symlink_to(checkout)  # what a clone leaves
    bin_.mkdir()
    (bin_ / "helm").symlink_to(go_binary("helm"))
    for command in {noted.split()[0] for noted in NOTED}:
        _write(bin_ / command, _NOTE.format(name=command, notes=notes))
    ca, key = folder / "signer.pem", folder / "signer-key.pem"
    subject = ["-subj", "/CN=signer", "-days", "1", "-keyout", str(key), "-out", str(ca)]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject], check=True, capture_output=True
    )
    _write(bin_ / "kubectl", _KUBECTL.format(kubectl=shutil.which("kubectl"), ca=ca, key=key))
    kubeconfig = folder / "kubeconfig"
    shutil.copy(api.kubeconfig, kubeconfig)
    stack = create(server, transformed, name, EncryptionKey="create")
    with _nobody() as nobody:
        quoted = "|".join(f'"{command}"' for command in NOT_IN_MOTO)
        _write(bin_ / "aws", _AWS.format(not_in_moto=quoted, aws=SAM / "aws", nobody=nobody, notes=notes))
        environment = private_environment(
            **server.environment(), KUBECONFIG=str(kubeconfig), HOME=str(folder), AWS_PAGER=""
        )
        environment["PATH"] = f"{bin_}{os.pathsep}{environment['PATH']}"
        with _functions(kubeconfig, folder):
            yield Machine(checkout, environment, notes, stack, api)


@contextlib.contextmanager
def _functions(kubeconfig: Path, home: Path) -> Iterator[None]:
    """Let `make run` work on the cluster until the block ends."""
    process = start("run", "--kubeconfig", str(kubeconfig), "--resync-seconds", "0", HOME=str(home))
    printed = cast("IO[str]", process.stdout)
    rest = threading.Thread(target=printed.read)
    try:
        assert any("Ctrl-C ends it" in line for line in printed), process.poll()
        rest.start()
        yield
    finally:
        process.terminate()
        process.wait(30)
        if rest.ident is not None:
            rest.join()
        printed.close()


def _write(path: Path, script: str) -> None:
    path.write_text(script)
    path.chmod(0o755)


class _Nothing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_GET  # noqa: N815 -- as http.server calls it

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def _nobody() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Nothing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
