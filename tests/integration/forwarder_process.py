"""The forwarder as its pod runs it: a process with a service account's token and rights, sending to moto."""

import contextlib
import json
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import botocore.session
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.servers import web
from tests.servers.kubernetes import KubernetesApi
from tests.servers.process import ServerProcess, free_port, private_environment, running, wait_until
from tests.servers.sqs import AwsServer, Queue

ROOT = Path(__file__).parents[2]
RBAC = ROOT / "infra" / "kubernetes" / "forwarder" / "rbac.yaml"


@dataclass(frozen=True)
class Forwarder:
    """A running forwarder."""

    process: ServerProcess
    health: str
    metrics_url: str

    @property
    def state(self) -> dict[str, Any]:
        """What /healthz shows; kopf looks anew every ten seconds."""
        state: dict[str, Any] = web.request("GET", self.health, timeout=5).json()["outbox"]
        return state

    @property
    def log(self) -> str:
        """All it has printed."""
        return self.process.log.read_text()

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Return what a scrape of /metrics gives: values by the sample's name and its labels' values."""
        answer = web.request("GET", self.metrics_url, timeout=5)
        assert answer.status == 200, answer
        families = text_string_to_metric_families(answer.body.decode())
        samples = [sample for family in families for sample in family.samples]
        return {(sample.name, *sample.labels.values()): sample.value for sample in samples}

    def end(self) -> dict[str, Any]:
        """Ask it to end as a kubelet does, wait, and return its last words."""
        os.kill(self.process.pid, signal.SIGTERM)
        wait_until("the forwarder ended", lambda: '"the end: ' in self.log, timeout=20)
        words: dict[str, Any] = json.loads(self.log.split('"the end: ')[1].split('"')[0].replace("'", '"'))
        return words


def service_account(api: KubernetesApi) -> str:
    """Give a service account what infra/kubernetes/forwarder/rbac.yaml gives the forwarder's; return its token."""
    role = next(obj for obj in yaml.safe_load_all(RBAC.read_text()) if obj["kind"] == "ClusterRole")
    return api.create_service_account("default", f"forwarder-{secrets.token_hex(4)}", role["rules"])


@contextlib.contextmanager
def forwarder(
    api: KubernetesApi,
    aws: AwsServer,
    target: str,
    *,
    kubeconfig: Path | None = None,
    aws_url: str = "",
    **environment: str,
) -> Iterator[Forwarder]:
    """Run a forwarder until the block ends.

    Args:
        api: what it watches.
        aws: where the target is.
        target: ARN or URL.
        kubeconfig: its way to the API server; a service account of its own by default.
        aws_url: of a proxy before AWS.
        environment: more variables.
    """
    health, metrics = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    variables = {
        **private_environment(**aws.environment()),
        "PYTHONPATH": str(ROOT),
        "KUBECONFIG": str(kubeconfig or api.write_kubeconfig(service_account(api))),
        "LANDFALL_TARGET": target,
        "LANDFALL_HEALTH_ADDRESS": health,
        "LANDFALL_METRICS_ADDRESS": metrics,
        "LANDFALL_HEARTBEAT_SECONDS": "0",  # tests count what is sent
        **({"AWS_ENDPOINT_URL": aws_url} if aws_url else {}),
        **environment,
    }
    url = f"http://{health}/healthz"
    with tempfile.TemporaryDirectory(prefix="landfall-forwarder-") as folder:
        command = [sys.executable, "-m", "infra.forwarder"]
        with running(
            "forwarder",
            command,
            directory=Path(folder),
            ready=lambda: web.request("GET", url, timeout=5).status == 200,
            env={name: value for name, value in variables.items() if value},
        ) as process:
            yield Forwarder(process, url, f"http://{metrics}/metrics")


