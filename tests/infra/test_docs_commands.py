"""Every command in a block marked `console` is run as it stands, page by page, or is named with where it is run."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.artifacts import WRITERS
from shared.settings import Settings
from tests.infra.conftest import ROOT, SAM
from tests.infra.docs_machine import DEPLOY, NOTED, Machine, blocks, machine
from tests.infra.policies import check_bucket_policy, check_stack_policy
from tests.servers.kubernetes import kubernetes_api
from tests.servers.sqs import aws_server

pytestmark = pytest.mark.timeout(900)  # the release that is installed is made first

DOCS = ROOT / "docs"
SHARED = "kratix-shared-222233334444"  # a bucket of another account, in the guide
KINDS = ["bucketstatestore", "gitstatestore", "destination", "work", "workplacement"]
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
KRATIX = """
apiVersion: v1
kind: Namespace
metadata: {name: kratix-platform-system}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: kratix-platform-controller-manager, namespace: kratix-platform-system}
spec:
  selector: {matchLabels: {app: kratix}}
  template:
    metadata: {labels: {app: kratix}}
    spec: {containers: [{name: manager, image: "kratix-platform:dev"}]}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: kratix-platform-mutating-webhook-configuration}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: kratix-platform-validating-webhook-configuration}
"""


@pytest.fixture(scope="module")
def here(transformed: dict[str, Any], dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with kubernetes_api() as api, aws_server() as server:
        api.apply_crds(ROOT / "infra" / "kubernetes" / "crds")
        with machine(tmp_path_factory.mktemp("docs"), api, server, transformed, dist, name="landfall") as running:
            vpc = {"subnetIds": ["subnet-1"], "securityGroupIds": ["sg-1"]}
            role = "arn:aws:iam::123456789012:role/eks"
            running.stack.client("eks").create_cluster(name="production", roleArn=role, resourcesVpcConfig=vpc)
            yield running


def local(text: str, here: Machine) -> str:
    """Let a BucketStateStore lead to moto, which speaks S3 too."""
    host = here.stack.server.url.removeprefix("http://")
    return re.sub(
        r"^( *)endpoint: .*amazonaws\.com$", rf"\1endpoint: '{host}'\n\1insecure: true", text, flags=re.MULTILINE
    )


@pytest.fixture(scope="module")
def examples(here: Machine) -> Machine:
    """The objects that the kinds' pages show, but WorkPlacements, which come of themselves."""
    here.run("aws s3 mb s3://kratix")
    for page in KINDS[:-1]:
        text = (DOCS / "kinds" / f"{page}.md").read_text()
        for block in re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            assert all(obj["kind"] for obj in yaml.safe_load_all(block))
            here.run(f"kubectl apply -f - <<'EOF'\n{local(block, here)}\nEOF")
    return here


def test_every_page_with_commands_is_run() -> None:
    with_commands = {page.relative_to(ROOT).as_posix() for page in PAGES if blocks(page)}
    pages = ("forwarders", "local-invoke", "operations", "migration", "deployment", "pipeline")
    run = {"README.md", "docs/agents.md", *(f"docs/{page}.md" for page in pages)}  # agents.md: in tests/agents
    assert with_commands <= run | {f"docs/kinds/{page}.md" for page in KINDS}


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page != ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem
)
def test_no_command_stands_in_a_block_that_is_not_run(page: Path) -> None:
    fences = re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", page.read_text(), re.MULTILINE | re.DOTALL)
    # A workflow's steps are run too, and what a target does with what has arrived, by tests/agents.
    run = ("console", {"pipeline": "yaml", "agents": "bash"}.get(page.stem))
    others = [line.strip() for _, language, block in fences if language not in run for line in block.splitlines()]
    commands = {noted.split()[0] for noted in NOTED} | {"aws", "kubectl"}
    assert not [line for line in others if line.split(" ")[0] in commands]


def test_where_a_command_is_said_to_be_run_there_is_something() -> None:
    for where in filter(None, NOTED.values()):
        assert (ROOT / where).is_file()


@pytest.mark.parametrize("page", [*(f"docs/kinds/{page}.md" for page in KINDS), "README.md"])
def test_the_commands_of_a_page_about_objects_run(examples: Machine, page: str) -> None:
    printed = examples.run(blocks(ROOT / page))
    assert "condition met" in printed or "wait" not in blocks(ROOT / page)
    check_noted(examples)


@pytest.mark.parametrize("page", ["forwarders", "local-invoke"])
def test_the_commands_of_a_page_without_objects_run(here: Machine, page: str) -> None:
    given = "REGISTRY=registry.example.com CLUSTER=production ROLE_ARN=arn:aws:iam::123456789012:role/forwarder"
    here.run(f"export {given}\n{blocks(DOCS / f'{page}.md')}")
    check_noted(here)


