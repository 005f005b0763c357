"""The environment and the queues' messages are read strictly, and refused with the name of what is wrong."""

from datetime import UTC, datetime
from ipaddress import ip_network

import pytest

from shared.deadline import Deadline
from shared.errors import LandfallError, OutOfTime, UnknownEvent
from shared.messages import Reference, Verdict
from shared.settings import Settings


def test_variables_become_settings() -> None:
    settings = Settings.from_environment(
        {
            "LANDFALL_ALLOWED_NETWORKS": "127.0.0.0/8, ::1/128",
            "LANDFALL_RETRY_DELAYS_SECONDS": "1 2 3",
            "LANDFALL_STATUS_QUEUE_URL": "http://q/status",
            "LANDFALL_KUBECONFIG": "",
            "KUBECONFIG": "/a/config:/b/config",
            "PATH": "/bin",
        }
    )
    assert settings.allowed_networks == (ip_network("127.0.0.0/8"), ip_network("::1/128"))
    assert settings.retry_delays_seconds == (1, 2, 3)
    assert settings.status_queue_url == "http://q/status"
    assert str(settings.kubeconfig) == "/a/config"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LANDFALL_BUCKET_CONCURENCY", "4"),
        ("LANDFALL_BUCKET_CONCURRENCY", "many"),
        ("LANDFALL_ALLOWED_NETWORKS", "localhost"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(name: str, value: str) -> None:
    with pytest.raises(LandfallError, match=name):
        Settings.from_environment({name: value})


def test_a_message_survives_the_queue() -> None:
    reference = Reference(cluster="c", kind="Destination", name="d", uid="u", generation=3, attempt=2)
    verdict = Verdict(reference=reference, status="True", reason="R", decided_at=datetime.now(UTC))
    assert Reference.decode(reference.encode()) == reference
    assert Verdict.decode(verdict.encode()) == verdict
    assert "decided_at" in verdict.encode()


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"kind": "Destination", "name": ""}', '{"kind": 1, "name": "x"}'])
def test_what_is_no_message_is_refused(body: str) -> None:
    with pytest.raises(UnknownEvent, match="no Reference"):
        Reference.decode(body)


def test_a_passed_deadline_lets_no_call_begin() -> None:
    assert Deadline.after(60).bound(5) == 5
    assert Deadline.after(1).bound(5) <= 1
    with pytest.raises(OutOfTime):
        Deadline.after(-1).bound(5)
