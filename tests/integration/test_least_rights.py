"""The whole flow with an identity a function, as EKS knows them: their rights suffice, and all are used."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from infra.local.runtime import LocalRuntime
from tests.infra import can_i
from tests.infra.test_rbac import ALLOWED
from tests.integration.conftest import environment
from tests.integration.documents import all_ready, placements
from tests.integration.flow import put_on
from tests.integration.platform_team import Platform, named
from tests.integration.test_documents import group
from tests.integration.test_first_ready import canaries, declare_bucket, declare_repository
from tests.servers.eks import Eks, eks
from tests.servers.git import GitServer
from tests.servers.s3 import Minio

pytestmark = pytest.mark.asyncio(loop_scope="module")

FUNCTIONS = (
    "on-destination-change",
    "write-canary",
    "on-work-change",
    "write-documents",
    "cleanup",
    "status-report",
    "resync",
)
# What an audit log cannot show, or what only a lost race asks for.
_CREATED_ONCE = {  # by whichever function comes first to a State Store: its Lease, and the claims of all Destinations
    "leases": {"create"},
    "configmaps": {"create"},
    "bucketstatestores": {"list"},
    "gitstatestores": {"list"},
}
UNSEEN = {
    "write-canary": _CREATED_ONCE,
    # Patched is one that has moved, or has an annotation to lose.
    "cleanup": {**_CREATED_ONCE, "destinations": {"list", "patch"}, "gitstatestores": {"get", "list"}},
    # Of what was made without finalizers; a Destination has its own by then, and its claim, unless it has just moved.
    "write-documents": {
        **_CREATED_ONCE,
        "configmaps": {"create", "patch"},
        "destinations": {"list", "patch"},
        "workplacements": {"patch"},
    },
    "on-work-change": {
        "works/finalizers": {"update"},  # an admission plugin asks about it, in the name of a create
        "workplacements": {"get"},  # after a conflict
    },
}


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit") / "audit.log"


@pytest.fixture(scope="module")
def prod(audit: Path) -> Iterator[Eks]:
    """A cluster that asks who may own what, writes down who asked for what, and has our manifests."""
    policy = audit.with_name("policy")
    rule = {"level": "Metadata", "omitStages": ["RequestReceived"]}
    policy.write_text(json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [rule]}))
    with eks(
        "prod",
        f"--audit-log-path={audit}",
        f"--audit-policy-file={policy}",
        "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
    ) as server:
        can_i.apply(server.api)
        server.access = {f"landfall-{function}": (f"landfall:{function}",) for function in FUNCTIONS}
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runtime(prod: Eks, git_server: GitServer) -> AsyncIterator[LocalRuntime]:
    token = prod.api.create_service_account("default", "forwarder", cluster_role="landfall-forwarder")
    async with LocalRuntime(
        kubeconfig=prod.api.write_kubeconfig(token),
        environment={
            **environment(git_server),
            "LANDFALL_CLUSTERS": json.dumps({"main": {"eks": "prod"}}),
            "LANDFALL_LIST_ABOVE": "1",  # so that few objects show both ways of reading
        },
        of_function={function: prod.environment(f"landfall-{function}") for function in FUNCTIONS},
        resync_seconds=0,
        first_redelivery_seconds=0.3,
        prepare=False,  # the manifests are to do
    ) as running:
        yield running


def asked_for(audit: Path) -> tuple[dict[str, dict[str, set[str]]], list[str]]:
    """Return, by identity, which verbs it used on which resource; and what was refused."""
    used: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    refused = []
    for line in audit.read_text().splitlines():
        entry = json.loads(line)
        user, what = entry["user"]["username"], entry.get("objectRef")
        name = user.rpartition("/landfall-")[2] if "/landfall-" in user else user
        if what is None or name not in {*FUNCTIONS, "system:serviceaccount:default:forwarder"}:
            continue
        resource = "/".join(part for part in (what["resource"], what.get("subresource")) if part)
        used[name][resource].add(entry["verb"])
        if entry["responseStatus"]["code"] in {401, 403}:
            refused.append(f"{name}: {entry['verb']} {resource}")
    return used, refused


async def test_the_rights_of_each_function_suffice_for_the_whole_flow_and_none_is_there_for_nothing(
    runtime: LocalRuntime, prod: Eks, audit: Path, minio: Minio, git_server: GitServer
) -> None:
    platform = Platform(prod.api)
    bucket = await live_destinations(runtime, platform, minio, git_server)
    await live_works(runtime, platform, minio, bucket)
    await report_on_what_is_gone(runtime)
    await live_deletion(runtime, platform, minio, bucket)

    assert await runtime.dead_letters() == {}
    assert not [line for line in runtime.log.tail(400) if "forbidden" in line]
    used, refused = asked_for(audit)
    assert refused == []
    assert {role for role, _ in prod.identities} == {f"landfall-{function}" for function in FUNCTIONS}
    for function in FUNCTIONS:
        unseen = UNSEEN.get(function, {})
        granted = {r: set(verbs.split()) - unseen.get(r, set()) for r, verbs in ALLOWED[function].items()}
        seen = {r: verbs - unseen.get(r, set()) for r, verbs in used[function].items()}
        assert {r: v for r, v in seen.items() if v} == {r: v for r, v in granted.items() if v}, function
    forwarder = {r: set(verbs.split()) for r, verbs in ALLOWED["forwarder"].items()}
    assert used["system:serviceaccount:default:forwarder"] == forwarder


async def live_destinations(runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer) -> str:
    """Make Destinations, one and many at once, and let a credential go and come back, so that facts are told again."""
    bucket, repository = declare_bucket(platform, minio), git_server.create_repository()
    declare_repository(platform, git_server, repository)
    for store in ("bucket", "git"):
        await platform.wait_store(f"{store}/default", "StateStoreReady")
    await runtime.idle()
    for store, name in (("bucket", "worker-b"), ("git", "worker-g")):
        platform.destination(name, f"{store}/default", labels={"tier": store}, cleanup="all")
        await platform.wait_ready(name)
        await runtime.idle()
    await platform.create_destinations(list(named("many", 5)), "bucket/default")
    for name in named("many", 5):
        await platform.wait_ready(name)
    for store, secret in (("bucket", "default"), ("git", "default-git")):
        platform.delete("secrets", secret)
        await platform.wait_store(f"{store}/default", "SecretNotFound")
    for name in ("worker-b", "worker-g"):
        await platform.wait_reason(name, "StateStoreNotReady")
    declare_bucket(platform, minio, bucket=bucket)
    declare_repository(platform, git_server, repository)
    for name in ("worker-b", "worker-g"):
        await platform.wait_ready(name)
    await runtime.idle()
    assert any(count > 1 for *_, count in platform.events("worker-b")), platform.events("worker-b")
    return bucket


async def live_works(runtime: LocalRuntime, platform: Platform, minio: Minio, bucket: str) -> None:
    """Place Works, one and several at once; change one, and delete one."""
    platform.work("app", group({"app.yaml": b"kind: App"}, tier="bucket"), promise="app")
    await all_ready(platform, 1)
    for name in named("more", 3):
        platform.work(name, group({f"{name}.yaml": b"kind: More"}, tier="git"), promise=name)
    await all_ready(platform, 4)
    await runtime.idle()
    platform.work("app", group({"app.yaml": b"kind: Changed"}, tier="bucket"), promise="app")
    await platform.until(lambda: b"kind: Changed" in minio.objects(bucket).values(), "the changed document")
    platform.delete_object("works", "more-000")
    await platform.until(lambda: len(placements(platform)) == 3, "a Work's placement gone")
    await runtime.idle()


async def report_on_what_is_gone(runtime: LocalRuntime) -> None:
    """Report on one object of each kind, and on so many that they are listed."""
    verdict = {"type": "Ready", "status": "True", "reason": "R"}
    for kind, many in {"Work": 2, "WorkPlacement": 101, "BucketStateStore": 2, "GitStateStore": 2}.items():
        namespace = "default" if kind.startswith("Work") else ""
        references = [{"kind": kind, "namespace": namespace, "name": f"none-{n}", "uid": "none"} for n in range(many)]
        for some in (references[:1], references):
            await put_on(runtime, "StatusQueue", *({**verdict, "reference": reference} for reference in some))
            await runtime.idle()


async def live_deletion(runtime: LocalRuntime, platform: Platform, minio: Minio, bucket: str) -> None:
    """Delete a Destination with its placements and files, and let a resync bring back what was lost."""
    platform.delete("destinations", "worker-b")
    await platform.until(lambda: platform.get("worker-b") is None, "worker-b gone", 60)
    await runtime.idle()
    assert not [key for key in minio.keys(bucket) if key.startswith("destinations/worker-b/")]
    for key in minio.keys(bucket):
        minio.delete(bucket, key)
    await runtime.resync()
    wanted = canaries("destinations/many-000")
    await platform.until(lambda: wanted.items() <= minio.objects(bucket).items(), "what was lost")
    await runtime.idle()
