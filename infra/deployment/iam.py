"""Print what the deployment's roles may do in AWS, as a Markdown table: one row a statement.

Run with the interpreter of SAM's environment (`make iam`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.deployment.transform import transform

Template = Mapping[str, Any]


@dataclass(frozen=True)
class Grant:
    """One statement of a role's policies.

    Attributes:
        who: the function, or what else has the role or the policy.
        sid: what the statement is for.
        effect: `Allow` or `Deny`.
        actions: such as `sqs:SendMessage`.
        resources: as the template names them.
        only_if: names of the template's conditions that must be true for it.
        only_when: the statement's own condition, as text; empty where it has none.
    """

    who: str
    sid: str
    effect: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    only_if: tuple[str, ...]
    only_when: str


def grants(template: Template) -> list[Grant]:
    """Return every statement of every role of a transformed template, function by function.

    A managed policy of the template stands under each function that has it, or under its own name where none has.
    """
    resources: Mapping[str, Any] = template["Resources"]
    found: list[Grant] = []
    attached: set[str] = set()
    for role_id, role in _of_type(resources, "AWS::IAM::Role"):
        who = _who(resources, role_id)
        for policy, conditions in _flat(role.get("Policies") or []):
            found += _statements(who, policy["PolicyDocument"], conditions)
        for reference, conditions in _flat(role.get("ManagedPolicyArns") or []):
            target = reference["Ref"] if isinstance(reference, Mapping) else str(reference)
            attached.add(target)
            if target in resources:
                found += _statements(who, resources[target]["Properties"]["PolicyDocument"], conditions)
            else:
                found.append(Grant(who, "", "Allow", (target,), ("*",), conditions, ""))
    for policy_id, policy in _of_type(resources, "AWS::IAM::ManagedPolicy"):
        if policy_id not in attached:
            found += _statements(policy_id, policy["PolicyDocument"], ())
    return found


def table(rows: Sequence[Grant]) -> str:
    """Return a Markdown table; what several functions may do in the same words stands once for all of them."""
    functions = {grant.who for grant in rows if grant.sid == "Logs"}  # every one has its own
    together: dict[tuple[object, ...], tuple[list[str], Grant]] = {}
    for grant in rows:
        same = (grant.sid, grant.effect, grant.actions, grant.resources, grant.only_if, grant.only_when)
        together.setdefault(same, ([], grant))[0].append(grant.who)
    lines = ["| who | may | on | only if |", "|---|---|---|---|"]
    for who, grant in together.values():
        if functions <= set(who):
            who = ["every function", *(name for name in who if name not in functions)]  # noqa: PLW2901
        may = ", ".join(f"`{action}`" for action in grant.actions)
        cells = (
            ", ".join(who),
            may if grant.effect == "Allow" else f"**never** {may}",
            ", ".join(f"`{resource}`" for resource in grant.resources),
            " and ".join(filter(None, (*grant.only_if, grant.only_when and f"`{grant.only_when}`"))),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _of_type(resources: Mapping[str, Any], type_: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((id_, r["Properties"]) for id_, r in resources.items() if r["Type"] == type_)


def _who(resources: Mapping[str, Any], role_id: str) -> str:
    for id_, function in _of_type(resources, "AWS::Lambda::Function"):
        if function["Role"] == {"Fn::GetAtt": [role_id, "Arn"]}:
            return _named(function.get("FunctionName"), id_)
    return role_id


def _named(name: object, id_: str) -> str:
    return str(name["Fn::Sub"]).removeprefix("${AWS::StackName}-") if isinstance(name, Mapping) else id_


def _flat(items: Sequence[Any], conditions: tuple[str, ...] = ()) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Yield a list's items with the conditions under which they are there."""
    for item in items:
        if isinstance(item, Mapping) and "Fn::If" in item:
            name, then, otherwise = item["Fn::If"]
            yield from _flat([then], (*conditions, name))
            yield from _flat([otherwise], (*conditions, f"not {name}"))
        elif item != {"Ref": "AWS::NoValue"}:
            yield item, conditions


def _statements(who: str, document: Mapping[str, Any], conditions: tuple[str, ...]) -> Iterator[Grant]:
    for statement, more in _flat(document["Statement"], conditions):
        yield Grant(
            who,
            statement.get("Sid", ""),
            statement["Effect"],
            tuple(_list(statement["Action"])),
            tuple(_resource(resource) for resource in _list(statement["Resource"])),
            more,
            ", ".join(
                f"{operator} {key} {_resource(value)}"
                for operator, keys in (statement.get("Condition") or {}).items()
                for key, value in keys.items()
            ),
        )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _resource(value: Any) -> str:
    match value:
        case {"Ref": str(name)} | {"Fn::GetAtt": [str(name), *_]} | {"Fn::Sub": str(name)}:
            return name
        case {"Fn::If": [_, then, otherwise]}:
            return " or ".join(_resource(each) for each in (then, otherwise))
        case list(items):
            return " ".join(filter(None, map(_resource, items)))
        case {"Fn::Split": [_, inner]} | {"Fn::Join": [_, inner]}:
            return _resource(inner)  # what it is cut from, or glued together of
        case _:
            return str(value)


if __name__ == "__main__":
    print(table(grants(transform())))
