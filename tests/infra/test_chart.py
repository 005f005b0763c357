"""The chart renders what infra/kubernetes holds, changed only where a value says so, and an API server takes it."""

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.forwarder.settings import Settings
from infra.release.cluster import CHART, MANIFESTS
from tests.infra.test_forwarder_manifests import kubectl, rendered
from tests.servers.golang import go_binary
from tests.servers.kubernetes import kubernetes_api

SETTINGS = dict(
    line.split("=", 1)
    for line in (MANIFESTS / "forwarder" / "settings.env").read_text().splitlines()
    if line and not line.startswith("#")
)
TARGET = SETTINGS["LANDFALL_TARGET"]
QUEUE_URL = "https://sqs.eu-north-1.amazonaws.com/111122223333/landfall-changes"
Objects = dict[tuple[str, str], dict[str, Any]]


def helm(*arguments: object, fails: bool = False) -> str:
    """Return what Helm printed, or said where it is to fail."""
    done = subprocess.run([go_binary("helm"), *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert bool(done.returncode) is fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout


def template(tmp_path: Path, values: Mapping[str, Any], chart: Path = CHART, namespace: str = "landfall") -> Objects:
    """Return the objects of the chart with these values, by kind and name."""
    file = tmp_path / "values.json"
    file.write_text(json.dumps({"target": TARGET, **values}))
    told = helm("template", "landfall", chart, "--include-crds", "--namespace", namespace, "--values", file)
    objects = list(yaml.safe_load_all(told))
    assert "Namespace" not in {obj["kind"] for obj in objects if obj}, "Helm makes it"
    return by_name(objects)


def by_name(objects: list[dict[str, Any]]) -> Objects:
    """Return objects by kind and name, but Namespaces, which several manifests may need."""
    counted = [obj for obj in objects if obj and obj["kind"] != "Namespace"]
    found = {(obj["kind"], obj["metadata"]["name"]): obj for obj in counted}
    assert len(found) == len(counted), "two of one name"
    return found


def manifests() -> Objects:
    """What the guide applies without Helm: CRDs, RBAC, and the forwarder under its settings' plain name."""
    files = [*sorted((MANIFESTS / "crds").glob("*.yaml")), MANIFESTS / "rbac.yaml"]
    objects = [obj for file in files for obj in yaml.safe_load_all(file.read_text())]
    text = yaml.safe_dump_all(rendered(MANIFESTS / "forwarder"))
    objects += yaml.safe_load_all(re.sub(r"(name: landfall-forwarder)-[a-z0-9]{10}\b", r"\1", text))
    return by_name(objects)


def pod(objects: Objects) -> dict[str, Any]:
    found: dict[str, Any] = objects["Deployment", "landfall-forwarder"]["spec"]["template"]
    return found


def test_the_chart_renders_the_manifests_and_nothing_else(tmp_path: Path) -> None:
    ours = template(tmp_path, {})
    # A pod that keeps its settings' checksum starts anew when they change.
    assert pod(ours)["metadata"].pop("annotations").keys() == {"checksum/settings"}
    plain = manifests()
    assert ours.keys() == plain.keys()
    for key, obj in plain.items():
        assert ours[key] == obj, key


def test_helm_finds_nothing_wrong_with_the_chart() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART, "--set", f"target={TARGET}")


@pytest.mark.parametrize(
    ("values", "settings"),
    [
        ({}, SETTINGS),
        ({"target": QUEUE_URL, "region": "eu-north-1"}, {"LANDFALL_TARGET": QUEUE_URL, "AWS_REGION": "eu-north-1"}),
        ({"cluster": "edge"}, {"LANDFALL_CLUSTER": "edge"}),
        ({"cluster": "123"}, {"LANDFALL_CLUSTER": "123"}),
        ({"watchSecrets": False}, {"LANDFALL_WATCH_SECRETS": "false"}),
        ({"region": "eu-west-3"}, {"AWS_REGION": "eu-west-3"}),
    ],
    ids=["as given", "queue's URL", "cluster", "a cluster that looks like a number", "no secrets", "region"],
)
def test_a_setting_reaches_the_forwarder_which_understands_it(
    tmp_path: Path, values: dict[str, Any], settings: dict[str, str]
) -> None:
    data = template(tmp_path, values)["ConfigMap", "landfall-forwarder"]["data"]
    assert data == {**SETTINGS, **settings}
    Settings.from_environment(data)


def test_a_changed_setting_starts_another_pod(tmp_path: Path) -> None:
    sums = {
        pod(template(tmp_path, values))["metadata"]["annotations"]["checksum/settings"]
        for values in ({}, {"cluster": "edge"}, {"podAnnotations": {"a": "b"}})
    }
    assert len(sums) == 2


IN_THE_POD: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "image": ({"image": {"repository": "r/f", "tag": "2"}}, {"image": "r/f:2"}),
    "image by digest": (
        {"image": {"repository": "r/f", "tag": "2", "digest": f"sha256:{'a' * 64}"}},
        {"image": f"r/f@sha256:{'a' * 64}"},
    ),
    "resources": ({"resources": {"limits": {"memory": "1Gi"}}}, {"resources": {"limits": {"memory": "1Gi"}}}),
    "pull secrets": ({"image": {"pullSecrets": ["one"]}}, {"imagePullSecrets": [{"name": "one"}]}),
    "node selector": ({"nodeSelector": {"pool": "a"}}, {"nodeSelector": {"pool": "a"}}),
    "tolerations": ({"tolerations": [{"operator": "Exists"}]}, {"tolerations": [{"operator": "Exists"}]}),
    "affinity": ({"affinity": {"nodeAffinity": {}}}, {"affinity": {"nodeAffinity": {}}}),
    "priority": ({"priorityClassName": "high"}, {"priorityClassName": "high"}),
}


