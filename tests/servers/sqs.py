"""moto's server: SQS above all, and SNS, EventBridge and S3 on the same address, without any checks of rights."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import secrets
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.servers import web
from tests.servers.process import ServerFailed, ServerUnavailable, free_port, private_environment, running
from tests.servers.sigv4 import Credentials, sign

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True)
class Queue:
    """A queue and its dead-letter queue."""

    name: str
    url: str
    arn: str
    dead_letter_url: str
    dead_letter_arn: str


@dataclass(frozen=True)
class AwsServer:
    """A running moto server; it takes any credentials."""

    url: str
    region: str = "us-east-1"
    credentials: Credentials = Credentials("testing", "testing")  # noqa: RUF009 - it is frozen

    def environment(self) -> dict[str, str]:
        """Return what AWS clients have to find in their environment to come here."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_REGION": self.region,
            "AWS_ACCESS_KEY_ID": self.credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": self.credentials.secret_key,
        }

    def create_queue(
        self, name: str | None = None, *, receives: int = 3, visibility_timeout: int = 30, fifo: bool = False
    ) -> Queue:
        """Create a queue that moves a message to its dead-letter queue after so many receives."""
        name = name or f"queue-{secrets.token_hex(6)}"
        suffix = ".fifo" if fifo else ""
        common = {"FifoQueue": "true"} if fifo else {}
        dead_url, dead_arn = self._create(f"{name}-dead-letters{suffix}", common)
        redrive = json.dumps({"deadLetterTargetArn": dead_arn, "maxReceiveCount": receives})
        attributes = {**common, "RedrivePolicy": redrive, "VisibilityTimeout": str(visibility_timeout)}
        url, arn = self._create(f"{name}{suffix}", attributes)
        return Queue(f"{name}{suffix}", url, arn, dead_url, dead_arn)

    def send(self, url: str, body: str, **more: Any) -> str:
        """Send a message and return its id."""
        return str(self.sqs("SendMessage", QueueUrl=url, MessageBody=body, **more)["MessageId"])

    def receive(self, url: str, *, count: int = 10, wait: int = 0, **more: Any) -> list[dict[str, Any]]:
        """Receive messages as SQS returns them."""
        answer = self.sqs("ReceiveMessage", QueueUrl=url, MaxNumberOfMessages=count, WaitTimeSeconds=wait, **more)
        return list(answer.get("Messages", []))

    def delete(self, url: str, receipt: str) -> None:
        """Delete a received message."""
        self.sqs("DeleteMessage", QueueUrl=url, ReceiptHandle=receipt)

    def sqs(self, action: str, **parameters: Any) -> dict[str, Any]:
        """Make any call of SQS."""
        headers = {"content-type": "application/x-amz-json-1.0", "x-amz-target": f"AmazonSQS.{action}"}
        body = json.dumps(parameters).encode()
        signed = sign("POST", f"{self.url}/", self.credentials, headers=headers, body=body, service="sqs")
        answer = web.request("POST", f"{self.url}/", headers=signed, body=body)
        if answer.status != 200:
            raise ServerFailed(f"SQS {action} answered {answer}")
        return dict(answer.json()) if answer.body else {}

    def reset(self) -> None:
        """Forget everything that was created."""
        web.request("POST", f"{self.url}/moto-api/reset")

    def _create(self, name: str, attributes: Mapping[str, str]) -> tuple[str, str]:
        url = str(self.sqs("CreateQueue", QueueName=name, Attributes=dict(attributes))["QueueUrl"])
        got = self.sqs("GetQueueAttributes", QueueUrl=url, AttributeNames=["QueueArn"])
        return url, str(got["Attributes"]["QueueArn"])


@contextlib.contextmanager
def aws_server() -> Iterator[AwsServer]:
    """Run a moto server."""
    if importlib.util.find_spec("moto") is None:
        raise ServerUnavailable("moto is not in this Python environment; run: pip install 'moto[server]'")
    with tempfile.TemporaryDirectory(prefix="landfall-moto-") as folder:
        port = free_port()
        server = AwsServer(f"http://127.0.0.1:{port}")
        # Its warnings are not ours: the test run turns warnings into errors through the environment at times.
        env = private_environment(PYTHONWARNINGS="ignore", PYTHONDEVMODE="")
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]

        def ready() -> bool:
            return web.request("GET", f"{server.url}/moto-api/data.json", timeout=5).status == 200

        with running("moto", command, directory=Path(folder), ready=ready, env=env):
            yield server
