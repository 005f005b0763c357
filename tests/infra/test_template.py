"""The deployment: least privilege, encryption, time-outs that fit each other, alarms on all that can go wrong."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.local.template import _Loader
from shared.settings import PREFIX, Settings

TEMPLATE: dict[str, Any] = yaml.load(Path("template.yaml").read_text(), _Loader)
RESOURCES: dict[str, dict[str, Any]] = TEMPLATE["Resources"]
PARAMETERS: dict[str, dict[str, Any]] = TEMPLATE["Parameters"]


def of_type(type_: str) -> dict[str, dict[str, Any]]:
    return {name: r["Properties"] for name, r in RESOURCES.items() if r["Type"] == type_}


FUNCTIONS = of_type("AWS::Serverless::Function")
QUEUES = of_type("AWS::SQS::Queue")
ROLES = of_type("AWS::IAM::Role")
POLICIES = of_type("AWS::IAM::ManagedPolicy")
ALARMS = of_type("AWS::CloudWatch::Alarm")
TIMEOUT: int = TEMPLATE["Globals"]["Function"]["Timeout"]

SOURCES = {
    (name, event["Properties"]["Queue"]["Fn::GetAtt"][0]): event["Properties"]
    for name, function in FUNCTIONS.items()
    for event in function["Events"].values()
    if event["Type"] == "SQS"
}
NO_VALUE = {"Ref": "AWS::NoValue"}
CUSTOMER_KEY = {"Fn::If": ["CreatesKey", {"Fn::GetAtt": ["Key", "Arn"]}, {"Ref": "EncryptionKey"}]}
KEY_OR_NONE = {"Fn::If": ["HasKey", CUSTOMER_KEY, NO_VALUE]}

# What may be allowed on every resource, each for the reason that stands beside it in the template.
EVERYWHERE = {"Traces", "Interfaces"}


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def plain(items: list[Any]) -> list[Any]:
    """Return a list's items, those under a condition among them."""
    found = []
    for item in items:
        found += plain([*item["Fn::If"][1:]]) if "Fn::If" in item else [item]
    return [item for item in found if item != NO_VALUE]


def statements(document: dict[str, Any]) -> list[dict[str, Any]]:
    return plain(document["Statement"])


def own_statements(function: dict[str, Any]) -> list[dict[str, Any]]:
    role = ROLES[function["Role"]["Fn::GetAtt"][0]]
    return [s for policy in plain(role["Policies"]) for s in statements(policy["PolicyDocument"])]


def every_statement() -> list[tuple[str, dict[str, Any]]]:
    documents = [(name, p["PolicyDocument"]) for name, role in ROLES.items() for p in plain(role["Policies"])]
    documents += [(name, policy["PolicyDocument"]) for name, policy in POLICIES.items()]
    return [(name, statement) for name, document in documents for statement in statements(document)]


def variables(function: dict[str, Any]) -> dict[str, Any]:
    own = (function.get("Environment") or {}).get("Variables") or {}
    return {**TEMPLATE["Globals"]["Function"]["Environment"]["Variables"], **own}


