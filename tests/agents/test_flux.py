"""Flux applies what is written, by the manifests of docs/agents.md: from a Work to its object on the target."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
import yaml

from infra.local.runtime import LocalRuntime
from tests.agents.delivery import Delivery, Stores
from tests.agents.documented import block, policy
from tests.agents.target import KUSTOMIZATIONS, SOURCES, Target
from tests.integration.platform_team import Platform
from tests.servers.kubernetes import KubernetesApi

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

MODES = ["nestedByMetadata", "none", "aggregatedYAML"]
REDIS = "/apis/marketplace.example.com/v1/namespaces/default/redis"
SOURCE = {"bucket": f"{SOURCES}/buckets", "git": f"{SOURCES}/gitrepositories"}
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "redis.marketplace.example.com"},
    "spec": {
        "group": "marketplace.example.com",
        "scope": "Namespaced",
        "names": {"kind": "Redis", "plural": "redis", "singular": "redis"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                },
            }
        ],
    },
}


def document(obj: dict[str, Any]) -> bytes:
    return yaml.safe_dump(obj).encode()


def redis(size: str) -> bytes:
    metadata = {"name": "mine", "namespace": "default"}
    return document(
        {"apiVersion": "marketplace.example.com/v1", "kind": "Redis", "metadata": metadata, "spec": {"size": size}}
    )


def config_map(name: str, namespace: str = "default", **data: str) -> bytes:
    metadata = {"name": name, "namespace": namespace}
    return document({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def declare(delivery: Delivery) -> None:
    """Set Flux up on the target for the Destination, as docs/agents.md says."""
    target, stores = delivery.target, delivery.stores
    server, bucket = stores.versitygw, stores.bucket
    target.apply(block("Rights"))
    if delivery.kind == "bucket":
        reader = server.create_user()
        server.put_bucket_policy(bucket, *policy("Source: a bucket", bucket, reader.access_key))
        replace = {
            "FLUXACCESSKEY": reader.access_key,
            "FLUXSECRETKEY": reader.secret_key,
            "endpoint: s3.eu-central-1.amazonaws.com": f"endpoint: {server.endpoint}\n  insecure: true",
            "region: eu-central-1": f"region: {server.region}",
            "bucketName: kratix": f"bucketName: {bucket}",
            "interval: 1m": "interval: 1s",
        }
        target.apply(block("Source: a bucket", replace=replace))
    else:
        git = stores.git_server
        ca = "".join(f"    {line}\n" for line in git.ca.read_text().splitlines())
        replace = {
            "username: flux": f"username: {git.username}",
            "password: READTOKEN": f"password: {git.password}\n  ca.crt: |\n{ca}",
            "https://git.example.com/platform/fleet.git": stores.repository.https_url,
            "interval: 1m": "interval: 1s",
        }
        target.apply(block("Source: a Git repository", replace=replace))
    source = {"bucket": "Bucket", "git": "GitRepository"}[delivery.kind]
    section = "Mode nestedByMetadata" if delivery.mode == "nestedByMetadata" else "Modes none and aggregatedYAML"
    replace = {"kind: Bucket # or GitRepository": f"kind: {source}", "retryInterval: 1m": "retryInterval: 1s"}
    target.apply(block(section, replace=replace))


@pytest.fixture
def mode() -> str:
    """The Destination's mode, where a test is not parametrized by it."""
    return "nestedByMetadata"


@pytest_asyncio.fixture(loop_scope="module", params=["bucket", "git"])
async def delivery(
    request: pytest.FixtureRequest, mode: str, runtime: LocalRuntime, stores: Stores, flux_target: KubernetesApi
) -> AsyncIterator[Delivery]:
    """A Destination of the test's mode in a State Store of each kind, and Flux for it."""
    made = Delivery(request.param, mode, runtime, stores, Target(flux_target))
    made.platform.destination("worker-1", f"{made.kind}/default", path="dev", cleanup="all", filepath={"mode": mode})
    await made.platform.wait_ready("worker-1")
    declare(made)
    yield made
    await runtime.idle()
    made.target.run(block("Pruning", "console"))
    await made.arrives("all pruned", lambda: made.target.config_map("kratix-info", "kratix-worker-system") is None)
    made.target.run("kubectl --namespace flux-system delete buckets,gitrepositories --all")
    made.target.end_namespaces()


@pytest.mark.parametrize("mode", MODES)
async def test_what_is_written_arrives_and_changes_and_goes(
    delivery: Delivery, mode: str, record_property: Callable[[str, object], None]
) -> None:
    assert delivery.mode == mode
    target, platform = delivery.target, delivery.platform
    await delivery.arrives(
        "the canary documents", lambda: target.config_map("kratix-info", "kratix-worker-system") is not None
    )

    def size() -> str | None:
        found = target.get(f"{REDIS}/mine")
        return None if found is None else str(found["spec"]["size"])

    delivery.dependency("redis-deps", {"crd.yaml": document(CRD)})
    delivery.request("redis-mine", {"mine.yaml": redis("small")})
    created = await delivery.arrives("the object, after its CRD", lambda: size() == "small")
    delivery.request("redis-mine", {"mine.yaml": redis("large")})
    updated = await delivery.arrives("the change", lambda: size() == "large")
    shown = target.run(block("How to know that it arrived", "console"))
    assert "condition met" in shown
    await delivery.runtime.idle()
    if delivery.kind == "git":
        (name,) = [obj["metadata"]["name"] for obj in placements(platform) if "mine" in obj["metadata"]["name"]]
        placement = platform.object("workplacements", name)
        assert placement is not None
        assert placement["status"]["versionID"] in shown
    platform.delete_object("works", "redis-mine")
    deleted = await delivery.arrives("the deletion", lambda: size() is None)
    assert target.get(f"{CRDS}/redis.marketplace.example.com"), "the dependency stays"
    platform.delete_object("works", "redis-deps")
    await delivery.arrives(
        "the dependency's deletion", lambda: target.get(f"{CRDS}/redis.marketplace.example.com") is None
    )
    figures = f"created {created:5.2f} s, updated {updated:5.2f} s, deleted {deleted:5.2f} s"
    record_property("measured", f"Flux, {delivery.kind:<6} {mode:<16} from a Work to the target: {figures}")


