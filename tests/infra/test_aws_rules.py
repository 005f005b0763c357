"""What AWS's services do with one another, and that neither moto, cfn-lint nor checkov looks at.

The template is read as SAM transforms it, with its parameters put in. Each rule names its source.
tests/infra/test_aws_limits.py has sizes and numbers, test_aws_parameters.py what is given.
"""

import fnmatch
from typing import Any

import pytest

from tests.infra.resolved import ACCOUNT, Resolver
from tests.infra.test_aws_limits import Resources, found, listed, mappings, of_type

WORDS = {5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine", 10: "ten"}


def resolved(template: dict[str, Any], **given: str) -> Resources:
    return Resolver(template, "landfall", given).resources()


def named(resources: Resources, type_: str, name: str) -> dict[str, dict[str, Any]]:
    return {properties[name]: properties for properties in of_type(resources, type_).values()}


def queue_of(arn: str) -> str:
    return arn.rpartition(":")[2]


# ---------------------------------------------------------------- loops


def circles(resources: Resources) -> set[str]:
    """Return the names of functions whose messages come back to them, as their variables say where they send."""
    reads = {queue["QueueName"]: function["FunctionName"] for _, function, queue in mappings(resources)}
    sends: dict[str, set[str]] = {}
    for name, function in named(resources, "AWS::Lambda::Function", "FunctionName").items():
        urls = {key: url for key, url in function["Environment"]["Variables"].items() if key.endswith("_QUEUE_URL")}
        urls.pop("LANDFALL_OWN_QUEUE_URL", None)  # it takes from that one; what it sends there has a name of its own
        sends[name] = {reads[url.rpartition("/")[2]] for url in urls.values()}
    reached = {name: set(targets) for name, targets in sends.items()}
    for _ in sends:
        reached = {name: direct.union(*(reached[each] for each in direct)) for name, direct in reached.items()}
    return {name for name, all_ in reached.items() if name in all_}


def test_functions_that_send_in_a_circle_say_so_and_no_others(transformed: dict[str, Any]) -> None:
    # A message that has gone round about 16 times is dropped, unless the function allows it.
    # https://docs.aws.amazon.com/lambda/latest/dg/invocation-recursion.html
    # https://docs.aws.amazon.com/lambda/latest/api/API_PutFunctionRecursionConfig.html
    resources = resolved(transformed)
    functions = named(resources, "AWS::Lambda::Function", "FunctionName")
    allowed = {name for name, function in functions.items() if function.get("RecursiveLoop") == "Allow"}
    assert "landfall-write-canary" in circles(resources)
    assert "landfall-resync" not in circles(resources)
    assert allowed == circles(resources)


def test_where_lambda_drops_messages_there_is_an_alarm(transformed: dict[str, Any]) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/monitoring-metrics-types.html: RecursiveInvocationsDropped
    resources = resolved(transformed)
    functions = named(resources, "AWS::Lambda::Function", "FunctionName")
    dropping = {name for name, function in functions.items() if function.get("RecursiveLoop") != "Allow"}
    watched = {
        metric["Dimensions"][0]["Value"]
        for alarm in of_type(resources, "AWS::CloudWatch::Alarm").values()
        for metric in found(alarm, {"Metric"})
        if metric["MetricName"] == "RecursiveInvocationsDropped"
    }
    assert watched == dropping


# ---------------------------------------------------------------- logs and metrics


def test_no_level_of_logs_filters_metrics_away(transformed: dict[str, Any]) -> None:
    # Metrics in the embedded format have no level and count as INFO: Lambda drops them where its own level is higher.
    # https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-log-level.html
    levels = transformed["Parameters"]["LogLevel"]["AllowedValues"]
    assert {"DEBUG", "INFO", "WARNING", "ERROR"} <= set(levels)
    for level in levels:
        for function in of_type(resolved(transformed, LogLevel=level), "AWS::Lambda::Function").values():
            assert function["LoggingConfig"]["LogFormat"] == "JSON"
            own = function["LoggingConfig"]["ApplicationLogLevel"]
            assert own == ("DEBUG" if level == "DEBUG" else "INFO")
            assert function["Environment"]["Variables"]["POWERTOOLS_LOG_LEVEL"] == level


def test_invocations_are_traced_by_default_only_where_their_caller_is(transformed: dict[str, Any]) -> None:
    # Each sampled trace is paid for. https://docs.aws.amazon.com/xray/latest/devguide/xray-console-sampling.html
    for function in of_type(resolved(transformed), "AWS::Lambda::Function").values():
        assert function["TracingConfig"]["Mode"] == "PassThrough"


# ---------------------------------------------------------------- alarms


def windows(alarm: dict[str, Any]) -> list[tuple[int, int]]:
    """Return the periods of an alarm, and how many of each it looks at."""
    periods = [alarm["Period"]] if "Period" in alarm else list(found(alarm["Metrics"], {"Period"}))
    return [(int(period), int(alarm["EvaluationPeriods"])) for period in periods]


def test_alarms_look_at_no_more_than_cloudwatch_lets_them(transformed: dict[str, Any]) -> None:
    # A day where the period is under an hour, seven days otherwise; ten metrics at most.
    # https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricAlarm.html
    for name, alarm in of_type(resolved(transformed), "AWS::CloudWatch::Alarm").items():
        for period, count in windows(alarm):
            assert period in {10, 20, 30} or period % 60 == 0, name
            assert period * count <= (86_400 if period < 3600 else 604_800), name
        assert alarm.get("DatapointsToAlarm", 1) <= int(alarm["EvaluationPeriods"]), name
        assert len(alarm.get("Metrics", [])) <= 10, name


def test_an_alarm_of_a_scheduled_function_can_fire_however_slow_the_schedule_is(transformed: dict[str, Any]) -> None:
    # Between two invocations there is no data, and M out of N needs M data points in N periods.
    # https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarm-evaluation.html
    resources = resolved(transformed, ResyncSchedule="rate(1 day)")
    targets = {s["Target"]["Arn"] for s in of_type(resources, "AWS::Scheduler::Schedule").values()}
    functions = {arn.rpartition(":")[2] for arn in targets}
    assert functions == {"landfall-resync"}
    alarms = [
        alarm
        for alarm in of_type(resources, "AWS::CloudWatch::Alarm").values()
        if any(d["Name"] == "FunctionName" and d["Value"] in functions for d in alarm.get("Dimensions", []))
    ]
    assert alarms
    for alarm in alarms:
        assert alarm.get("DatapointsToAlarm", alarm["EvaluationPeriods"]) == 1
        assert alarm["TreatMissingData"] == "ignore"  # until the next invocation has succeeded


def test_an_alarm_of_dead_letters_says_after_how_many_tries(transformed: dict[str, Any]) -> None:
    resources = resolved(transformed)
    alarms = of_type(resources, "AWS::CloudWatch::Alarm").values()
    tries = {
        queue_of(queue["RedrivePolicy"]["deadLetterTargetArn"]): queue["RedrivePolicy"]["maxReceiveCount"]
        for queue in of_type(resources, "AWS::SQS::Queue").values()
        if "RedrivePolicy" in queue
    }
    for alarm in alarms:
        for dimension in alarm.get("Dimensions", []):
            if dimension["Value"] in tries:
                assert f"{WORDS[tries[dimension['Value']]]} times" in alarm["AlarmDescription"]
                assert alarm["Threshold"] == 0
    watched = {d["Value"] for alarm in alarms for d in alarm.get("Dimensions", []) if d["Name"] == "QueueName"}
    assert tries.keys() <= watched
    assert {queue_of(arn) for arn in undelivered(resources)} <= watched


# ---------------------------------------------------------------- queues and keys


def undelivered(resources: Resources) -> set[str]:
    """Return the ARNs of the queues for what EventBridge and SNS could not deliver."""
    arns = [config["Arn"] for r in resources.values() for config in found(r, {"DeadLetterConfig"})]
    for subscription in of_type(resources, "AWS::SNS::Subscription").values():
        arns.append(subscription["RedrivePolicy"]["deadLetterTargetArn"])
    return set(arns)


def senders(resources: Resources) -> set[tuple[str, str, str]]:
    """Return which service sends to which queue, and on behalf of what."""
    sent: set[tuple[str, str, str]] = set()
    bus = "arn:aws:events:us-east-1:{}:{}"
    for id_, rule in of_type(resources, "AWS::Events::Rule").items():
        for target in rule["Targets"]:
            for arn in (target["Arn"], target["DeadLetterConfig"]["Arn"]):
                sent.add(("events.amazonaws.com", arn, bus.format(ACCOUNT, f"rule/landfall-{id_}")))
    for each in of_type(resources, "AWS::Events::EventBus").values():
        if "DeadLetterConfig" in each:
            arn = each["DeadLetterConfig"]["Arn"]
            sent.add(("events.amazonaws.com", arn, bus.format(ACCOUNT, f"event-bus/{each['Name']}")))
    for subscription in of_type(resources, "AWS::SNS::Subscription").values():
        for arn in (subscription["Endpoint"], subscription["RedrivePolicy"]["deadLetterTargetArn"]):
            sent.add(("sns.amazonaws.com", arn, subscription["TopicArn"]))
    return sent


@pytest.mark.parametrize("key", ["aws", "create"])
def test_a_queue_admits_each_service_that_sends_to_it_and_no_other(transformed: dict[str, Any], key: str) -> None:
    # https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-rule-dlq.html
    # https://docs.aws.amazon.com/sns/latest/dg/sns-configure-dead-letter-queue.html
    resources = resolved(transformed, EncryptionKey=key)
    admitted = {
        (service, resource, source)
        for policy in of_type(resources, "AWS::SQS::QueuePolicy").values()
        for statement in policy["PolicyDocument"]["Statement"]
        if statement["Effect"] == "Allow"
        for service in listed(statement["Principal"]["Service"])
        for resource in listed(statement["Resource"])
        for source in listed(statement["Condition"]["ArnEquals"]["aws:SourceArn"])
    }
    assert senders(resources) <= admitted
    assert {(service, queue) for service, queue, _ in admitted} == {(s, q) for s, q, _ in senders(resources)}


def test_a_key_admits_each_service_that_writes_with_it(transformed: dict[str, Any]) -> None:
    # https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-key-management.html
    # https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-encryption-key-policy.html
    # https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/encrypt-log-data-kms.html
    resources = resolved(transformed, EncryptionKey="create")
    (key,) = of_type(resources, "AWS::KMS::Key").values()
    queues = named(resources, "AWS::SQS::Queue", "QueueName")
    needed = {
        (service, action)
        for service, queue, _ in senders(resources)
        if "KmsMasterKeyId" in queues[queue_of(queue)]
        for action in ("kms:Decrypt", "kms:GenerateDataKey")
    }
    assert {service for service, _ in needed} == {"events.amazonaws.com", "sns.amazonaws.com"}
    if any("KmsKeyIdentifier" in bus for bus in of_type(resources, "AWS::Events::EventBus").values()):
        needed.add(("events.amazonaws.com", "kms:DescribeKey"))
    groups = of_type(resources, "AWS::Logs::LogGroup").values()
    assert all("KmsKeyId" in group for group in groups)
    actions = ("kms:Encrypt", "kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:GenerateDataKey")
    needed |= {("logs.us-east-1.amazonaws.com", action) for action in (*actions, "kms:DescribeKey")}
    admitted = {
        (service, action)
        for statement in key["KeyPolicy"]["Statement"]
        for service in listed(statement["Principal"].get("Service", []))
        for action in listed(statement["Action"])
    }
    assert needed <= admitted
    (condition,) = (
        s["Condition"] for s in key["KeyPolicy"]["Statement"] if "logs" in str(s["Principal"].get("Service"))
    )
    pattern = condition["ArnLike"]["kms:EncryptionContext:aws:logs:arn"]
    for group in groups:
        assert fnmatch.fnmatchcase(f"arn:aws:logs:us-east-1:{ACCOUNT}:log-group:{group['LogGroupName']}", pattern)


def test_what_eventbridge_and_sns_cannot_deliver_has_a_queue_of_its_own(transformed: dict[str, Any]) -> None:
    # StartMessageMoveTask moves what came from a queue, and nothing else.
    # https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_StartMessageMoveTask.html
    resources = resolved(transformed)
    queues = of_type(resources, "AWS::SQS::Queue").values()
    of_queues = {q["RedrivePolicy"]["deadLetterTargetArn"] for q in queues if "RedrivePolicy" in q}
    assert undelivered(resources)
    assert undelivered(resources) & of_queues == set()


def test_a_dead_letter_queue_admits_its_queue_and_no_other(transformed: dict[str, Any]) -> None:
    # https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-dead-letter-queues.html
    queues = named(resolved(transformed), "AWS::SQS::Queue", "QueueName")
    sources = {name: q["RedrivePolicy"]["deadLetterTargetArn"] for name, q in queues.items() if "RedrivePolicy" in q}
    for name, arn in sources.items():
        allowed = queues[queue_of(arn)]["RedriveAllowPolicy"]
        assert allowed["redrivePermission"] == "byQueue"
        assert [queue_of(source) for source in allowed["sourceQueueArns"]] == [name]
    # All are standard queues: a FIFO queue's dead letters need a FIFO queue, and events and topics a standard one.
    assert not any("FifoQueue" in queue or name.endswith(".fifo") for name, queue in queues.items())


def test_a_bus_with_a_key_has_a_queue_for_what_the_key_fails_on_which_does_not_need_that_key(
    transformed: dict[str, Any],
) -> None:
    # https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-encryption-event-bus-dlq.html
    resources = resolved(transformed, EncryptionKey="create")
    queues = named(resources, "AWS::SQS::Queue", "QueueName")
    for bus in of_type(resources, "AWS::Events::EventBus").values():
        assert "KmsKeyIdentifier" in bus
        assert "KmsMasterKeyId" not in queues[queue_of(bus["DeadLetterConfig"]["Arn"])]


def test_a_key_that_the_stack_made_is_kept_but_where_the_stack_is_rolled_back(transformed: dict[str, Any]) -> None:
    # https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-attribute-deletionpolicy.html
    (key,) = (r for r in transformed["Resources"].values() if r["Type"] == "AWS::KMS::Key")
    assert (key.get("DeletionPolicy"), key.get("UpdateReplacePolicy")) == ("RetainExceptOnCreate", "Retain")


# ---------------------------------------------------------------- concurrency


@pytest.mark.parametrize("size", ["standard", "small"])
def test_functions_run_at_once_as_often_as_lambda_and_a_new_account_let_them(
    transformed: dict[str, Any], size: str
) -> None:
    # Between 2 and 1,000. https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html
    given = {"Concurrency": size} if size != "standard" else {}
    at_once = [
        mapping["ScalingConfig"]["MaximumConcurrency"] for mapping, _, _ in mappings(resolved(transformed, **given))
    ]
    assert all(2 <= number <= 1000 for number in at_once)
    # A new account may have 10. Six queues cannot ask for less than 12; more than that, and the resync, would leave
    # nothing to others. https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
    assert sum(at_once) <= (12 if size == "small" else 100)
