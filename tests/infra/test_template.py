"""The deployment: least privilege, encrypted queues, time-outs that fit each other, one build target a function."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.local.template import _Loader
from shared.settings import PREFIX, Settings

TEMPLATE: dict[str, Any] = yaml.load(Path("template.yaml").read_text(), _Loader)
RESOURCES: dict[str, dict[str, Any]] = TEMPLATE["Resources"]
FUNCTIONS = {name: r["Properties"] for name, r in RESOURCES.items() if r["Type"] == "AWS::Serverless::Function"}
QUEUES = {name: r["Properties"] for name, r in RESOURCES.items() if r["Type"] == "AWS::SQS::Queue"}
TIMEOUT: int = TEMPLATE["Globals"]["Function"]["Timeout"]

SOURCES = {
    (name, event["Properties"]["Queue"]["Fn::GetAtt"][0]): event["Properties"]
    for name, function in FUNCTIONS.items()
    for event in function["Events"].values()
    if event["Type"] == "SQS"
}


def statements(function: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for policy in function.get("Policies") or ():
        document = policy["Fn::If"][1] if "Fn::If" in policy else policy
        found += document["Statement"]
    return found


def variables(function: dict[str, Any]) -> dict[str, Any]:
    own = (function.get("Environment") or {}).get("Variables") or {}
    return {**TEMPLATE["Globals"]["Function"]["Environment"]["Variables"], **own}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_may_send_to_exactly_the_queues_that_it_is_told_of(name: str) -> None:
    allowed = set()
    for statement in statements(FUNCTIONS[name]):
        if statement["Action"] == "sqs:SendMessage":
            resources = statement["Resource"]
            allowed |= {r["Fn::GetAtt"][0] for r in (resources if isinstance(resources, list) else [resources])}
    told = {value["Ref"] for key, value in variables(FUNCTIONS[name]).items() if key.endswith("_QUEUE_URL")}
    assert allowed == told


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_function_has_an_action_or_a_resource_with_a_wildcard(name: str) -> None:
    for statement in statements(FUNCTIONS[name]):
        actions = statement["Action"]
        assert not any("*" in action for action in ([actions] if isinstance(actions, str) else actions))
        assert "*" not in str(statement["Resource"])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_variable_is_one_that_the_settings_know(name: str) -> None:
    known = {f"{PREFIX}{field.upper()}" for field in Settings.model_fields}
    assert {key for key in variables(FUNCTIONS[name]) if key.startswith(PREFIX)} <= known


@pytest.mark.parametrize("name", QUEUES)
def test_a_queue_is_encrypted_and_has_a_policy_that_refuses_plain_http(name: str) -> None:
    assert QUEUES[name]["SqsManagedSseEnabled"] is True
    policies = [r["Properties"] for r in RESOURCES.values() if r["Type"] == "AWS::SQS::QueuePolicy"]
    (policy,) = (p for p in policies if {"Ref": name} in p["Queues"])
    (denial,) = (s for s in policy["PolicyDocument"]["Statement"] if s["Effect"] == "Deny")
    assert denial["Condition"] == {"Bool": {"aws:SecureTransport": False}}
    assert {"Fn::GetAtt": [name, "Arn"]} in denial["Resource"]


def test_only_our_own_rule_may_send_to_a_queue_from_outside() -> None:
    policies = [r["Properties"]["PolicyDocument"] for r in RESOURCES.values() if r["Type"] == "AWS::SQS::QueuePolicy"]
    (permission,) = (s for policy in policies for s in policy["Statement"] if s["Effect"] == "Allow")
    assert permission["Principal"] == {"Service": "events.amazonaws.com"}
    assert permission["Condition"] == {"ArnEquals": {"aws:SourceArn": {"Fn::GetAtt": ["ChangesRule", "Arn"]}}}


@pytest.mark.parametrize(("function", "queue"), SOURCES)
def test_a_queue_hides_a_message_six_times_as_long_as_its_function_may_take(function: str, queue: str) -> None:
    timeout = FUNCTIONS[function].get("Timeout", TIMEOUT)
    assert QUEUES[queue]["VisibilityTimeout"] >= 6 * timeout
    assert QUEUES[queue]["RedrivePolicy"]["maxReceiveCount"] == 5


@pytest.mark.parametrize(("function", "queue"), SOURCES)
def test_batches_are_gathered_for_a_second_and_answered_in_part(function: str, queue: str) -> None:
    source = SOURCES[function, queue]
    assert source["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert source["MaximumBatchingWindowInSeconds"] == 1
    assert source["ScalingConfig"]["MaximumConcurrency"] >= 2


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_time_for_a_stores_share_and_for_its_own_report(name: str) -> None:
    settings = Settings()
    share = settings.store_deadline_seconds if name in {"WriteCanaryFunction", "CleanupFunction"} else 0
    assert (
        FUNCTIONS[name].get("Timeout", TIMEOUT)
        >= share + settings.reserve_seconds + settings.kubernetes_timeout_seconds
    )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_built_from_its_folder_by_a_target_of_its_own(name: str) -> None:
    assert RESOURCES[name]["Metadata"] == {"BuildMethod": "makefile", "ContextPath": "infra", "WorkingDirectory": "."}
    folder = re.search(rf"^build-{name}: FOLDER := (.+)$", Path("infra/Makefile").read_text(), re.MULTILINE)
    assert folder is not None
    assert FUNCTIONS[name]["CodeUri"] == f"functions/{folder[1]}/"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_functions_logs_do_not_stay_for_ever(name: str) -> None:
    group = RESOURCES[FUNCTIONS[name]["LoggingConfig"]["LogGroup"]["Ref"]]
    assert group["Properties"]["RetentionInDays"] == {"Ref": "LogRetentionDays"}
