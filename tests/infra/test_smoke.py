"""`make smoke` as its user runs it: a whole run, what it reports, and how it ends when things go wrong."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from infra.smoke.delivery import Delivery
from infra.smoke.store import LABEL, Contents, Wanted
from tests.infra.checks.world import NAME, ROOT, World, at_work, with_parameters, written
from tests.integration.platform_team import Platform
from tests.integration.test_first_ready import declare_bucket
from tests.servers.eks import ACCOUNT
from tests.servers.kubernetes import KubernetesApi
from tests.servers.s3 import Minio

pytestmark = pytest.mark.asyncio(loop_scope="module")

VERSION = "versionID of the WorkPlacement"
KINDS = ("destinations", "works", "workplacements", "bucketstatestores")
# What moto has not; each is asked for all the same, and the report says what the endpoint answered.
NOT_IN_MOTO = {
    "concurrent executions": "lambda:GetAccountSettings: the endpoint answered 404 Not Found",
    "authentication mode of EKS cluster production": "the endpoint answered without an accessConfig",
    "access entry of write-canary in EKS cluster production": "eks:DescribeAccessEntry: the endpoint answered 404",
    "identity of the forwarder at AWS": "eks:ListPodIdentityAssociations: the endpoint answered 404 Not Found",
    "alarms": "CloudFormation lists no AWS::CloudWatch::Alarm of this stack",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(transformed: dict[str, Any]) -> AsyncIterator[World]:
    async with at_work(transformed) as running:
        yield running


@pytest.fixture(autouse=True)
def _as_it_was(here: World) -> Iterator[None]:
    here.beat()
    yield
    here.put_right()


@pytest.fixture
def cluster(here: World) -> KubernetesApi:
    return here.eks.api


def left(here: World) -> list[str]:
    """Return the objects of smoke tests that are still in the cluster."""
    group = "/apis/platform.kratix.io/v1alpha1"
    items = [item for kind in KINDS for item in here.eks.api.call("GET", f"{group}/{kind}")["items"]]
    return [item["metadata"]["name"] for item in items if item["metadata"]["name"].startswith("landfall-smoke")]


async def test_a_whole_run_delivers_a_document_deletes_it_and_names_what_moto_cannot_answer(
    here: World, platform: Platform, minio: Minio, tmp_path: Path
) -> None:
    bucket = declare_bucket(platform, minio)
    status, printed = await here.smoke(tmp_path, "--store", "default", "--seconds", "60")
    report = written(tmp_path)
    assert status == 0, printed
    for what in (
        "Destination Ready",
        "WorkPlacement Ready",
        "document in the bucket",
        "versionID of the WorkPlacement",
    ):
        assert f"- ok: **{what}**" in report
    assert "- ok: **clean-up**: objects and files are gone" in report
    for what, why in NOT_IN_MOTO.items():
        (line,) = [line for line in report.splitlines() if line.startswith(f"- not checked: **{what}**")]
        assert why in line
    unanswered = [line for line in report.splitlines() if line.startswith("- not checked: ")]
    entries = len(here.roles())
    assert len(unanswered) == len(NOT_IN_MOTO) - 1 + entries, "everything else was checked"
    assert "## What to do" not in report
    assert left(here) == []
    assert minio.keys(bucket) == []
    print(report)


async def test_with_all_of_aws_everything_is_checked(
    here: World, platform: Platform, minio: Minio, tmp_path: Path
) -> None:
    declare_bucket(platform, minio)
    here.as_aws()
    status, printed = await here.smoke(tmp_path, "--store", "default", "--seconds", "60")
    assert status == 0, printed
    report = written(tmp_path)
    assert [line for line in report.splitlines() if line.startswith("- not checked")] == [
        "- not checked: **alarms**: CloudFormation lists no AWS::CloudWatch::Alarm of this stack"
    ]


async def test_no_secret_and_no_account_id_is_in_the_report_or_the_log(
    here: World, platform: Platform, minio: Minio, tmp_path: Path
) -> None:
    declare_bucket(platform, minio)
    here.as_aws()
    here.refuse(here.entry_of(here.roles()["cleanup"]), "ResourceNotFoundException", 404)  # its advice has an ARN
    status, printed = await here.smoke(tmp_path, "--store", "default", "--seconds", "60")
    assert status == 1, printed
    kept_out = [
        minio.root.secret_key,
        minio.root.access_key,
        here.stack.operator.secret_key,
        here.eks.api.token,
        ACCOUNT,
    ]
    for text in (written(tmp_path), written(tmp_path, "log")):
        assert [secret for secret in kept_out if secret in text] == []
        assert "k8s-aws-v1." not in text
        assert f"arn:aws:iam::********{ACCOUNT[-4:]}:role/" in text
    assert [secret for secret in kept_out[:-1] if secret in printed] == []
    assert ACCOUNT in printed, "on the terminal a command can be copied"


async def test_what_failed_comes_first_with_what_to_do_and_the_exit_status_says_so(
    here: World, platform: Platform, minio: Minio, tmp_path: Path
) -> None:
    declare_bucket(platform, minio)
    here.as_aws()
    here.eks.authentication_mode = "CONFIG_MAP"
    status, _ = await here.smoke(tmp_path, "--store", "default", "--seconds", "60")
    assert status == 1
    report = written(tmp_path)
    todo = report.partition("## What to do")[2].partition("##")[0]
    command = "aws eks update-cluster-config --name production --access-config authenticationMode=API_AND_CONFIG_MAP"
    what = "authentication mode of EKS cluster production"
    assert todo.strip().splitlines() == [f"1. **{what}**: `{command}` (there is no way back)."]
    shown = (
        (ROOT / "docs" / "operations.md")
        .read_text()
        .partition("# Landfall: smoke test of stack")[2]
        .partition("```")[0]
    )
    items = re.compile(r"^(?:- .+?: \*\*.+?\*\*|#+ .+)", re.MULTILINE)
    assert [item for item in items.findall(shown) if item not in report] == [], (
        "the example in the docs is of such a run"
    )
    assert re.search(r"^\*\*1 failed, \d+ ok, 1 not checked\*\*$", report, re.MULTILINE)


async def test_a_bucket_gets_a_state_store_of_its_own_which_goes_again(
    here: World, platform: Platform, minio: Minio, tmp_path: Path
) -> None:
    bucket = minio.create_bucket()
    platform.secret("given", accessKeyID=minio.root.access_key, secretAccessKey=minio.root.secret_key)
    arguments = ("--bucket", bucket, "--endpoint", minio.url, "--secret", "default/given", "--path", "a/b")
    status, printed = await here.smoke(tmp_path, *arguments, "--seconds", "60")
    assert status == 0, printed
    assert re.search(r"\*\*document in the bucket\*\*: a/b/landfall-smoke-\w+/dependencies/", written(tmp_path))
    assert left(here) == []
    assert minio.keys(bucket) == []


async def test_an_interrupted_run_deletes_everything_and_still_reports(
    here: World, platform: Platform, minio: Minio, tmp_path: Path
) -> None:
    bucket = declare_bucket(platform, minio)
    status, printed = await here.smoke(
        tmp_path, "--store", "default", "--seconds", "60", interrupt_at=" Work landfall-smoke"
    )
    assert status == 2, printed
    assert "| interrupted | yes" in written(tmp_path)
    assert "- ok: **clean-up**" in written(tmp_path)
    assert left(here) == []
    assert minio.keys(bucket) == []


async def test_a_destination_that_does_not_become_ready_is_reported_with_its_reason_and_let_go(
    here: World, platform: Platform, minio: Minio, tmp_path: Path
) -> None:
    declare_bucket(platform, minio, bucket="not-there")
    status, printed = await here.smoke(tmp_path, "--store", "default", "--seconds", "6")
    assert status == 1, printed
    report = written(tmp_path)
    assert re.search(
        r"- \*\*failed\*\*: \*\*Destination Ready\*\*: not after \d+ s. StateStore\w+: .*not-there", report
    )
    assert "docs/kinds/destination.md, Debugging" in report
    assert left(here) == [], "also where the functions do not let it go"


async def test_a_state_store_that_is_not_there_is_named_and_nothing_is_created(here: World, tmp_path: Path) -> None:
    status, _ = await here.smoke(tmp_path, "--store", "nowhere")
    assert status == 1
    assert "- **failed**: **State Store**: there is no BucketStateStore nowhere" in written(tmp_path)
    assert "clean-up" not in written(tmp_path)


async def test_without_a_state_store_the_delivery_is_not_checked(here: World, tmp_path: Path) -> None:
    status, _ = await here.smoke(tmp_path)
    assert status == 0
    assert "- not checked: **delivery**: no State Store was named: STORE=…" in written(tmp_path)


async def test_without_a_way_to_the_cluster_the_rest_is_checked_all_the_same(here: World, tmp_path: Path) -> None:
    status, _ = await here.smoke(tmp_path, "--kubeconfig", str(tmp_path / "none"), "--store", "default")
    report = written(tmp_path)
    assert status == 1, "what was asked for was not delivered"
    assert "- not checked: **CRDs**: the kubeconfig" in report
    assert "- **failed**: **delivery**: the kubeconfig" in report
    assert "- ok: **queue canary**" in report


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-1"}, f"there is no stack {NAME} in eu-west-1"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "sts:GetCallerIdentity: the endpoint did not answer"),
        ({"AWS_REGION": "", "AWS_DEFAULT_REGION": "", "AWS_CONFIG_FILE": "/dev/null"}, "no AWS region is configured"),
        (
            {
                "AWS_ACCESS_KEY_ID": "",
                "AWS_SECRET_ACCESS_KEY": "",
                "AWS_CONFIG_FILE": "/dev/null",
                "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
                "AWS_EC2_METADATA_DISABLED": "true",
            },
            "no AWS credentials are found",
        ),
    ],
    ids=["no stack", "no endpoint", "no region", "no credentials"],
)
async def test_what_cannot_run_ends_with_2_and_a_sentence(
    here: World, tmp_path: Path, changed: dict[str, str], sentence: str
) -> None:
    here.variables.update(changed)
    try:
        status, printed = await here.smoke(tmp_path)
    finally:
        here.variables.clear()
    assert status == 2, printed
    assert f"The smoke test cannot run: {sentence}" in printed or sentence in printed
    assert "Traceback" not in printed


async def test_an_identity_that_may_create_nothing_delivers_nothing(
    here: World, platform: Platform, minio: Minio, tmp_path: Path
) -> None:
    declare_bucket(platform, minio)
    rules = [{"apiGroups": ["platform.kratix.io"], "resources": ["*"], "verbs": ["get", "list"]}]
    token = here.eks.api.create_service_account("default", "reader", rules)
    kubeconfig = here.eks.api.write_kubeconfig(token)
    status, _ = await here.smoke(tmp_path, "--kubeconfig", str(kubeconfig), "--store", "default")
    report = written(tmp_path)
    assert status == 1
    assert "- **failed**: **delivery**: Kubernetes answered 403" in report
    assert "- not checked: **rights of the functions**: the kubeconfig's identity may not ask what others may" in report
    assert "clean-up" not in report, "nothing was created"


async def test_documents_that_are_not_what_was_delivered_are_noticed(
    here: World, platform: Platform, minio: Minio, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare_bucket(platform, minio)
    original = Contents.read

    async def other(self: Contents, *paths: str) -> dict[str, bytes]:
        return {path: content + b"changed" for path, content in (await original(self, *paths)).items()}

    monkeypatch.setattr(Contents, "read", other)
    monkeypatch.setattr("infra.smoke.delivery._version", lambda *_: "another")
    async with here.look() as look:
        delivery = Delivery(
            look, Wanted("default"), "landfall-smoke-t", lambda *_: None, namespace="default", seconds=60
        )
        await delivery.run()
    results = {line.what: line for line in delivery.lines}
    assert results["Destination Ready"].result == "ok"
    for what in ("test documents in the bucket", "document in the bucket", VERSION):
        assert results[what].result == "failed"
        assert results[what].todo
    assert left(here) == []


async def test_files_that_the_clean_up_leaves_are_reported_and_removed(
    here: World, platform: Platform, minio: Minio, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = declare_bucket(platform, minio)
    name, original = "landfall-smoke-u", Delivery._present

    async def late(self: Delivery) -> set[str]:
        found = await original(self)
        minio.put(bucket, f"destinations/{name}/late.yaml", b"written after the clean-up")
        return found

    monkeypatch.setattr(Delivery, "_present", late)
    async with here.look() as look:
        delivery = Delivery(look, Wanted("default"), name, lambda *_: None, namespace="default", seconds=60)
        await delivery.run()
    assert delivery.lines[-1].what == "clean-up"
    assert "left in the bucket, and removed by this test" in delivery.lines[-1].text
    assert minio.keys(bucket) == []


@pytest.mark.parametrize(
    ("wanted", "arns", "path"),
    [
        (Wanted(bucket="kratix"), "arn:aws:s3:::other/x/*,arn:aws:s3:::kratix/destinations/a/*", "destinations/a"),
        (Wanted(bucket="kratix"), "arn:aws:s3:::kratix/*", "landfall-smoke"),
        (Wanted(bucket="kratix"), "", "landfall-smoke"),
        (Wanted(bucket="kratix", path="own"), "arn:aws:s3:::kratix/destinations/*", "own"),
    ],
    ids=["what a role may write", "the whole bucket", "nothing is said", "the caller's"],
)
async def test_a_state_store_with_the_functions_role_lies_where_the_role_may_write(
    here: World, wanted: Wanted, arns: str, path: str
) -> None:
    async with here.look() as look:
        with_parameters(look, IamObjectArns=arns)
        declared = wanted.declared("landfall-smoke-x", look)
    assert declared["metadata"]["labels"] == {LABEL: "landfall-smoke-x"}
    assert declared["spec"] == {
        "bucketName": "kratix",
        "endpoint": "s3.us-east-1.amazonaws.com",
        "insecure": False,
        "path": path,
        "authMethod": "IAM",
    }
