"""CloudFormation's intrinsic functions, as far as the template's conditions and alarms need them."""

import re
from collections.abc import Mapping
from typing import Any

_NO_VALUE = {"Ref": "AWS::NoValue"}


def defaults(template: Mapping[str, Any], stack: str, **given: str) -> dict[str, str]:
    """Return the values of all parameters, and of AWS's own, as CloudFormation has them."""
    values = {name: str(p.get("Default", "")) for name, p in template["Parameters"].items()}
    return {**values, "AWS::StackName": stack, "AWS::Region": "us-east-1", **given}


def holds(condition: Any, conditions: Mapping[str, Any], given: Mapping[str, str]) -> bool:
    """Whether a condition is true with these parameters."""
    match condition:
        case {"Condition": str(name)}:
            return holds(conditions[name], conditions, given)
        case {"Fn::Not": [inner]}:
            return not holds(inner, conditions, given)
        case {"Fn::Or": inner}:
            return any(holds(each, conditions, given) for each in inner)
        case {"Fn::And": inner}:
            return all(holds(each, conditions, given) for each in inner)
        case {"Fn::Equals": [one, other]}:
            return text(one, given) == text(other, given)
        case _:
            raise NotImplementedError(condition)


def text(value: Any, given: Mapping[str, str]) -> str:
    """Return a value of a condition."""
    return str(resolved(value, {"Conditions": {}}, given))


def resolved(  # noqa: PLR0911 -- one a function
    node: Any, template: Mapping[str, Any], given: Mapping[str, str]
) -> Any:
    """Return a part of a template with its functions carried out; references to resources stay as they are."""
    match node:
        case {"Fn::If": [name, then, otherwise]}:
            chosen = then if holds({"Condition": name}, template["Conditions"], given) else otherwise
            return resolved(chosen, template, given)
        case {"Ref": str(name)} if name in given:
            return given[name]
        case {"Fn::Sub": str(words)}:
            return re.sub(r"\$\{([\w:.]+)\}", lambda found: given.get(found[1], found[0]), words)
        case {"Fn::Join": [between, parts]}:
            return between.join(str(resolved(part, template, given)) for part in parts)
        case {"Fn::Select": [place, parts]}:
            return resolved(parts, template, given)[int(place)]
        case {"Fn::Split": [at, whole]}:
            return str(resolved(whole, template, given)).split(at)
        case Mapping():
            found = {key: resolved(value, template, given) for key, value in node.items()}
            return {key: value for key, value in found.items() if value != _NO_VALUE}
        case list():
            return [resolved(value, template, given) for value in node]
        case _:
            return node
