"""The checks of the stack, its functions, its queues and its alarms: well, and in each way that they can fail.

What moto has not is answered in the shape of AWS's API reference (`World.answer`), over HTTP, to botocore's parsers.
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from infra.checks.lines import Result
from infra.checks.stack import LOG_GROUP, MAPPING, QUEUE
from tests.infra.checks.world import (
    ALARM,
    DENIED,
    GONE,
    MAPPINGS,
    NAME,
    World,
    all_ok,
    failure,
    lines_of,
    told,
    with_parameters,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMITS = "GET /2016-08-19/account-settings/?"


# ---------------------------------------------------------------- the stack and its functions


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ("UPDATE_COMPLETE", ""),
        ("UPDATE_ROLLBACK_COMPLETE", "describe-stack-events"),
        ("ROLLBACK_COMPLETE", "describe-stack-events"),
        ("UPDATE_IN_PROGRESS", "wait until it is done"),
    ],
)
async def test_the_last_deployment(here: World, status: str, says: str) -> None:
    async with here.look() as look:
        look.stack = dataclasses.replace(look.stack, status=status)
        lines = await lines_of(look, "last deployment")
    assert says in failure(lines) if says else all_ok(lines)


@pytest.mark.parametrize(
    ("whole", "unreserved", "well"), [(1000, 1000, True), (10, 10, False), (1000, 20, False), (33, 33, True)]
)
async def test_the_quota_must_be_enough_for_all_mappings_and_the_resync(
    here: World, whole: int, unreserved: int, well: bool
) -> None:
    limits = {"ConcurrentExecutions": whole, "UnreservedConcurrentExecutions": unreserved}
    here.answer(LIMITS, 200, {"AccountLimit": limits, "AccountUsage": {"FunctionCount": 7}})
    async with here.look() as look:
        lines = await lines_of(look, "concurrent executions")
    assert "33 are needed" in str(lines[0])
    assert all_ok(lines) if well else "Service Quotas" in failure(lines)


@pytest.mark.parametrize(("unreserved", "well"), [(10, True), (9, False)])
async def test_a_small_deployment_lives_with_the_quota_of_a_new_account(
    here: World, unreserved: int, well: bool
) -> None:
    limits = {"ConcurrentExecutions": 10, "UnreservedConcurrentExecutions": unreserved}
    here.answer(LIMITS, 200, {"AccountLimit": limits, "AccountUsage": {}})
    async with here.look() as look:
        assert "deploy with Concurrency=small" in failure(await lines_of(look, "concurrent executions"))
        with_parameters(look, Concurrency="small")
        lines = await lines_of(look, "concurrent executions")
    assert all_ok(lines) if well else "Service Quotas" in failure(lines)


async def test_what_is_reserved_for_the_functions_counts_for_them(here: World) -> None:
    limits = {"ConcurrentExecutions": 100, "UnreservedConcurrentExecutions": 20}
    here.answer(LIMITS, 200, {"AccountLimit": limits, "AccountUsage": {}})
    here.answer(f"GET /2019-09-30/functions/{NAME}-write-canary/concurrency", 200, {"ReservedConcurrentExecutions": 80})
    async with here.look() as look:
        assert all_ok(await lines_of(look, "concurrent executions"))


async def test_a_refusal_and_an_answer_of_another_shape_leave_a_check_unchecked(here: World) -> None:
    here.refuse(LIMITS, *DENIED)
    async with here.look() as look:
        (line,) = await lines_of(look, "concurrent executions")
        assert line.result is Result.NOT_CHECKED
        assert "lambda:GetAccountSettings is not allowed to the credentials in use" in line.text
        here.answer(LIMITS, 200, {"anything": 1})
        (line,) = await lines_of(look, "concurrent executions")
    assert line.result is Result.NOT_CHECKED
    assert "another shape" in line.text


@pytest.mark.parametrize(
    ("configuration", "says"),
    [
        ({"State": "Active", "LastUpdateStatus": "Successful"}, ""),
        (
            {"State": "Active", "LastUpdateStatus": "Failed", "LastUpdateStatusReason": "the key is gone"},
            "the key is gone",
        ),
        ({"State": "Failed", "StateReason": "no subnet"}, "no subnet"),
        ({"State": "Inactive", "StateReason": "idle", "LastUpdateStatus": "Successful"}, "which wakes it"),
        ({"State": "Deactivated", "LastUpdateStatus": "Successful"}, "no reason is given"),
        ({"State": "Pending", "LastUpdateStatus": "InProgress"}, "wait a minute"),
    ],
    ids=["active", "update failed", "failed", "inactive", "deactivated", "pending"],
)
async def test_the_state_of_a_function(here: World, configuration: dict[str, str], says: str) -> None:
    path = f"GET /2015-03-31/functions/{NAME}-write-canary/configuration"
    here.answer(path, 200, {"FunctionName": f"{NAME}-write-canary", **configuration})
    async with here.look() as look:
        lines = await lines_of(look, "functions")
    assert len(lines) == len(here.roles())
    assert says in failure(lines, "write-canary") if says else all_ok(lines)


async def test_a_function_that_is_gone_or_never_runs_is_noticed(here: World) -> None:
    here.refuse(f"GET /2015-03-31/functions/{NAME}-cleanup/configuration", *GONE)
    here.answer(f"GET /2019-09-30/functions/{NAME}-resync/concurrency", 200, {"ReservedConcurrentExecutions": 0})
    async with here.look() as look:
        lines = await lines_of(look, "functions")
    assert "is gone" in failure(lines, "cleanup")
    assert f"delete-function-concurrency --function-name {NAME}-resync" in failure(lines, "resync")


async def test_mappings_that_are_disabled_gone_or_in_trouble_are_noticed(here: World) -> None:
    async with here.look() as look:
        lines = await lines_of(look, "event source mappings")
        assert all_ok(lines)
        assert len(lines) == 6
        del here.eks.answers[MAPPINGS]  # as moto has them
        lines = await lines_of(look, "event source mappings")
        assert len(told(lines, Result.FAILED)) == 6
        assert "Disabled: its messages wait. Do: `aws lambda update-event-source-mapping --uuid" in str(lines[0])
        uuid = look.stack.of_type(MAPPING)["WriteCanaryFunctionCanaries"]
        here.put_right()
        here.refuse(f"GET /2015-03-31/event-source-mappings/{uuid}/?", *GONE)
        assert "1 of 6 are gone" in failure(await lines_of(look, "event source mappings"))
        here.put_right()
        arn = f"arn:aws:lambda:us-east-1:123456789012:function:{NAME}-write-canary"
        trouble = {
            "UUID": uuid,
            "FunctionArn": arn,
            "State": "Enabled",
            "LastProcessingResult": "PROBLEM: denied",
        }
        here.answer(f"GET /2015-03-31/event-source-mappings/{uuid}/?", 200, trouble)
        assert "PROBLEM: denied" in failure(await lines_of(look, "event source mappings"), "write-canary")


async def test_log_groups_that_are_gone_or_keep_logs_for_another_time_are_noticed(here: World) -> None:
    logs, name = here.client("logs"), f"/aws/lambda/{NAME}-resync"
    async with here.look() as look:
        assert name in look.stack.of_type(LOG_GROUP).values()
        assert all_ok(await lines_of(look, "log groups"))
        logs.delete_log_group(logGroupName=name)
        assert "is gone" in failure(await lines_of(look, "log groups"))
        logs.create_log_group(logGroupName=name)
        assert "an unlimited number of days" in failure(await lines_of(look, "log groups"))
        logs.put_retention_policy(logGroupName=name, retentionInDays=30)
        assert all_ok(await lines_of(look, "log groups"))


# ---------------------------------------------------------------- queues and alarms


def age(here: World, queue: str, seconds: float, minutes_ago: float) -> None:
    datum = {
        "MetricName": "ApproximateAgeOfOldestMessage",
        "Dimensions": [{"Name": "QueueName", "Value": f"{NAME}-{queue}"}],
        "Timestamp": datetime.now(UTC) - timedelta(minutes=minutes_ago),
        "Value": seconds,
    }
    here.client("cloudwatch").put_metric_data(Namespace="AWS/SQS", MetricData=[datum])


async def test_messages_that_wait_too_long_are_noticed(here: World) -> None:
    async with here.look() as look:
        lines = await lines_of(look, "queues")
        assert all_ok(lines)
        assert len(lines) == 6
        age(here, "works", 7200, 5)
        assert "waits for 7200 s, over 1800" in failure(await lines_of(look, "queues"), "queue works")
        age(here, "works", 3, 1)
        assert all_ok(await lines_of(look, "queues"))
        with_parameters(look, OldestMessageSeconds="2")
        assert "over 2" in failure(await lines_of(look, "queues"), "queue works")


async def test_a_queue_that_is_gone_is_noticed(here: World) -> None:
    url = here.client("sqs").get_queue_url(QueueName=f"{NAME}-works")["QueueUrl"]
    async with here.look(GoneQueue=(QUEUE, url.replace("-works", "-gone"))) as look:
        assert "GoneQueue is gone" in failure(await lines_of(look, "queues"))


async def test_dead_letters_are_noticed_in_every_queue_without_a_redrive_policy(here: World) -> None:
    sqs = here.client("sqs")
    url = sqs.get_queue_url(QueueName=f"{NAME}-documents-dead-letter")["QueueUrl"]
    own = sqs.create_queue(QueueName=f"{NAME}-put-aside")["QueueUrl"]
    async with here.look(PutAsideQueue=(QUEUE, own)) as look:
        lines = await lines_of(look, "dead-letter queues")
        assert all_ok(lines)
        known = {line.what for line in lines}
        assert {"queue put-aside", "queue documents-dead-letter"} <= known
        assert "queue documents" not in known
        sqs.send_message(QueueUrl=url, MessageBody="{}")
        sqs.send_message(QueueUrl=own, MessageBody="{}", DelaySeconds=900)
        lines = await lines_of(look, "dead-letter queues")
        assert "1 messages were put aside" in failure(lines, "documents-dead-letter")
        assert "1 messages were put aside" in failure(lines, "put-aside")
        sqs.purge_queue(QueueUrl=url)
    sqs.delete_queue(QueueUrl=own)


async def test_alarms_that_are_gone_that_ring_or_that_are_switched_off_are_noticed(here: World) -> None:
    cloudwatch = here.client("cloudwatch")
    names = {"AAlarm": f"{NAME}-well", "BAlarm": f"{NAME}-rings", "CAlarm": f"{NAME}-off", "DAlarm": f"{NAME}-gone"}
    for name in list(names.values())[:3]:
        alarm(here, name, [])
    cloudwatch.set_alarm_state(AlarmName=f"{NAME}-well", StateValue="OK", StateReason="tried")
    cloudwatch.set_alarm_state(AlarmName=f"{NAME}-rings", StateValue="ALARM", StateReason="tried")
    cloudwatch.disable_alarm_actions(AlarmNames=[f"{NAME}-off"])
    async with here.look(**{id_: (ALARM, name) for id_, name in names.items()}) as look:
        lines = await lines_of(look, "alarms")
    assert "ALARM: what it means" in failure(lines, "alarm rings")
    assert "enable-alarm-actions" in failure(lines, "alarm off")
    assert "is gone" in failure(lines, "alarm gone")
    assert "1 of 4 are there and quiet" in told(lines, Result.OK)[0]


async def test_a_topic_that_tells_nobody_is_noticed(here: World) -> None:
    sns, what, name = here.client("sns"), "topic of the alarms", f"{NAME}-told"
    arn = sns.create_topic(Name="alarms")["TopicArn"]
    alarm(here, name, [arn])
    async with here.look(AAlarm=(ALARM, name)) as look:
        assert "the console alone" in told(await lines_of(look, what), Result.OK)[0]
        with_parameters(look, AlarmTopicArn=f"{arn}-gone")
        lines = await lines_of(look, what)
        assert [line.todo.split()[0] for line in lines if line.todo] == ["deploy", "create"], "not told, and no topic"
        with_parameters(look, AlarmTopicArn=arn)
        assert "it has no subscriber" in failure(await lines_of(look, what))
        queue = here.stack.outputs()["ChangesQueueArn"]
        sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=queue)
        assert all_ok(await lines_of(look, what))
        sns.delete_topic(TopicArn=arn)


def alarm(here: World, name: str, actions: list[str]) -> None:
    here.client("cloudwatch").put_metric_alarm(
        AlarmName=name,
        AlarmDescription="what it means",
        AlarmActions=actions,
        Namespace="Landfall",
        MetricName="Ticks",
        Statistic="Sum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=1,
        ComparisonOperator="GreaterThanThreshold",
    )
