"""Each way to forward: its manifests, as one `kubectl apply -k` gives them to a cluster (test_rbac says who may what).

Argo Events and Knative are not here, and neither are their CRDs, which let unknown fields pass in part: what fields
there are is written down below, from the Go types of argo-events v1.9.10 (pkg/apis/events/v1alpha1) and of
knative.dev/eventing v0.49.2 (pkg/apis/sources/v1, eventing/v1alpha1, sinks/v1alpha1).
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.forwarder.settings import Settings
from tests.servers.kubernetes import KubernetesApi, kubernetes_api

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "infra" / "kubernetes"
WAYS = ("forwarder", "argo-events", "knative")
OURS = ("destinations", "bucketstatestores", "gitstatestores", "works", "workplacements")

_SINK = {"ref": {"apiVersion": str, "kind": str, "name": str}}
_METADATA = {"name": str, "namespace": str}
_RESOURCE = {
    "namespace": str, "group": str, "version": str, "resource": str, "eventTypes": [str], "metadata": {"cluster": str},
}  # fmt: skip
_SOURCE = {"dependencyName": str, "contextKey": str, "dataKey": str, "useRawData": bool}
_LAMBDA = {"functionName": str, "region": str, "invocationType": str, "payload": [{"src": _SOURCE, "dest": str}]}
FIELDS: dict[tuple[str, str], dict[str, Any]] = {
    ("argoproj.io/v1alpha1", "EventSource"): {
        "template": {"serviceAccountName": str},
        "resource": dict.fromkeys(OURS, _RESOURCE),
    },
    ("argoproj.io/v1alpha1", "Sensor"): {
        "template": {"serviceAccountName": str},
        "dependencies": [{"name": str, "eventSourceName": str, "eventName": str, "filters": {"script": str}}],
        "triggers": [
            {
                "template": {"name": str, "conditions": str, "awsLambda": _LAMBDA},
                "atLeastOnce": bool,
                "retryStrategy": {"steps": int, "duration": str, "factor": int, "jitter": float},
            }
        ],
    },
    ("sources.knative.dev/v1", "ApiServerSource"): {
        "serviceAccountName": str,
        "mode": str,
        "namespaceSelector": {},
        "resources": [{"apiVersion": str, "kind": str}],
        "ceOverrides": {"extensions": {"cluster": str}},
        "sink": _SINK,
    },
    ("eventing.knative.dev/v1alpha1", "EventTransform"): {
        "sink": _SINK,
        "reply": {"discard": bool},
        "jsonata": {"expression": str},
    },
    ("sinks.knative.dev/v1alpha1", "IntegrationSink"): {
        "aws": {"sqs": {"arn": str, "region": str}, "auth": {"serviceAccountName": str}},
    },
}


def kubectl(*arguments: object, **environment: str) -> str:
    program = shutil.which("kubectl")
    assert program, "kubectl is not installed: install it, the guide uses it"
    command = [program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout


def rendered(folder: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(kubectl("kustomize", folder)))


def of_kind(objects: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [obj for obj in objects if obj["kind"] in kinds]


def misfits(value: Any, shape: Any, path: str = "spec") -> Iterator[str]:
    """Yield where a value has another type than the shape, or a field that the shape does not know."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{path} is no object"
            return
        for name, inner in value.items():
            if name in shape:
                yield from misfits(inner, shape[name], f"{path}.{name}")
            else:
                yield f"{path}.{name} is unknown"
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{path} is no list"
            return
        for place, inner in enumerate(value):
            yield from misfits(inner, shape[0], f"{path}[{place}]")
    elif not isinstance(value, shape):
        yield f"{path} is no {shape.__name__}"


@pytest.fixture
def applied() -> Iterator[KubernetesApi]:
    """A cluster of its own to which the forwarder was applied with the one command of its guide."""
    with kubernetes_api() as api:
        environment = {"KUBECONFIG": str(api.kubeconfig)}
        print(kubectl("apply", "--validate=strict", "-k", MANIFESTS / "forwarder", **environment))
        yield api


def test_one_command_applies_the_forwarder_and_its_pod_fits_the_restricted_standard(applied: KubernetesApi) -> None:
    pods = "/api/v1/namespaces/landfall/pods"
    deployment = applied.call("GET", "/apis/apps/v1/namespaces/landfall/deployments/landfall-forwarder")
    template = deployment["spec"]["template"]
    pod = {"metadata": {**template["metadata"], "name": "forwarder"}, "spec": template["spec"]}
    applied.call("POST", f"{pods}?dryRun=All", pod)
    (container,) = pod["spec"]["containers"]
    assert container["securityContext"].pop("allowPrivilegeEscalation") is False
    answer = applied.request("POST", f"{pods}?dryRun=All", pod)
    assert (answer.status, "PodSecurity" in answer.json()["message"]) == (403, True), "nobody looks at it"
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    configuration = container["envFrom"][0]["configMapRef"]["name"]
    data = applied.call("GET", f"/api/v1/namespaces/landfall/configmaps/{configuration}")["data"]
    settings = Settings.from_environment(data)
    assert (settings.service, settings.region, settings.cluster, settings.secrets) == ("events", "eu-west-1", "", True)