@pytest.mark.parametrize(("values", "fields"), IN_THE_POD.values(), ids=IN_THE_POD)
def test_a_value_changes_its_field_of_the_pod_and_no_other(
    tmp_path: Path, values: dict[str, Any], fields: dict[str, Any]
) -> None:
    plain, changed = (pod(template(tmp_path, given))["spec"] for given in ({}, values))
    where = [changed["containers"][0] if name in {"image", "resources"} else changed for name in fields]
    assert {name: place[name] for name, place in zip(fields, where, strict=True)} == fields
    for name, place in zip(fields, where, strict=True):
        place.pop(name)
    for name in ("image", "resources"):
        if name in fields:
            plain["containers"][0].pop(name)
    assert changed == plain


def test_labels_annotations_and_namespace_are_the_installers(tmp_path: Path) -> None:
    role = "arn:aws:iam::111122223333:role/forwarder"
    values = {
        "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": role}},
        "podLabels": {"team": "platform", "app.kubernetes.io/name": "another"},
        "podAnnotations": {"note": "mine"},
    }
    objects = template(tmp_path, values, namespace="elsewhere")
    account = objects["ServiceAccount", "landfall-forwarder"]
    assert account["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": role}
    labels = objects["Deployment", "landfall-forwarder"]["spec"]["selector"]["matchLabels"]
    assert labels.items() <= pod(objects)["metadata"]["labels"].items(), "a label of the selector was changed"
    assert pod(objects)["metadata"]["labels"]["team"] == "platform"
    assert pod(objects)["metadata"]["annotations"]["note"] == "mine"
    namespaced = [obj for obj in objects.values() if obj["kind"] in {"ServiceAccount", "ConfigMap", "Deployment"}]
    assert {obj["metadata"]["namespace"] for obj in namespaced} == {"elsewhere"}
    (bound, _) = objects["ClusterRoleBinding", "landfall-forwarder"]["subjects"]
    assert bound["namespace"] == "elsewhere"


def test_without_secrets_the_forwarder_has_no_right_on_them(tmp_path: Path) -> None:
    (rule,) = template(tmp_path, {"watchSecrets": False})["ClusterRole", "landfall-forwarder"]["rules"]
    assert "secrets" not in rule["resources"]
    assert "destinations" in rule["resources"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"target": ""}, "target is not set: give the stack's output"),
        ({"target": QUEUE_URL}, "region is not set, and a queue's URL in target does not contain it"),
        ({"target": "landfall"}, "at '/target'"),
        ({"target": TARGET.replace("events", "lambda")}, "at '/target'"),
        ({"targt": TARGET}, "additional properties 'targt' not allowed"),
        ({"image": {"digest": "latest"}}, "at '/image/digest'"),
        ({"watchSecrets": "no"}, "at '/watchSecrets'"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_is_applied(
    tmp_path: Path, values: dict[str, Any], sentence: str
) -> None:
    (tmp_path / "values.json").write_text(json.dumps({"target": TARGET, **values}))
    said = helm("template", "landfall", CHART, "--values", tmp_path / "values.json", fails=True)
    assert sentence in said


def test_an_api_server_takes_everything_that_the_chart_renders(tmp_path: Path) -> None:
    values = {"resources": {"limits": {"memory": "1Gi"}}, "tolerations": [{"operator": "Exists"}]}
    objects = template(tmp_path, values)
    (tmp_path / "rendered.yaml").write_text(yaml.safe_dump_all(objects.values()))
    with kubernetes_api() as api:
        environment = {"KUBECONFIG": str(api.kubeconfig)}
        kubectl("create", "namespace", "landfall", **environment)
        dry = ("apply", "--dry-run=server", "--validate=strict", "-f", tmp_path / "rendered.yaml")
        told = kubectl(*dry, **environment)
    assert len(told.splitlines()) == len(objects)
    assert all(line.endswith("(server dry run)") for line in told.splitlines())
