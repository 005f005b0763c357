"""The ways to a cluster that a deployed function has: EKS by name, and a kubeconfig in Secrets Manager."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.deadline import Deadline
from shared.errors import InvalidObject, KubernetesError, KubernetesUnavailable, LandfallError
from shared.kube import Cluster, Clusters
from shared.settings import Settings
from tests.servers.certificates import Authority
from tests.servers.eks import ACCOUNT, Eks, eks
from tests.servers.process import free_port

ROLE = "landfall-write-canary"


@pytest.fixture(scope="module")
def server() -> Iterator[Eks]:
    with eks("prod") as running:
        yield running


@pytest.fixture
def prod(server: Eks, monkeypatch: pytest.MonkeyPatch) -> Eks:
    """The cluster, with a function's role in the environment, and its access entry."""
    server.access = {ROLE: ("system:masters",)}
    server.endpoint = server.api.url
    server.identities.clear()
    server.refusals.clear()
    server.described = 0
    become(server, ROLE, monkeypatch)
    return server


def become(server: Eks, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment(role).items():
        monkeypatch.setenv(name, value)


def served(**clusters: Any) -> Settings:
    return Settings.from_environment({"LANDFALL_CLUSTERS": json.dumps(clusters)})


async def namespaces(cluster: Cluster) -> int:
    return len(await cluster.list_all("Secret", Deadline.after(20)))


async def test_an_eks_cluster_is_reached_by_its_name_alone(prod: Eks) -> None:
    clusters = Clusters(served(main={"eks": "prod"}))
    try:
        await namespaces(await clusters.get("main"))
        await namespaces(await clusters.get(""))
    finally:
        await clusters.close()
    assert {role for role, _ in prod.identities} == {ROLE}
    assert prod.refusals == []
    assert prod.described == 1, "what EKS says is kept"


async def test_a_token_is_renewed_before_it_expires(prod: Eks) -> None:
    settings = served(main={"eks": "prod"}).model_copy(update={"eks_token_seconds": 5})
    clusters = Clusters(settings)
    try:
        cluster = await clusters.get("main")
        end = asyncio.get_running_loop().time() + 13
        while asyncio.get_running_loop().time() < end:
            await asyncio.gather(*(namespaces(cluster) for _ in range(3)))
            await asyncio.sleep(0.1)
    finally:
        await clusters.close()
    assert len({made for _, made in prod.identities}) >= 3, "several tokens were made"
    assert prod.refusals == [], "none was used after its time"
    assert prod.described == 1


async def test_the_usual_token_is_valid_for_as_long_as_eks_takes_it(prod: Eks) -> None:
    clusters = Clusters(served(main={"eks": "prod"}))
    try:
        cluster = await clusters.get("main")
        token = cluster._connection._client.configuration.api_key["BearerToken"].removeprefix("Bearer k8s-aws-v1.")
        assert "X-Amz-Expires=900" in base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
    finally:
        await clusters.close()


async def test_a_token_is_good_for_its_own_cluster_alone(prod: Eks) -> None:
    clusters = Clusters(served(main={"eks": "prod"}))
    try:
        cluster = await clusters.get("main")
        prod.name, name = "other", prod.name
        try:
            with pytest.raises(KubernetesUnavailable, match="401"):
                await namespaces(cluster)
        finally:
            prod.name = name
    finally:
        await clusters.close()
    assert set(prod.refusals) == {"its signature is wrong, or it is for another cluster"}


async def test_a_role_without_an_access_entry_is_told_what_to_make(prod: Eks) -> None:
    prod.access = {}
    clusters = Clusters(served(main={"eks": "prod"}))
    try:
        cluster = await clusters.get("main")
        with pytest.raises(KubernetesUnavailable, match=r"access entry of EKS cluster prod.*landfall:<function>"):
            await namespaces(cluster)
        described = prod.described
        with pytest.raises(KubernetesUnavailable, match="401"):
            await namespaces(cluster)
    finally:
        await clusters.close()
    assert described == prod.described == 1, "EKS is not asked again by every call that is refused"


async def test_a_cluster_that_has_moved_is_found_again(prod: Eks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.kube.aws._SAME_SECONDS", 0)
    prod.endpoint = f"https://127.0.0.1:{free_port()}"
    clusters = Clusters(served(main={"eks": "prod"}))
    try:
        cluster = await clusters.get("main")
        prod.endpoint = prod.api.url
        await namespaces(cluster)
    finally:
        await clusters.close()
    assert prod.described == 2


async def test_a_server_of_another_ca_is_refused(prod: Eks, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    own, prod.api.__dict__["ca"] = prod.api.ca, other.ca
    clusters = Clusters(served(main={"eks": "prod"}))
    try:
        with pytest.raises(KubernetesUnavailable, match="certificate"):
            await namespaces(await clusters.get("main"))
    finally:
        prod.api.__dict__["ca"] = own
        await clusters.close()
    assert prod.identities == [], "nobody was shown a token"


async def test_certificates_are_verified_but_for_the_strictness_that_refuses_cas_of_eks(prod: Eks) -> None:
    clusters = Clusters(served(main={"eks": "prod"}))
    try:
        cluster = await clusters.get("main")
        connector: Any = cluster._connection._client.rest_client.pool_manager.connector
        trust = connector._ssl
        assert (trust.verify_mode, trust.check_hostname) == (ssl.CERT_REQUIRED, True)
        assert not trust.verify_flags & ssl.VERIFY_X509_STRICT
        assert len(trust.get_ca_certs()) == 1, "the cluster's own CA alone"
    finally:
        await clusters.close()


async def test_a_role_of_another_account_is_taken_on(prod: Eks) -> None:
    prod.access["landfall-elsewhere"] = ("system:masters",)
    clusters = Clusters(served(main={"eks": "prod", "role": f"arn:aws:iam::{ACCOUNT}:role/landfall-elsewhere"}))
    try:
        await namespaces(await clusters.get("main"))
    finally:
        await clusters.close()
    assert {role for role, _ in prod.identities} == {"landfall-elsewhere"}


async def test_a_cluster_that_eks_does_not_know_is_named(prod: Eks) -> None:
    clusters = Clusters(served(main={"eks": "gone"}))
    with pytest.raises(KubernetesUnavailable, match=r"EKS cluster gone.*ResourceNotFound.*eks:DescribeCluster"):
        await clusters.get("main")
    await clusters.close()


async def test_without_credentials_the_sentence_says_so(prod: Eks, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    clusters = Clusters(served(main={"eks": "prod"}))
    with pytest.raises(KubernetesUnavailable, match="credentials"):
        await clusters.get("main")
    await clusters.close()


def kubeconfig(prod: Eks, user: dict[str, Any], **cluster: Any) -> dict[str, Any]:
    ca = base64.b64encode(prod.api.ca.read_bytes()).decode()
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": prod.api.url, "certificate-authority-data": ca, **cluster}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }


def client_certificate(prod: Eks) -> dict[str, str]:
    certificate = prod.api.client_certificate("landfall", ["system:masters"])
    return {
        "client-certificate-data": base64.b64encode(certificate.certificate.read_bytes()).decode(),
        "client-key-data": base64.b64encode(certificate.key.read_bytes()).decode(),
    }


@pytest.mark.parametrize("form", ["YAML", "JSON", "binary", "a client certificate", "by ARN", "a named context"])
async def test_a_kubeconfig_in_secrets_manager_is_used_from_memory(
    prod: Eks, form: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    user = client_certificate(prod) if form == "a client certificate" else {"token": prod.api.token}
    config = kubeconfig(prod, user)
    entry = {"kubeconfigSecret": "edge"}
    if form == "a named context":
        config["contexts"][0]["name"], entry["context"] = "chosen", "chosen"
    text = json.dumps(config) if form != "YAML" else _yaml(config)
    arn = prod.put_secret("edge", text.encode() if form == "binary" else text)
    if form == "by ARN":
        entry["kubeconfigSecret"] = arn
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    clusters = Clusters(served(edge=entry))
    try:
        await namespaces(await clusters.get("edge"))
    finally:
        await clusters.close()
    assert _files(tmp_path) == [], "nothing of it was written anywhere"


def _files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def _yaml(config: dict[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(config))


async def test_a_rotated_kubeconfig_is_read_again_after_401(prod: Eks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.kube.aws._SAME_SECONDS", 0)
    namespace = prod.api.create_namespace()
    rules = [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}]
    first = prod.api.create_service_account(namespace, "first", rules)
    prod.put_secret("edge", json.dumps(kubeconfig(prod, {"token": first})))
    clusters = Clusters(served(edge={"kubeconfigSecret": "edge"}))
    try:
        cluster = await clusters.get("edge")
        await namespaces(cluster)
        second = prod.api.create_service_account(namespace, "second", rules)
        prod.put_secret("edge", json.dumps(kubeconfig(prod, {"token": second})))
        prod.api.call("DELETE", f"/api/v1/namespaces/{namespace}/serviceaccounts/first")
        await asyncio.sleep(11)  # the API server remembers for ten seconds whose token it was
        await namespaces(cluster)
        token = cluster._connection._client.configuration.api_key["BearerToken"]
        assert token == f"Bearer {second}"
    finally:
        await clusters.close()


REFUSED = [
    pytest.param({"token": "t", "exec": {"command": "aws"}}, {}, "has exec", id="a program"),
    pytest.param({"auth-provider": {"name": "gcp"}}, {}, "has auth-provider", id="an auth provider"),
    pytest.param({"tokenFile": "/var/token"}, {}, "has tokenFile", id="a token in a file"),
    pytest.param({"client-certificate": "/a", "client-key": "/b"}, {}, "client-certificate and client-key", id="files"),
    pytest.param({"token": "t", "as": "admin"}, {}, "has as", id="impersonation"),
    pytest.param({"token": "t"}, {"certificate-authority": "/ca"}, "has certificate-authority", id="a CA in a file"),
    pytest.param({"token": "t"}, {"insecure-skip-tls-verify": True}, "insecure-skip-tls-verify", id="no check of TLS"),
    pytest.param({"token": "t"}, {"server": "http://127.0.0.1"}, "no https:// URL", id="plain http"),
    pytest.param({}, {}, "neither a token nor", id="nobody"),
    pytest.param({"token": "t"}, {"certificate-authority-data": "!"}, "base64 of PEM", id="a CA that is no base64"),
    pytest.param({"token": "t"}, {"certificate-authority-data": "eA=="}, "base64 of PEM", id="a CA that is no PEM"),
]


@pytest.mark.parametrize(("user", "cluster", "sentence"), REFUSED)
async def test_a_kubeconfig_that_a_function_cannot_use_is_refused_with_a_sentence(
    prod: Eks, user: dict[str, Any], cluster: dict[str, Any], sentence: str
) -> None:
    prod.put_secret("edge", json.dumps(kubeconfig(prod, user, **cluster)))
    clusters = Clusters(served(edge={"kubeconfigSecret": "edge"}))
    with pytest.raises(KubernetesError, match=sentence) as told:
        await clusters.get("edge")
    assert "secret edge of Secrets Manager" in str(told.value)
    await clusters.close()


@pytest.mark.parametrize(
    "text", ["seeded-secret", "a: [seeded-secret", "{}", '{"current-context": "seeded-secret"}', "\0"]
)
async def test_a_secret_that_is_no_kubeconfig_is_refused_and_not_quoted(
    prod: Eks, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    prod.put_secret("edge", text)
    clusters = Clusters(served(edge={"kubeconfigSecret": "edge"}))
    with pytest.raises(KubernetesError, match="secret edge of Secrets Manager") as told:
        await clusters.get("edge")
    await clusters.close()
    assert "seeded-secret" not in str(told.value)
    assert told.value.__suppress_context__ or told.value.__context__ is None


async def test_a_secret_that_does_not_exist_is_named(prod: Eks) -> None:
    clusters = Clusters(served(edge={"kubeconfigSecret": "nowhere"}))
    with pytest.raises(
        KubernetesUnavailable, match=r"secret nowhere .*ResourceNotFound.*secretsmanager:GetSecretValue"
    ):
        await clusters.get("edge")
    await clusters.close()


async def test_the_name_in_a_message_picks_the_cluster_and_an_unknown_one_lists_nothing(prod: Eks) -> None:
    prod.put_secret("edge", json.dumps(kubeconfig(prod, {"token": prod.api.token})))
    clusters = Clusters(served(prod={"eks": "prod"}, edge={"kubeconfigSecret": "edge"}))
    try:
        assert await clusters.get("prod") is not await clusters.get("edge")
        with pytest.raises(InvalidObject, match="'other' is not served here") as told:
            await clusters.get("other")
        assert "edge" not in str(told.value)
        with pytest.raises(InvalidObject, match="names no cluster"):
            await clusters.get("")
    finally:
        await clusters.close()
    marked = Clusters(
        served(prod={"eks": "prod"}, edge={"kubeconfigSecret": "edge"}).model_copy(update={"cluster": "edge"})
    )
    try:
        assert await marked.get("") is await marked.get("edge")
    finally:
        await marked.close()


async def test_no_token_and_no_key_is_ever_logged(prod: Eks, caplog: pytest.LogCaptureFixture) -> None:
    """Ours at DEBUG; the AWS client's own records at INFO: below that it logs what it signs, and nobody turns it on."""
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, logger="landfall")
    prod.access = {}
    clusters = Clusters(served(main={"eks": "prod"}))
    cluster = await clusters.get("main")
    with pytest.raises(LandfallError) as told:
        await namespaces(cluster)
    token = cluster._connection._client.configuration.api_key["BearerToken"].removeprefix("Bearer ")
    await clusters.close()
    for text in (caplog.text, str(told.value), repr(told.value)):
        assert token not in text
        assert token[20:60] not in text
