"""The alarms: whether they exist, their state, and their actions."""

from typing import Any, Final

from infra.checks.aws import Unanswered
from infra.checks.lines import Line, failed, not_checked, ok
from infra.checks.look import Look
from infra.checks.stack import ALARM

_AT_ONCE: Final = 100  # names that DescribeAlarms takes


async def states(look: Look) -> list[Line]:
    """Check that every alarm of the stack is there and none is in state ALARM."""
    names = sorted(look.stack.of_type(ALARM).values())
    if not names:
        return [not_checked("alarms", "CloudFormation lists no AWS::CloudWatch::Alarm of this stack")]
    found = {alarm["AlarmName"]: alarm for alarm in await _alarms(look, names)}
    lines: list[Line] = []
    for name in names:
        alarm, what = found.get(name), f"alarm {name.removeprefix(f'{look.stack.name}-')}"
        if alarm is None:
            lines.append(failed(what, "is gone", "deploy the template again: it was deleted"))
        elif alarm["StateValue"] == "ALARM":
            seen = f"ALARM: {alarm.get('AlarmDescription', '')}".rstrip(": ")
            lines.append(failed(what, seen, "see its row in docs/operations.md, Alarms"))
        elif not alarm.get("ActionsEnabled", True):
            todo = f"`aws cloudwatch enable-alarm-actions --alarm-names {name}`"
            lines.append(failed(what, "its actions are switched off", todo))
    unknown = sum(alarm["StateValue"] == "INSUFFICIENT_DATA" for alarm in found.values())
    without = f", {unknown} of them without data so far" if unknown else ""
    good = len(names) - len(lines)
    return [*lines, ok("alarms", f"{good} of {len(names)} are there and quiet{without}")] if good else lines


async def actions(look: Look) -> list[Line]:
    """Check that alarms notify a topic, and that the topic has subscribers."""
    what, topic = "topic of the alarms", look.stack.parameters.get("AlarmTopicArn", "")
    if not topic:
        return [ok(what, "none: alarms are seen in the console alone; AlarmTopicArn names a topic")]
    names = sorted(look.stack.of_type(ALARM).values())
    lines: list[Line] = []
    if names:
        silent = [a["AlarmName"] for a in await _alarms(look, names) if topic not in a.get("AlarmActions", ())]
        if silent:
            todo = "deploy the template again: their actions were changed"
            lines.append(failed(what, f"{', '.join(silent)} do not notify {topic}", todo))
    try:
        found = await look.aws.pages("sns", "list_subscriptions_by_topic", "Subscriptions", TopicArn=topic)
    except Unanswered as error:
        if error.code in {"NotFound", "NotFoundException"}:
            return [
                *lines,
                failed(what, f"there is no {topic}", "create it, or correct AlarmTopicArn and deploy again"),
            ]
        return [*lines, not_checked(what, str(error))]
    confirmed = [one for one in found if one["SubscriptionArn"].startswith("arn:")]  # else: PendingConfirmation
    if not confirmed:
        subscribe = f"aws sns subscribe --topic-arn {topic} --protocol email --notification-endpoint YOUR-ADDRESS"
        return [*lines, failed(what, "it has no subscriber", f"`{subscribe}`, and confirm the subscription")]
    return [*lines, ok(what, f"subscriptions: {len(confirmed)}")]


async def _alarms(look: Look, names: list[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for at in range(0, len(names), _AT_ONCE):
        some = names[at : at + _AT_ONCE]
        for key in ("MetricAlarms", "CompositeAlarms"):
            kind = [key.removesuffix("s")]
            found += await look.aws.pages("cloudwatch", "describe_alarms", key, AlarmNames=some, AlarmTypes=kind)
    return found