def placements(platform: Platform) -> list[dict[str, Any]]:
    path = "/apis/platform.kratix.io/v1alpha1/namespaces/default/workplacements"
    return list(platform.api.call("GET", path)["items"])


async def test_no_resource_is_applied_before_its_dependencies(delivery: Delivery) -> None:
    target = delivery.target
    source = f"{SOURCE[delivery.kind]}/worker-1"

    def revision() -> str:
        return str(target.get(source)["status"]["artifact"]["revision"])

    delivery.dependency("deps", {"a.yaml": config_map("a", "not-there")})
    await delivery.says("ReconciliationFailed", "not-there", of="worker-1-dependencies")
    old = revision()
    delivery.request("mine", {"b.yaml": config_map("b")})

    def looked_at() -> bool:
        attempted = target.get(f"{KUSTOMIZATIONS}/worker-1-dependencies")["status"]["lastAttemptedRevision"]
        return bool(old != revision() == attempted)

    await delivery.arrives("an attempt with the resource's revision", looked_at)
    await delivery.says("DependencyNotReady", "worker-1-dependencies")
    assert target.config_map("b") is None
    delivery.dependency("deps", {"a.yaml": config_map("a")})
    await delivery.arrives("both", lambda: None not in (target.config_map("a"), target.config_map("b")))


@pytest.mark.parametrize("mode", ["none"])
async def test_a_state_file_in_kratix_own_form_is_in_the_way_until_it_is_written_anew(
    delivery: Delivery, mode: str
) -> None:
    assert delivery.mode == mode
    delivery.dependency("deps", {"a.yaml": config_map("a")})
    await delivery.arrives("the document", lambda: delivery.target.config_map("a") is not None)
    await delivery.runtime.idle()
    (path,) = [path for path in delivery.tree() if "/.kratix/" in path]
    delivery.put(path, b"files:\n- dev/a.yaml\n")
    await delivery.says("BuildFailed", "missing Resource metadata")
    await delivery.runtime.resync()
    await delivery.runtime.idle()
    assert delivery.tree()[path] == b"files:\n- dev/a.yaml\n", "no document has changed"
    delivery.put(path, None)
    await delivery.runtime.resync()
    await delivery.runtime.idle()
    await delivery.arrives("Ready", lambda: delivery.target.ready("worker-1")[0] == "True")


# What stands in the table of what Flux refuses: the documents, the reason and the words.
REFUSED: dict[str, tuple[dict[str, bytes], str, tuple[str, ...]]] = {
    "no manifest": ({"x.yaml": b"files: [a]\n"}, "BuildFailed", ("missing Resource metadata", "x.yaml")),
    "one object twice": (
        {"x.yaml": config_map("x", value="1"), "y.yaml": config_map("x", value="2")},
        "BuildFailed",
        ("may not add resource with an already registered id",),
    ),
    "a kind that the role does not name": (
        {"x.yaml": document({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x", "namespace": "default"}})},
        "ReconciliationFailed",
        ("is forbidden",),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_flux_refuses_holds_back_its_kustomization_and_says_why(delivery: Delivery, case: str) -> None:
    documents, reason, words = REFUSED[case]
    delivery.request("bad", documents)
    await delivery.says(reason, *words)
    delivery.request("good", {"b.yaml": config_map("b")})
    await delivery.written("/b.yaml")
    delivery.request("bad", {"x.yaml": config_map("x")})
    await delivery.arrives(
        "both", lambda: None not in (delivery.target.config_map("x"), delivery.target.config_map("b"))
    )


async def test_a_deleted_destinations_objects_stay_until_its_kustomizations_go(delivery: Delivery) -> None:
    """The documents of its WorkPlacements go first; what Flux has seen of that is pruned. The canaries go last."""
    target = delivery.target

    def canary() -> dict[str, str] | None:
        return target.config_map("kratix-info", "kratix-worker-system")

    delivery.request("mine", {"b.yaml": config_map("b")})
    await delivery.arrives("both", lambda: None not in (target.config_map("b"), canary()))
    delivery.platform.delete("destinations", "worker-1")
    await delivery.platform.until(lambda: not any("/dev/" in path for path in delivery.tree()), "emptied")
    # A bucket's artifact is empty then; of a repository Flux makes none, since the directory that it asks for is gone.
    kind, name, reason, words = {
        "bucket": (KUSTOMIZATIONS, "worker-1-dependencies", "ArtifactFailed", "path not found"),
        "git": (SOURCE["git"], "worker-1", "GitOperationFailed", "does not exist in repository"),
    }[delivery.kind]

    def said() -> bool:
        status, why, message = target.ready(name, kind)
        return (status, why) == ("False", reason) and words in message

    await delivery.arrives(reason, said)
    assert canary() is not None
    target.run(block("Pruning", "console"))
    await delivery.arrives("what they applied goes", lambda: (target.config_map("b"), canary()) == (None, None))
