"""The stack, its functions, what invokes them, and the account's quota for them."""

from typing import Any, Final

from infra.checks.aws import Unanswered
from infra.checks.lines import Line, failed, not_checked, ok
from infra.checks.look import Look
from infra.checks.stack import LOG_GROUP, MAPPING

_WORKING: Final = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE")
_LEAST: Final = 10  # the quota of a new account, which Concurrency=small is for
_MISSING: Final = "ResourceNotFoundException"


async def stack(look: Look) -> list[Line]:
    """Check that the last deployment went through."""
    status = look.stack.status
    if status in _WORKING:
        return [ok("last deployment", status)]
    if status.endswith("_IN_PROGRESS"):
        return [failed("last deployment", status, "wait until it is done, and run this again")]
    events = f"aws cloudformation describe-stack-events --stack-name {look.stack.name}"
    return [failed("last deployment", status, f"see why with `{events}`, and deploy again")]


async def quota(look: Look) -> list[Line]:
    """Check that the account lets as many executions run at once as the event source mappings ask for.

    New accounts begin with a quota of 10 (AWS Lambda, "Lambda quotas"); a mapping's maximum concurrency takes no note
    of it, so functions are throttled and messages come again and again.
    """
    what = "concurrent executions"
    limits = (await look.aws.call("lambda", "get_account_settings"))["AccountLimit"]
    whole, unreserved = limits["ConcurrentExecutions"], limits["UnreservedConcurrentExecutions"]
    reserved = 0
    for name in look.stack.functions.values():
        reserved += (await _concurrency(look, name)) or 0
    needed = sum(_maximum(mapping) for mapping in await _mappings(look)) + 1  # resync has no mapping
    have = unreserved + reserved
    seen = f"{needed} are needed at most; of the account's {whole}, {have} are there for this stack"
    if have >= needed:
        return [ok(what, seen)]
    request = "request more at Service Quotas (AWS Lambda, Concurrent executions, L-B99A9384)"
    if look.stack.parameters.get("Concurrency") != "small":
        return [failed(what, seen, f"{request}; until it is granted, deploy with Concurrency=small")]
    if have < _LEAST:
        return [failed(what, seen, request)]
    return [ok(what, f"{seen}; with Concurrency=small, throttled messages are redelivered later")]


async def functions(look: Look) -> list[Line]:
    """Check that each function is active and runs what was deployed last."""
    if not look.stack.functions:
        return [failed("functions", "the stack has none", "deploy the template again")]
    return [await _function(look, short, name) for short, name in look.stack.functions.items()]


async def mappings(look: Look) -> list[Line]:
    """Check that each queue invokes its function."""
    lines: list[Line] = []
    for mapping in await _mappings(look):
        function = mapping["FunctionArn"].rpartition(":function:")[2].partition(":")[0]
        what = f"event source mapping of {function.removeprefix(f'{look.stack.name}-')}"
        state = mapping["State"]
        if state == "Enabled":
            last = mapping.get("LastProcessingResult", "")
            trouble = last.startswith("PROBLEM")
            todo = "mend what the sentence names, usually a right of the function's role"
            lines.append(failed(what, f"Enabled, and {last}", todo) if trouble else ok(what, _shown(mapping)))
        elif state in {"Creating", "Enabling", "Updating"}:
            lines.append(failed(what, state, "wait a minute, and run this again"))
        else:
            enable = f"aws lambda update-event-source-mapping --uuid {mapping['UUID']} --enabled"
            lines.append(failed(what, f"{state}: its messages wait", f"`{enable}`"))
    declared = len(look.stack.of_type(MAPPING))
    if len(lines) < declared:
        todo = "deploy the template again: they were deleted"
        lines.append(failed("event source mappings", f"{declared - len(lines)} of {declared} are gone", todo))
    return lines


async def log_groups(look: Look) -> list[Line]:
    """Check that the log groups are there and keep logs for as long as was asked for."""
    names = sorted(look.stack.of_type(LOG_GROUP).values())
    days = look.stack.parameters.get("LogRetentionDays", "")
    lines: list[Line] = []
    for name in names:
        found = await look.aws.call("logs", "describe_log_groups", logGroupNamePrefix=name)
        group = next((g for g in found["logGroups"] if g["logGroupName"] == name), None)
        if group is None:
            lines.append(failed(f"log group {name}", "is gone", "deploy the template again: the function logs nowhere"))
        elif days and str(group.get("retentionInDays", "")) != days:
            keep = f"aws logs put-retention-policy --log-group-name {name} --retention-in-days {days}"
            kept = f"keeps logs for {group.get('retentionInDays', 'an unlimited number of')} days"
            lines.append(failed(f"log group {name}", kept, f"`{keep}`, as LogRetentionDays says"))
    return lines or [ok("log groups", f"all {len(names)} are there and keep logs for {days} days")]


async def _function(look: Look, short: str, name: str) -> Line:
    try:
        found = await look.configuration(name)
        concurrency = await _concurrency(look, name)
    except Unanswered as error:
        if error.code == _MISSING:
            return failed(short, "the function is gone", "deploy the template again: it was deleted")
        return not_checked(short, str(error))
    state, update = found.get("State", ""), found.get("LastUpdateStatus", "Successful")
    seen = f"{state or 'state unknown'}, last update {update}"
    if state == "Pending" or update == "InProgress":
        return failed(short, seen, "wait a minute, and run this again")
    if state not in {"", "Active"} or update == "Failed":
        why = found.get("StateReason") or found.get("LastUpdateStatusReason") or "no reason is given"
        wake = f"`aws lambda invoke --function-name {name} --invocation-type Event /dev/null`, which wakes it"
        todo = wake if state == "Inactive" else "mend what the reason names, and deploy again"
        return failed(short, f"{seen}: {why}", todo)
    if concurrency == 0:
        todo = f"`aws lambda delete-function-concurrency --function-name {name}`"
        return failed(short, "its reserved concurrency is 0: it never runs", todo)
    return ok(short, seen)


async def _concurrency(look: Look, name: str) -> int | None:
    found = await look.aws.call("lambda", "get_function_concurrency", FunctionName=name)
    reserved: int | None = found.get("ReservedConcurrentExecutions")
    return reserved


async def _mappings(look: Look) -> list[dict[str, Any]]:
    """Return the event source mappings of the stack's functions."""
    found: list[dict[str, Any]] = []
    for uuid in look.stack.of_type(MAPPING).values():
        try:
            found.append(await look.aws.call("lambda", "get_event_source_mapping", UUID=uuid))
        except Unanswered as error:
            if error.code != _MISSING:
                raise
    return found


def _maximum(mapping: dict[str, Any]) -> int:
    """Return how many executions a mapping starts at once; without a maximum Lambda goes up to 1,000."""
    maximum: int = (mapping.get("ScalingConfig") or {}).get("MaximumConcurrency", 1000)
    return maximum


def _shown(mapping: dict[str, Any]) -> str:
    return f"Enabled, at most {_maximum(mapping)} at once, batches of {mapping.get('BatchSize', '?')}"
