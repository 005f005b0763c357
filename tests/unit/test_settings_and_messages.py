"""The environment and the queues' messages are read strictly, and refused with the name of what is wrong."""

from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path

import pytest

from shared.deadline import Deadline
from shared.errors import LandfallError, OutOfTime, UnknownEvent
from shared.messages import Reference, Verdict
from shared.settings import ClusterSettings, Settings


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
        ("LANDFALL_CLUSTERS", "{"),
        ("LANDFALL_CLUSTERS", "prod"),
        ("LANDFALL_CLUSTERS", "{}"),
        ("LANDFALL_CLUSTERS", "[prod]"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(name: str, value: str) -> None:
    with pytest.raises(LandfallError, match=name):
        Settings.from_environment({name: value})


@pytest.mark.parametrize(
    ("text", "cluster"),
    [
        ('{"a": {"eks": "prod"}}', ClusterSettings(eks="prod")),
        ("{a: {eks: prod, region: eu-central-1}}", ClusterSettings(eks="prod", region="eu-central-1")),
        (
            "{a: {eks: prod, role: 'arn:aws:iam::111122223333:role/landfall-{function}'}}",
            ClusterSettings(eks="prod", role="arn:aws:iam::111122223333:role/landfall-write-canary"),
        ),
        (
            "{a: {kubeconfigSecret: landfall/{function}/a}}",
            ClusterSettings(kubeconfig_secret="landfall/write-canary/a"),
        ),
        ("{a: {kubeconfig: /k, context: c}}", ClusterSettings(kubeconfig=Path("/k"), context="c")),
    ],
    ids=["JSON", "YAML", "a role", "a secret of the function", "a file"],
)
def test_clusters_are_read_from_one_variable(text: str, cluster: ClusterSettings) -> None:
    environment = {"LANDFALL_CLUSTERS": text, "_HANDLER": "write_canary.lambda_handler"}
    settings = Settings.from_environment(environment)
    assert settings.clusters == {"a": cluster}
    assert settings.served == ("a",)
    assert settings.default_cluster == "a", "the only one"


@pytest.mark.parametrize(
    ("clusters", "sentence"),
    [
        ("{a: {}}", r"LANDFALL_CLUSTERS \(a\): give exactly one of eks, kubeconfigSecret and kubeconfig"),
        ("{a: {eks: x, kubeconfig: /k}}", r"LANDFALL_CLUSTERS \(a\): give exactly one"),
        ("{a: {kubeconfig: /k, region: eu-central-1}}", r"\(a\): region and role belong to eks"),
        ("{a: {eks: x, context: y}}", r"\(a\): context belongs to a kubeconfig"),
        ("{a: {eks: x, region: here}}", r"\(a\.region\): String should match"),
        ("{a: {eks: x, role: admin}}", r"\(a\.role\): String should match"),
        ("{a: {eks: x/y}}", r"\(a\.eks\): String should match"),
        ("{a: {eksCluster: x}}", r"\(a\.eksCluster\): Extra inputs"),
        ("{'a b': {eks: x}}", r"\(a b\): String should match"),
        ("{a: {eks: x}, b: {eks: y}}", r"cannot be used: LANDFALL_CLUSTER names none of LANDFALL_CLUSTERS"),
    ],
)
def test_a_cluster_that_cannot_be_meant_is_refused_with_a_sentence(clusters: str, sentence: str) -> None:
    with pytest.raises(LandfallError, match=sentence):
        Settings.from_environment({"LANDFALL_CLUSTERS": clusters, "LANDFALL_CLUSTER": "c"})


def test_with_several_clusters_none_is_the_default_unless_it_is_marked() -> None:
    clusters = {"LANDFALL_CLUSTERS": "{a: {eks: x}, b: {eks: y}}"}
    assert Settings.from_environment(clusters).default_cluster == ""
    assert Settings.from_environment({**clusters, "LANDFALL_CLUSTER": "b"}).default_cluster == "b"
    assert Settings().served == ("default",), "a kubeconfig's cluster has a name, too"


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