def test_the_pod_monitor_finds_the_forwarders_pods_and_their_port() -> None:
    """Fields of github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1, PodMonitorSpec."""
    monitor = yaml.safe_load((MANIFESTS / "forwarder" / "pod-monitor.yaml").read_text())
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")
    endpoints = [{"port": str, "path": str, "interval": str}]
    shape = {"selector": {"matchLabels": {"app.kubernetes.io/name": str}}, "podMetricsEndpoints": endpoints}
    assert list(misfits(monitor["spec"], shape)) == []
    (deployment,) = of_kind(rendered(MANIFESTS / "forwarder"), "Deployment")
    pod = deployment["spec"]["template"]
    assert monitor["metadata"]["namespace"] == deployment["metadata"]["namespace"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (container,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert f":{ports[monitor['spec']['podMetricsEndpoints'][0]['port']]}" in Settings("sqs", "", "").listen_metrics
    assert f":{ports['health']}" in Settings("sqs", "", "").listen


@pytest.mark.parametrize("way", ["argo-events", "knative"])
def test_no_field_is_misspelt(way: str) -> None:
    objects = rendered(MANIFESTS / way)
    custom = [obj for obj in objects if (obj["apiVersion"], obj["kind"]) in FIELDS]
    for obj in custom:
        assert list(misfits(obj["spec"], FIELDS[obj["apiVersion"], obj["kind"]])) == []
        assert list(misfits(obj["metadata"], _METADATA, "metadata")) == []
    assert {obj["kind"] for obj in objects} - {obj["kind"] for obj in custom} <= {
        "Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding",
    }  # fmt: skip


NAMED = {
    "forwarder": ("LANDFALL_TARGET", "LANDFALL_CLUSTER", "AWS_REGION", "LANDFALL_WATCH_SECRETS"),
    "argo-events": ("FUNCTION", "AWS_REGION", "CLUSTER"),
    "knative": ("QUEUE_ARN", "AWS_REGION", "CLUSTER"),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_setting_of_the_one_file_reaches_the_objects(tmp_path: Path, way: str) -> None:
    folder = tmp_path / way
    shutil.copytree(MANIFESTS / way, folder)
    lines = (folder / "settings.env").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert tuple(settings) == NAMED[way]
    (folder / "settings.env").write_text("".join(f"{name}=new-{name.lower()}\n" for name in settings))
    told = yaml.safe_dump_all(rendered(folder))
    for name, value in settings.items():
        assert f"new-{name.lower()}" in told
        if len(value) > 10:
            assert value not in told, f"somewhere {name} is still what it was"


def test_the_guide_names_files_settings_and_outputs_that_exist() -> None:
    guide = (ROOT / "docs" / "forwarders.md").read_text()
    for path in set(re.findall(r"infra/[\w./-]+\w", guide)):
        assert (ROOT / path).exists(), path
    assert set(re.findall(r"kubectl apply -k (\S+)`", guide)) == {f"infra/kubernetes/{way}" for way in WAYS}
    assert set(NAMED["forwarder"]) == set(re.findall(r"^\| `([A-Z_]+)` \|", guide, re.MULTILINE))
    template = (ROOT / "template.yaml").read_text()
    outputs = template[template.index("\nOutputs:") :]
    for output in ("EventBusArn", "ChangesTopicArn", "ChangesQueueArn", "ForwarderPolicyArn"):
        assert f"`{output}`" in guide
        assert f"  {output}:" in outputs


def test_argo_events_follows_all_our_kinds_but_no_secret_and_invokes_once_for_each() -> None:
    objects = rendered(MANIFESTS / "argo-events")
    (source,), (sensor,) = of_kind(objects, "EventSource"), of_kind(objects, "Sensor")
    resources = source["spec"]["resource"]
    assert {name: resource["resource"] for name, resource in resources.items()} == {name: name for name in OURS}
    dependencies = sensor["spec"]["dependencies"]
    assert {d["name"]: (d["eventSourceName"], d["eventName"]) for d in dependencies} == {
        name: (source["metadata"]["name"], name) for name in OURS
    }
    # A State Store's status is for its Destinations; nobody reacts to any other.
    assert {d["name"] for d in dependencies if "filters" not in d} == {"bucketstatestores", "gitstatestores"}
    triggers = {trigger["template"]["name"]: trigger["template"] for trigger in sensor["spec"]["triggers"]}
    assert triggers.keys() == set(OURS)
    for name, template in triggers.items():
        assert template["conditions"] == name
        assert template["awsLambda"]["invocationType"] == "Event"
        payload = template["awsLambda"]["payload"]
        assert {parameter["src"]["dependencyName"] for parameter in payload} == {name}
        assert [parameter["dest"] for parameter in payload] == ["context.id", "data"]


def test_knative_reads_whole_only_what_holds_no_document_and_no_value() -> None:
    objects = rendered(MANIFESTS / "knative")
    modes = {
        (source["spec"]["mode"], resource["kind"])
        for source in of_kind(objects, "ApiServerSource")
        for resource in source["spec"]["resources"]
    }
    assert modes == {
        *(("Resource", kind) for kind in ("Destination", "BucketStateStore", "GitStateStore")),
        *(("Reference", kind) for kind in ("Work", "WorkPlacement", "Secret")),
    }
    (transform,), (sink,) = of_kind(objects, "EventTransform"), of_kind(objects, "IntegrationSink")
    chain = [*of_kind(objects, "ApiServerSource"), transform]
    leads_to = [(each["spec"]["sink"]["ref"]["kind"], each["spec"]["sink"]["ref"]["name"]) for each in chain]
    assert leads_to == [("EventTransform", transform["metadata"]["name"])] * 2 + [
        ("IntegrationSink", sink["metadata"]["name"])
    ]