def queues_of(function: dict[str, Any], action: str) -> set[str]:
    allowed = [s for s in own_statements(function) if action in listed(s["Action"])]
    return {resource["Fn::GetAtt"][0] for s in allowed for resource in listed(s["Resource"])}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_may_send_to_exactly_the_queues_that_it_is_told_of(name: str) -> None:
    told = {key: value["Ref"] for key, value in variables(FUNCTIONS[name]).items() if key.endswith("_QUEUE_URL")}
    told.pop("LANDFALL_OWN_QUEUE_URL", None)
    assert queues_of(FUNCTIONS[name], "sqs:SendMessage") == set(told.values())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_may_take_from_the_queue_that_invokes_it_and_from_no_other(name: str) -> None:
    own = {queue for function, queue in SOURCES if function == name}
    for action in ("ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility", "GetQueueAttributes"):
        assert queues_of(FUNCTIONS[name], f"sqs:{action}") == own
    told = variables(FUNCTIONS[name]).get("LANDFALL_OWN_QUEUE_URL", {})
    assert set(told.values()) == own


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_may_write_to_its_own_log_and_to_no_other(name: str) -> None:
    group = FUNCTIONS[name]["LoggingConfig"]["LogGroup"]["Ref"]
    allowed = [s for s in own_statements(FUNCTIONS[name]) if any("logs:" in a for a in listed(s["Action"]))]
    assert [(s["Action"], s["Resource"]) for s in allowed] == [
        (["logs:CreateLogStream", "logs:PutLogEvents"], {"Fn::GetAtt": [group, "Arn"]})
    ]
    suffix = FUNCTIONS[name]["FunctionName"]["Fn::Sub"]
    assert RESOURCES[group]["Properties"]["LogGroupName"] == {"Fn::Sub": f"/aws/lambda/{suffix}"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_a_role_of_its_own_and_no_policy_of_awss(name: str) -> None:
    assert "Policies" not in FUNCTIONS[name], "SAM passes over them: the role has them"
    role = FUNCTIONS[name]["Role"]["Fn::GetAtt"][0]
    assert [n for n, f in FUNCTIONS.items() if f["Role"]["Fn::GetAtt"][0] == role] == [name]
    for managed in plain(ROLES[role]["ManagedPolicyArns"]):
        assert managed["Ref"] in POLICIES


@pytest.mark.parametrize(
    ("owner", "statement"), [pytest.param(n, s, id=f"{n} {s.get('Sid')}") for n, s in every_statement()]
)
def test_nothing_is_allowed_with_a_wildcard_but_what_is_reasoned_about(owner: str, statement: dict[str, Any]) -> None:
    if statement["Effect"] == "Deny":
        return
    assert not any("*" in action for action in listed(statement["Action"]))
    if statement["Sid"] not in EVERYWHERE:
        assert "*" not in str(statement["Resource"])


def test_whatever_is_allowed_everywhere_has_its_reason_beside_it() -> None:
    lines = [line for line in Path("template.yaml").read_text().splitlines() if re.search(r'Resource: "\*"', line)]
    reasoned = [line for line in lines if "#" in line]
    denied = sum(s["Effect"] == "Deny" and s["Resource"] == "*" for _, s in every_statement())
    key_policy = RESOURCES["Key"]["Properties"]["KeyPolicy"]["Statement"]  # has one comment for all
    assert len(reasoned) == len(EVERYWHERE) == len(lines) - denied - len(key_policy)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_variable_is_one_that_the_settings_know(name: str) -> None:
    known = {f"{PREFIX}{field.upper()}" for field in Settings.model_fields}
    assert {key for key in variables(FUNCTIONS[name]) if key.startswith(PREFIX)} <= known


@pytest.mark.parametrize("name", QUEUES)
def test_a_queue_is_encrypted_and_has_a_policy_that_refuses_plain_http(name: str) -> None:
    if name == "UndeliveredQueue":  # its messages come when the stack's key cannot be used
        assert QUEUES[name]["SqsManagedSseEnabled"] is True
    else:
        assert QUEUES[name]["SqsManagedSseEnabled"] == {"Fn::If": ["HasKey", NO_VALUE, True]}
        assert QUEUES[name]["KmsMasterKeyId"] == KEY_OR_NONE
    policies = of_type("AWS::SQS::QueuePolicy").values()
    (policy,) = (p for p in policies if p["Queues"] == [{"Ref": name}])
    (denial,) = (s for s in policy["PolicyDocument"]["Statement"] if s["Effect"] == "Deny")
    assert denial["Principal"] == "*"
    assert denial["Condition"] == {"Bool": {"aws:SecureTransport": False}}
    assert denial["Resource"] == {"Fn::GetAtt": [name, "Arn"]}


def test_only_our_own_rule_bus_and_topic_may_send_to_a_queue_from_outside() -> None:
    policies = of_type("AWS::SQS::QueuePolicy").values()
    allowed = [
        (p["Queues"][0]["Ref"], s) for p in policies for s in p["PolicyDocument"]["Statement"] if s["Effect"] == "Allow"
    ]
    rule, bus = ({"Fn::GetAtt": [id_, "Arn"]} for id_ in ("ChangesRule", "EventBus"))
    assert [(queue, s["Principal"], s["Action"], s["Condition"]) for queue, s in allowed] == [
        (queue, {"Service": service}, "sqs:SendMessage", {"ArnEquals": {"aws:SourceArn": source}})
        for queue, service, source in (
            ("ChangesQueue", "events.amazonaws.com", rule),
            ("ChangesQueue", "sns.amazonaws.com", {"Ref": "ChangesTopic"}),
            ("UndeliveredQueue", "events.amazonaws.com", [rule, bus]),
            ("UndeliveredQueue", "sns.amazonaws.com", {"Ref": "ChangesTopic"}),
        )
    ]


def test_with_a_customers_key_everything_at_rest_is_encrypted_with_it() -> None:
    at_rest = [
        *((group, group_["KmsKeyId"]) for group, group_ in of_type("AWS::Logs::LogGroup").items()),
        *((bus, bus_["KmsKeyIdentifier"]) for bus, bus_ in of_type("AWS::Events::EventBus").items()),
        ("functions", TEMPLATE["Globals"]["Function"]["KmsKeyArn"]),
    ]
    assert [name for name, key in at_rest if key != KEY_OR_NONE] == []
    assert RESOURCES["ChangesTopic"]["Properties"]["KmsMasterKeyId"]["Fn::If"][:2] == ["HasKey", CUSTOMER_KEY]
    assert len(at_rest) == len(FUNCTIONS) + 2


def test_the_created_key_admits_who_writes_with_it() -> None:
    policy = RESOURCES["Key"]["Properties"]["KeyPolicy"]["Statement"]
    admitted = {str(name) for s in policy for name in listed(s["Principal"].get("Service", []))}
    assert {"events.amazonaws.com", "sns.amazonaws.com"} <= admitted
    assert any("logs.${AWS::Region}" in name for name in admitted)
    for statement in policy:
        assert "Service" not in statement["Principal"] or statement["Condition"]


@pytest.mark.parametrize("queue", [queue for _, queue in SOURCES])
def test_a_dead_letter_queue_takes_from_its_own_queue_and_from_no_other(queue: str) -> None:
    redrive = QUEUES[queue]["RedrivePolicy"]
    dead = redrive["deadLetterTargetArn"]["Fn::GetAtt"][0]
    assert redrive["maxReceiveCount"] == 6
    assert QUEUES[dead]["MessageRetentionPeriod"] == 14 * 86400
    name = QUEUES[queue]["QueueName"]["Fn::Sub"]
    arn = {"Fn::Sub": f"arn:${{AWS::Partition}}:sqs:${{AWS::Region}}:${{AWS::AccountId}}:{name}"}
    assert QUEUES[dead]["RedriveAllowPolicy"] == {"redrivePermission": "byQueue", "sourceQueueArns": [arn]}
    assert QUEUES[dead]["QueueName"]["Fn::Sub"] == f"{name}-dead-letter"


@pytest.mark.parametrize(("function", "queue"), SOURCES)
def test_a_queue_hides_a_message_six_times_as_long_as_its_function_may_take(function: str, queue: str) -> None:
    assert QUEUES[queue]["VisibilityTimeout"] >= 6 * FUNCTIONS[function].get("Timeout", TIMEOUT)


@pytest.mark.parametrize(("function", "queue"), SOURCES)
def test_a_lone_message_waits_for_no_window_and_batches_are_answered_in_part(function: str, queue: str) -> None:
    source = SOURCES[function, queue]
    assert source["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert source.get("MaximumBatchingWindowInSeconds", 0) == 0
    assert source["BatchSize"] == 10  # without a window, Lambda takes no more
    assert source["ScalingConfig"]["MaximumConcurrency"]


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
    assert FUNCTIONS[name]["FunctionName"] == {"Fn::Sub": f"${{AWS::StackName}}-{folder[1]}"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_functions_logs_do_not_stay_for_ever(name: str) -> None:
    group = RESOURCES[FUNCTIONS[name]["LoggingConfig"]["LogGroup"]["Ref"]]
    assert group["Properties"]["RetentionInDays"] == {"Ref": "LogRetentionDays"}


def test_every_queue_and_every_function_has_its_alarms() -> None:
    watched = {
        (alarm["MetricName"], str(alarm["Dimensions"][0]["Value"]))
        for alarm in ALARMS.values()
        if "MetricName" in alarm
    }
    unready = ("DestinationsNotReady", "StateStoresNotReady", "WorkPlacementsFailing")
    expected = {(metric, str({"Ref": "AWS::StackName"})) for metric in unready}
    expected.add(("Ticks", str({"Fn::Sub": "${AWS::StackName}-resync"})))
    expected.add(("ApproximateNumberOfMessagesVisible", str({"Fn::GetAtt": ["UndeliveredQueue", "QueueName"]})))
    for _, queue in SOURCES:
        dead = QUEUES[queue]["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"][0]
        expected.add(("ApproximateAgeOfOldestMessage", str({"Fn::GetAtt": [queue, "QueueName"]})))
        expected.add(("ApproximateNumberOfMessagesVisible", str({"Fn::GetAtt": [dead, "QueueName"]})))
    expected |= {("Errors", str({"Ref": name})) for name in FUNCTIONS}
    assert watched == expected
    throttled = [m["MetricStat"]["Metric"] for m in ALARMS["ThrottlesAlarm"]["Metrics"] if "MetricStat" in m]
    assert {m["Dimensions"][0]["Value"]["Ref"] for m in throttled} == set(FUNCTIONS)


@pytest.mark.parametrize("name", ALARMS)
def test_an_alarm_tells_the_topic_that_it_is_given_and_what_to_look_at(name: str) -> None:
    alarm = ALARMS[name]
    assert alarm["AlarmActions"] == {"Fn::If": ["HasAlarmTopic", [{"Ref": "AlarmTopicArn"}], NO_VALUE]}
    assert alarm["OKActions"] == alarm["AlarmActions"]
    assert len(alarm["AlarmDescription"]) > 40
    silence = name in {"ForwarderSilentAlarm", "ResyncMissingAlarm"}
    assert alarm["TreatMissingData"] in ({"breaching"} if silence else {"notBreaching", "ignore"})


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_is_described_checked_grouped_and_labelled(name: str) -> None:
    parameter = PARAMETERS[name]
    assert len(parameter["Description"]) > 20
    assert "Default" in parameter
    assert {"AllowedPattern", "AllowedValues", "MinValue"} & parameter.keys()
    if "AllowedValues" not in parameter:
        assert parameter["ConstraintDescription"]
    interface = TEMPLATE["Metadata"]["AWS::CloudFormation::Interface"]
    assert [name in group["Parameters"] for group in interface["ParameterGroups"]].count(True) == 1
    assert interface["ParameterLabels"][name]["default"]


PATTERNS = [
    ("KmsKeyArns", "arn:aws-cn:kms:cn-north-1:123456789012:key/12345678-1234-1234-1234-123456789012", True),
    ("KmsKeyArns", "arn:aws:kms:eu-west-1:123456789012:key/mrk-0123456789abcdef0123456789abcdef", True),
    ("KmsKeyArns", "arn:aws:kms:eu-west-1:123456789012:alias/mine", False),
    ("KmsKeyArns", "arn:aws:kms:eu-west-1:123456789012:key/*", False),
    ("AllowedNetworks", "10.0.0.0/8,fd00::/8", True),
    ("AllowedNetworks", "10.0.0.0", False),
    ("ResyncSchedule", "rate(1 hour)", True),
    ("ResyncSchedule", "10 minutes", False),
    ("ResyncSchedule", "rate(720 minutes)", True),
    ("ResyncSchedule", "rate(721 minutes)", False),
    ("ResyncSchedule", "rate(12 hours)", True),
    ("ResyncSchedule", "rate(13 hours)", False),
    ("ResyncSchedule", "rate(3 days)", True),
    ("ResyncSchedule", "rate(4 days)", False),
    ("ResyncSchedule", "cron(0 4 * * ? *)", True),
    ("IamBucketArns", "arn:aws:s3:::kratix", True),
    ("IamBucketArns", "arn:aws:s3:::*", False),
    ("IamBucketArns", "kratix", False),
    ("IamObjectArns", "arn:aws-cn:s3:::kratix/destinations/*", True),
    ("IamObjectArns", "arn:aws:s3:::*/*", False),
    ("VpcSubnetIds", "subnet-0123456789abcdef0", True),
    ("VpcSubnetIds", "sg-0123456789abcdef0", False),
    ("VpcSecurityGroupIds", "sg-01234567", True),
    ("EncryptionKey", "create", True),
    ("EncryptionKey", "arn:aws:kms:eu-west-1:123456789012:key/mrk-0123456789abcdef0123456789abcdef", True),
    ("EncryptionKey", "arn:aws:kms:eu-west-1:123456789012:alias/mine", False),
    ("AlarmTopicArn", "arn:aws:sns:eu-west-1:123456789012:pager", True),
    ("AlarmTopicArn", "pager", False),
    ("PermissionsBoundaryArn", "arn:aws:iam::123456789012:policy/team/boundary", True),
    ("PermissionsBoundaryArn", "boundary", False),
]


@pytest.mark.parametrize(("parameter", "value", "good"), PATTERNS, ids=[f"{p}={v}" for p, v, _ in PATTERNS])
def test_a_parameters_pattern_takes_what_is_meant_and_refuses_what_is_not(
    parameter: str, value: str, good: bool
) -> None:
    assert bool(re.search(PARAMETERS[parameter]["AllowedPattern"], value)) is good
