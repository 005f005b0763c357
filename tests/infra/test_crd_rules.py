"""What our CustomResourceDefinitions refuse before anybody reads it, and that nothing of Kratix's is among it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra import kratix_crds
from tests.servers.kubernetes import KubernetesApi, kubernetes_api

GROUP = "/apis/platform.kratix.io/v1alpha1"
MERGE = "application/merge-patch+json"
BUCKET = {"endpoint": "minio.example.com:9000", "bucketName": "kratix", "secretRef": {"name": "minio"}}
GIT = {"url": "https://git.example/r", "secretRef": {"name": "git"}}
DESTINATION = {"path": "dev", "stateStoreRef": {"kind": "GitStateStore", "name": "default"}}


def create(cluster: KubernetesApi, kind: str, spec: dict[str, Any], name: str = "tried") -> str:
    """Create an object and delete it again; return why it was refused, and nothing if it was not."""
    obj = {"apiVersion": "platform.kratix.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    path = f"{GROUP}/{kind.lower()}s"
    answer = cluster.request("POST", path, obj)
    if answer.status == 201:
        cluster.call("DELETE", f"{path}/{name}")
        return ""
    assert answer.status == 422, answer
    return str(answer.json()["message"])


# As they stand in Kratix's samples, chart values, system tests and reference page, and what else works there.
KRATIX: dict[str, tuple[str, dict[str, Any]]] = {
    "the sample's bucket": (
        "BucketStateStore",
        {
            "endpoint": "minio.kratix-platform-system.svc.cluster.local",
            "insecure": True,
            "bucketName": "kratix",
            "authMethod": "accessKey",
            "secretRef": {"name": "minio-credentials", "namespace": "default"},
        },
    ),
    "a bucket by IAM": (
        "BucketStateStore",
        {"endpoint": "s3.amazonaws.com", "bucketName": "b", "authMethod": "IAM", "useDualStack": True},
    ),
    "a bucket with a path": ("BucketStateStore", {**BUCKET, "path": "/destinations/dev/"}),
    "a bucket at an address": ("BucketStateStore", {**BUCKET, "endpoint": "172.18.0.2:31337"}),
    "a bucket at an IPv6 address": ("BucketStateStore", {**BUCKET, "endpoint": "[fd00::1]:9000"}),
    "the sample's repository": (
        "GitStateStore",
        {
            "secretRef": {"name": "gitea-credentials", "namespace": "default"},
            "url": "https://172.18.0.2:31333/gitea_admin/kratix",
            "branch": "main",
        },
    ),
    "a repository with all there is": (
        "GitStateStore",
        {
            **GIT,
            "authMethod": "basicAuth",
            "branch": "main",
            "gitAuthor": {"name": "kratix", "email": "k@example.com"},
            "path": "destinations",
        },
    ),
    "a repository by a short SSH URL": (
        "GitStateStore",
        {**GIT, "authMethod": "ssh", "url": "git@github.com:org/r.git"},
    ),
    "a repository by SSH": ("GitStateStore", {**GIT, "authMethod": "ssh", "url": "ssh://git@git.example:2222/org/r"}),
    "a repository of a GitHub App": ("GitStateStore", {**GIT, "authMethod": "githubApp"}),
    "a repository with a user in its URL": ("GitStateStore", {**GIT, "url": "https://org@dev.azure.com/org/p/_git/r"}),
    "the sample's Destination": (
        "Destination",
        {"path": "worker-1", "stateStoreRef": {"name": "default", "kind": "BucketStateStore"}},
    ),
    "a Destination with all there is": (
        "Destination",
        {
            **DESTINATION,
            "cleanup": "all",
            "strictMatchLabels": True,
            "filepath": {"mode": "aggregatedYAML", "filename": "catalog.yaml"},
            "initWorkloads": {"enabled": False},
        },
    ),
    "a Destination in mode none": ("Destination", {**DESTINATION, "filepath": {"mode": "none"}}),
    "a Destination at the root": ("Destination", {**DESTINATION, "path": "/"}),
    "a Destination at a dot": ("Destination", {**DESTINATION, "path": "."}),
    "a Destination with dots in its path": ("Destination", {**DESTINATION, "path": "a/..b/c..d/..."}),
    "a Destination with git in its path": ("Destination", {**DESTINATION, "path": "x.git/.gitx/git~2/a:.git"}),
}


@pytest.mark.parametrize("name", KRATIX)
def test_what_works_with_kratix_is_accepted(cluster: KubernetesApi, name: str) -> None:
    assert create(cluster, *KRATIX[name]) == ""


@pytest.mark.parametrize("file", ["bucket.yaml", "git.yaml"])
def test_the_reference_pages_manifests_are_accepted(cluster: KubernetesApi, file: str) -> None:
    for obj in yaml.safe_load_all((Path("infra/local/manifests") / file).read_text()):
        if obj["kind"] != "Secret":
            filled = {"$S3_ENDPOINT": "s3.example:9000", "$GIT_URL": "https://git.example/r.git"}
            spec = {name: filled.get(str(value), value) for name, value in obj["spec"].items()}
            assert create(cluster, obj["kind"], spec) == ""


REFUSED = [
    pytest.param(
        "Destination", {**DESTINATION, "path": "../other"}, "spec.path contains '..'", id="a path that leads out"
    ),
    pytest.param(
        "Destination", {**DESTINATION, "path": "a/../b"}, "spec.path contains '..'", id="and one that comes back"
    ),
    pytest.param(
        "Destination",
        {**DESTINATION, "filepath": {"mode": "aggregatedYAML", "filename": "../all.yaml"}},
        "spec.filepath.filename contains '..'",
        id="a file name that leads out",
    ),
    pytest.param(
        "Destination",
        {"path": "x", "stateStoreRef": {"kind": "GitStateStore", "name": ""}},
        "at least 1 char",
        id="no name",
    ),
    *(
        pytest.param("Destination", {**DESTINATION, "path": path}, "spec.path contains a name that Git takes", id=what)
        for path, what in (
            ("a/.git", "Git's own directory"),
            ("GIT~1/x", "its short name"),
            ("a/.git . :x/b", "its streams"),
            ("a/.g\u200cit/b", "its spelling on HFS+"),
        )
    ),
    pytest.param(
        "Destination",
        {**DESTINATION, "filepath": {"mode": "aggregatedYAML", "filename": ".Git/all.yaml"}},
        "spec.filepath.filename contains a name that Git takes",
        id="a file name in Git's own directory",
    ),
    pytest.param(
        "BucketStateStore", {**BUCKET, "path": ".git"}, "spec.path contains a name that", id="a bucket's .git"
    ),
    pytest.param("GitStateStore", {**GIT, "path": "x/.git./y"}, "spec.path contains a name that", id="another .git"),
    pytest.param("BucketStateStore", {**BUCKET, "path": "a/../.."}, "spec.path contains '..'", id="a bucket's path"),
    pytest.param("GitStateStore", {**GIT, "path": ".."}, "spec.path contains '..'", id="a repository's path"),
    pytest.param(
        "BucketStateStore",
        {"endpoint": "s3.example", "bucketName": "b"},
        "spec.secretRef.name is required for authMethod accessKey: name the Secret with accessKeyID",
        id="a bucket without a Secret",
    ),
    pytest.param(
        "BucketStateStore", {**BUCKET, "secretRef": {"namespace": "x"}}, "secretRef.name is required", id="half"
    ),
    pytest.param("BucketStateStore", {**BUCKET, "authMethod": "iam"}, "Unsupported value", id="an unknown authMethod"),
    pytest.param(
        "BucketStateStore", {**BUCKET, "endpoint": "https://s3.example/b"}, "is not host or host:port", id="a URL"
    ),
    pytest.param("BucketStateStore", {**BUCKET, "endpoint": "key:word@s3.example"}, "host or host:port", id="a user"),
    pytest.param("BucketStateStore", {**BUCKET, "endpoint": "s3 .example"}, "is not host or host:port", id="a space"),
    pytest.param("BucketStateStore", {**BUCKET, "endpoint": ""}, "is not host or host:port", id="no endpoint"),
    pytest.param(
        "GitStateStore", {"url": "https://g.example/r"}, "secretRef.name is required", id="Git without a Secret"
    ),
    pytest.param("GitStateStore", {"secretRef": {"name": "git"}}, "spec.url: Required value", id="Git without a URL"),
    pytest.param(
        "GitStateStore", {**GIT, "authMethod": "ssh"}, "spec.authMethod does not fit spec.url", id="a key for HTTPS"
    ),
    pytest.param(
        "GitStateStore",
        {**GIT, "url": "git@g.example:r"},
        "spec.authMethod does not fit spec.url",
        id="a password for SSH",
    ),
    pytest.param(
        "GitStateStore", {**GIT, "url": "https://user:word@g.example/r"}, "spec.url holds a password", id="a password"
    ),
]


@pytest.mark.parametrize(("kind", "spec", "sentence"), REFUSED)
def test_what_nobody_could_carry_out_is_refused_with_a_sentence(
    cluster: KubernetesApi, kind: str, spec: dict[str, Any], sentence: str
) -> None:
    assert sentence in create(cluster, kind, spec)


@pytest.fixture(scope="module")
def of_kratix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesApi]:
    """An API server where Kratix's own definitions were first."""
    with kubernetes_api() as server:
        server.apply_crds(kratix_crds.folder(tmp_path_factory.mktemp("kratix")))
        yield server