def client(aws: AwsServer, service: str) -> Any:
    """Return botocore's client of a service in moto."""
    return botocore.session.get_session().create_client(
        service,
        region_name=aws.region,
        endpoint_url=aws.url,
        aws_access_key_id=aws.credentials.access_key,
        aws_secret_access_key=aws.credentials.secret_key,
    )


def bus_before(aws: AwsServer, queue: Queue) -> str:
    """Make an EventBridge bus with one rule, which sends all to a queue; return the bus's ARN."""
    events, name = client(aws, "events"), f"bus-{secrets.token_hex(4)}"
    arn = str(events.create_event_bus(Name=name)["EventBusArn"])
    events.put_rule(Name=name, EventBusName=name, EventPattern=json.dumps({"source": ["landfall.forwarder"]}))
    events.put_targets(Rule=name, EventBusName=name, Targets=[{"Id": "changes", "Arn": queue.arn}])
    return arn


def topic_before(aws: AwsServer, queue: Queue, *, raw: bool) -> str:
    """Make an SNS topic to which a queue has subscribed; return its ARN."""
    sns = client(aws, "sns")
    arn = str(sns.create_topic(Name=f"topic-{secrets.token_hex(4)}")["TopicArn"])
    attributes = {"RawMessageDelivery": "true"} if raw else {}
    sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=queue.arn, Attributes=attributes)
    return arn


class Inbox:
    """Reads a queue, and keeps what it has read.

    Attributes:
        messages: as SQS gave them, in the order of their coming.
        queue: that is read.
    """

    def __init__(self, aws: AwsServer, queue: Queue) -> None:
        self.messages: list[dict[str, Any]] = []
        self.queue = queue
        self._aws = aws

    def read(self) -> list[dict[str, Any]]:
        """Take what lies in the queue, and return what was told of objects so far."""
        while found := self._aws.receive(self.queue.url):
            for message in found:
                self.messages.append(message)
                self._aws.delete(self.queue.url, message["ReceiptHandle"])
        return [told_in(message["Body"]) for message in self.messages]

    def heartbeats(self) -> int:
        """Return how many heartbeats have come so far."""
        return sum(event["type"] == "HEARTBEAT" for event in self.read())

    def names(self, kind: str = "Destination") -> list[tuple[str, str]]:
        """Return type and name of what was told of one kind so far."""
        told = [event for event in self.read() if "object" in event and event["object"]["kind"] == kind]
        return [(event["type"], event["object"]["metadata"]["name"]) for event in told]

    def wait_for(self, *expected: tuple[str, str], kind: str = "Destination", seconds: float = 30) -> None:
        """Wait until these were told."""
        wait_until(f"{expected} told", partial(self._has, set(expected), kind), timeout=seconds)

    def _has(self, expected: set[tuple[str, str]], kind: str) -> bool:
        return expected <= set(self.names(kind))

    def forget(self) -> None:
        """Begin anew."""
        self.read()
        self.messages.clear()

    def keep(self, kind: str) -> None:
        """Forget what was told of other kinds."""
        told = self.read()
        self.messages = [m for m, event in zip(self.messages, told, strict=True) if event["object"]["kind"] == kind]

    def batch(self) -> dict[str, Any]:
        """Return what was read as an event of Lambda's."""
        return {
            "Records": [
                {
                    "messageId": message["MessageId"],
                    "receiptHandle": message["ReceiptHandle"],
                    "body": message["Body"],
                    "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1795348800000"},
                    "messageAttributes": {},
                    "md5OfBody": message["MD5OfBody"],
                    "eventSource": "aws:sqs",
                    "eventSourceARN": self.queue.arn,
                    "awsRegion": self._aws.region,
                }
                for message in self.messages
            ]
        }


def told_in(body: str) -> dict[str, Any]:
    """Return what the forwarder wrote, out of whatever AWS has wrapped around it."""
    envelope: Mapping[str, Any] = json.loads(body)
    if "Message" in envelope:
        return told_in(envelope["Message"])
    return dict(envelope.get("detail", envelope))