def test_the_commands_of_the_operations_page_run_and_dead_letters_are_seen_and_purged(examples: Machine) -> None:
    sqs = examples.stack.client("sqs")
    url = sqs.get_queue_url(QueueName="landfall-canary-dead-letter")["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody='{"kind": "Destination", "name": "poison"}')
    # As EventBridge leaves what it could not deliver, and as SNS does, quotes and line ends among it.
    undelivered = sqs.get_queue_url(QueueName="landfall-undelivered")["QueueUrl"]
    code = {"ERROR_CODE": {"DataType": "String", "StringValue": "NO_PERMISSIONS"}}
    cluster = {"cluster": {"DataType": "String", "StringValue": "production"}}
    events = {
        '{"source": "a forwarder\'s",\n "detail": {"name": "$HOME"}}': code,
        '{"type": "ADDED"}': cluster,
        "{}": {},
    }
    for body, attributes in events.items():
        sqs.send_message(QueueUrl=undelivered, MessageBody=body, MessageAttributes=attributes)
    assert "poison" in examples.run(blocks(DOCS / "operations.md"))
    for queue in (url, undelivered):
        told = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
        assert told["ApproximateNumberOfMessages"] == told["ApproximateNumberOfMessagesNotVisible"] == "0"
    changes = sqs.get_queue_url(QueueName="landfall-changes")["QueueUrl"]
    received = sqs.receive_message(QueueUrl=changes, MaxNumberOfMessages=10, MessageAttributeNames=["All"])["Messages"]
    assert {message["Body"]: message.get("MessageAttributes", {}) for message in received} == events


def test_the_pipelines_identities_are_made_and_its_workflow_runs(here: Machine, transformed: dict[str, Any]) -> None:
    page = (DOCS / "pipeline.md").read_text()
    here.run(blocks(DOCS / "pipeline.md"))
    here.noted()
    iam = here.stack.client("iam")
    trust = iam.get_role(RoleName="deploy-landfall")["Role"]["AssumeRolePolicyDocument"]
    assert trust["Statement"][0]["Condition"] == {
        "StringEquals": {
            "token.actions.githubusercontent.com:aud": "sts.amazonaws.com",
            "token.actions.githubusercontent.com:sub": "repo:example/platform:environment:production",
        }
    }
    policy = iam.get_role_policy(RoleName="cloudformation-landfall", PolicyName="stack")["PolicyDocument"]
    check_stack_policy(policy, transformed)
    (workflow,) = (yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    (job,) = workflow["jobs"].values()
    assert (workflow["permissions"], job["permissions"]) == ({}, {"id-token": "write"})
    values = {"vars.ACCOUNT": "123456789012", "vars.REGION": "us-east-1", "vars.STACK": "landfall"}
    values |= {"vars.CLUSTER": "production", "vars.LANDFALL": "example/landfall", "github.token": "none"}
    filled = re.sub(r"\$\{\{ ([\w.]+) \}\}", lambda found: values[found[1]], json.dumps(job))
    job = json.loads(filled)
    for step in job["steps"]:
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"])
            continue
        variables = {**job["env"], **step.get("env", {})}
        exported = "".join(f"export {name}={value!r}\n" for name, value in variables.items())
        here.run(f"{exported}cd landfall-$VERSION\n{step['run']}")
    data = json.loads(here.run("kubectl --namespace landfall get configmap landfall-forwarder -o jsonpath='{.data}'"))
    assert data["LANDFALL_TARGET"] == here.stack.outputs()["EventBusArn"]
    deployed = [command for command in here.noted(keep=True) if command[:3] == DEPLOY]
    assert [command[command.index("--role-arn") + 1] for command in deployed] == [
        "arn:aws:iam::123456789012:role/cloudformation-landfall"
    ]
    check_noted(here)


def test_moving_over_and_back_leaves_kratix_as_it_was(examples: Machine) -> None:
    examples.run(f"kubectl apply -f - <<'EOF'\n{KRATIX}\nEOF\nkubectl apply -k infra/kubernetes/forwarder")
    let_go = '{"spec": {"cleanup": "none"}}'  # its State Store leads nowhere
    examples.run(f"kubectl patch destination terraform --type=merge --patch '{let_go}'")
    examples.run("kubectl delete destination/terraform bucketstatestore/with-role gitstatestore/over-ssh")
    examples.run(blocks(DOCS / "migration.md"))
    deployment = "deployment/kratix-platform-controller-manager"
    assert examples.run(f"kubectl -n kratix-platform-system get {deployment} -o jsonpath='{{.spec.replicas}}'") == "1"
    for kind in ("mutating", "validating"):
        examples.run(f"kubectl get {kind}webhookconfiguration kratix-platform-{kind}-webhook-configuration")


def test_the_guide_leads_from_an_empty_account_to_ready_and_back(here: Machine, transformed: dict[str, Any]) -> None:
    # Whatever the other pages have left; a Destination whose State Store leads nowhere would wait with its clean-up.
    let_go = """kubectl patch {} --type=merge --patch '{"spec": {"cleanup": "none"}}'"""
    here.run(
        "kubectl apply -f infra/kubernetes/rbac.yaml\n"
        f"kubectl get destinations --output name | xargs --replace={{}} {let_go}\n"
        "kubectl delete works --all --all-namespaces\n"
        "kubectl delete destinations,bucketstatestores,gitstatestores --all\n"
        "kubectl delete secrets --namespace default --all\n"
        # Helm takes over nothing that it has not made. The namespace stays: nothing here would end it.
        "kubectl get clusterroles,clusterrolebindings --output name | grep /landfall- | xargs kubectl delete\n"
        "kubectl delete --namespace landfall deployments,serviceaccounts,configmaps,roles,rolebindings --all\n"
        "kubectl create secret generic moto --from-literal=accessKeyID=testing --from-literal=secretAccessKey=testing\n"
        f"aws s3 mb s3://{SHARED}"
    )
    bus, roles = here.stack.outputs()["EventBusArn"], writers(here)
    # moto is no AWS, and the functions' own role signs for nobody else (tests/integration/test_bucket_aws.py).
    script = local(blocks(DOCS / "deployment.md"), here).replace("authMethod: IAM", "secretRef: {name: moto}")
    one = re.sub(r'FUNCTIONS="[a-z -]*"', 'FUNCTIONS="write-canary"', script)
    assert one != script
    printed = here.run(one, timeout=600)
    assert "destination.platform.kratix.io/worker-1 condition met" in printed
    for path in ("dependencies/kratix-canary-namespace.yaml", "resources/kratix-canary-configmap.yaml"):
        assert f" destinations/dev/{path}\n" in printed
    settings = (here.folder / "infra/kubernetes/forwarder/settings.env").read_text()
    assert f"LANDFALL_TARGET={bus}" in settings
    assert f"The forwarder sends changes to {bus}." in printed  # as the chart says
    secret = here.stack.client("secretsmanager").get_secret_value(SecretId="landfall/write-canary/edge")
    kubeconfig = yaml.safe_load(secret["SecretString"])
    assert kubeconfig["current-context"] == "edge"
    assert {"client-certificate-data", "client-key-data"} == kubeconfig["users"][0]["user"].keys()
    assert {"certificate-authority-data", "server"} == kubeconfig["clusters"][0]["cluster"].keys()
    assert here.run("kubectl get destinations,works,workplacements --all-namespaces --output name") == ""
    policy = here.stack.client("s3").get_bucket_policy(Bucket=SHARED)["Policy"]
    check_bucket_policy(json.loads(policy), transformed, roles, SHARED)
    check_noted(here)


def writers(here: Machine) -> set[str]:
    """Return the roles of the functions that write to State Stores."""
    return {here.stack.functions()[name]["Role"] for name in WRITERS}


# Without quotes inside of quotes, SAM ends a value at its first space, and says nothing.
AS_SAM_READS = """
import json, sys
from samcli.cli.types import CfnParameterOverridesType
read = CfnParameterOverridesType().convert
print(json.dumps([read(tuple(given), None, None) for given in json.load(sys.stdin)]))
"""


def check_parameters(here: Machine, given: dict[str, str]) -> None:
    """Check that the released template, which has all parameters, takes these."""
    (template,) = here.folder.glob("landfall-*/template.yaml")
    parameters = yaml.safe_load(template.read_text())["Parameters"]
    for name, value in given.items():
        parameter = parameters[name]
        for part in value.split(",") if parameter["Type"] == "CommaDelimitedList" else [value]:
            assert re.fullmatch(parameter.get("AllowedPattern", ".*"), part), f"{name} does not take {part}"
    if clusters := given.get("Clusters"):
        assert Settings.from_environment({"LANDFALL_CLUSTERS": clusters}).served


def check_noted(here: Machine) -> None:
    """Check that what was only noted is known, and that deployments give parameters that the template takes."""
    deployments = []
    for command in here.noted():
        if command[:3] == DEPLOY:
            check_parameters(
                here, dict(given.split("=", 1) for given in command[command.index("--parameter-overrides") + 1 :])
            )
            continue
        assert " ".join(command[:2]) in NOTED
        if command[:2] == ["sam", "deploy"]:
            deployments.append(command[command.index("--parameter-overrides") + 1 :])
        for path in (
            command[command.index(flag) + 1] for flag in ("--config-file", "--event", "-f") if flag in command
        ):
            assert (ROOT / path).exists(), path
    if not deployments:
        return
    reading = [str(SAM / "python"), "-c", AS_SAM_READS]
    done = subprocess.run(reading, input=json.dumps(deployments), capture_output=True, text=True, check=True)
    for given in json.loads(done.stdout):
        check_parameters(here, given)
