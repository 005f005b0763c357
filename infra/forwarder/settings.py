"""The forwarder's settings: a few environment variables, read once."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

_ARN: Final = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):(?P<service>events|sns|sqs):(?P<region>[a-z0-9-]+):(?P<account>\d{12}):(?P<name>\S+)"
)
_SQS_URL: Final = re.compile(r"https?://[^/\s]+/\d{12}/[\w-]{1,80}(\.fifo)?")
_CLUSTER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LISTEN: Final = "0.0.0.0:8080"
_LISTEN_METRICS: Final = "0.0.0.0:9090"
_HEARTBEAT_SECONDS: Final = 60  # the deployment's alarm counts five in five minutes


class WrongSetting(Exception):
    """An environment variable is wrong; the message says which one, and what to write."""


@dataclass(frozen=True)
class Settings:
    """The settings of the forwarder.

    Attributes:
        service: events, sns or sqs.
        target: ARN of a bus or a topic; ARN or URL of a queue.
        region: of the target.
        cluster: this cluster's name in the deployment; empty for its default cluster.
        secrets: whether Secrets are watched; if not, a changed Secret waits for the next resync.
        listen: host and port of /healthz.
        listen_metrics: host and port of /metrics.
        heartbeat_seconds: between two heartbeats; 0 for none.
    """

    service: str
    target: str
    region: str
    cluster: str = ""
    secrets: bool = True
    listen: str = _LISTEN
    listen_metrics: str = _LISTEN_METRICS
    heartbeat_seconds: int = _HEARTBEAT_SECONDS

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read AWS_REGION and the variables LANDFALL_… that docs/forwarders.md names.

        Raises:
            WrongSetting: one of them is missing or not understood.
        """
        target = environment.get("LANDFALL_TARGET", "").strip()
        region = environment.get("AWS_REGION", "").strip() or environment.get("AWS_DEFAULT_REGION", "").strip()
        arn = _ARN.fullmatch(target)
        if arn is None and not _SQS_URL.fullmatch(target):
            raise WrongSetting(
                f"LANDFALL_TARGET is {target!r}: set it to the ARN of an EventBridge bus, an SNS topic or an SQS queue,"
                " or to the URL of a queue; the stack's outputs name them"
            )
        if arn and arn["service"] == "events" and not arn["name"].startswith("event-bus/"):
            raise WrongSetting(f"LANDFALL_TARGET is {target!r}: name a bus, as in arn:aws:events:…:event-bus/NAME")
        if target.endswith(".fifo"):
            raise WrongSetting(
                f"LANDFALL_TARGET is {target!r}: a FIFO queue or topic would hold everything back behind one failure;"
                " name a standard one, order does not matter here"
            )
        if arn is None and not region:
            raise WrongSetting(
                "AWS_REGION is not set, and a queue's URL in LANDFALL_TARGET does not contain it: set it"
            )
        cluster = environment.get("LANDFALL_CLUSTER", "").strip()
        if cluster and not _CLUSTER.fullmatch(cluster):
            raise WrongSetting(f"LANDFALL_CLUSTER is {cluster!r}: write a cluster's name as the deployment knows it")
        watch = environment.get("LANDFALL_WATCH_SECRETS", "").strip().lower() or "true"
        if watch not in {"true", "false"}:
            raise WrongSetting(f"LANDFALL_WATCH_SECRETS is {watch!r}: write true or false")
        beat = environment.get("LANDFALL_HEARTBEAT_SECONDS", "").strip() or str(_HEARTBEAT_SECONDS)
        if not beat.isascii() or not beat.isdigit() or int(beat) > _HEARTBEAT_SECONDS:
            raise WrongSetting(
                f"LANDFALL_HEARTBEAT_SECONDS is {beat!r}: write a number up to {_HEARTBEAT_SECONDS}, or 0 for no"
                " heartbeats (and set the stack's parameter ForwarderCount to match)"
            )
        metrics = environment.get("LANDFALL_METRICS_ADDRESS", "").strip() or _LISTEN_METRICS
        if not re.fullmatch(r"\S+:\d{1,5}", metrics):
            raise WrongSetting(f"LANDFALL_METRICS_ADDRESS is {metrics!r}: write host:port, as in {_LISTEN_METRICS}")
        return cls(
            service=arn["service"] if arn else "sqs",
            target=target,
            region=arn["region"] if arn else region,
            cluster=cluster,
            secrets=watch == "true",
            listen=environment.get("LANDFALL_HEALTH_ADDRESS", "").strip() or _LISTEN,
            listen_metrics=metrics,
            heartbeat_seconds=int(beat),
        )