def test_what_was_there_before_our_rules_can_still_be_reported_on_and_deleted(of_kratix: KubernetesApi) -> None:
    path = f"{GROUP}/destinations/old"
    metadata = {"name": "old", "finalizers": ["kratix.io/destination-cleanup"]}
    spec = {"path": "../other", "stateStoreRef": {"kind": "GitStateStore", "name": "default"}}
    obj = {"apiVersion": "platform.kratix.io/v1alpha1", "kind": "Destination", "metadata": metadata, "spec": spec}
    of_kratix.call("POST", f"{GROUP}/destinations", obj)
    of_kratix.apply_crds(kratix_crds.OURS)
    condition = {
        "type": "Ready",
        "status": "False",
        "reason": "InvalidDestination",
        "message": "spec.path contains '..'",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    of_kratix.call("PATCH", f"{path}/status", {"status": {"conditions": [condition]}}, content_type=MERGE)
    of_kratix.call("PATCH", path, {"metadata": {"labels": {"environment": "dev"}}}, content_type=MERGE)
    worse = of_kratix.request("PATCH", path, {"spec": {"path": "../../other"}}, content_type=MERGE)
    assert (worse.status, "contains '..'" in worse.json()["message"]) == (422, True)
    of_kratix.call("DELETE", path)
    of_kratix.call("PATCH", path, {"metadata": {"finalizers": []}}, content_type=MERGE)
    assert of_kratix.request("GET", path).status == 404


def test_every_rule_has_a_message_that_begins_with_its_field() -> None:
    messages = [
        m for file in sorted(kratix_crds.OURS.glob("*.yaml")) for m in _messages(yaml.safe_load(file.read_text()))
    ]
    assert len(messages) == 14
    assert [m for m in messages if not m.startswith(("spec.", "filepath.mode is immutable"))] == []


def _messages(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from (str(rule.get("message")) for rule in schema.get("x-kubernetes-validations", ()))
        for child in schema.values():
            yield from _messages(child)
    elif isinstance(schema, list):
        for child in schema:
            yield from _messages(child)
