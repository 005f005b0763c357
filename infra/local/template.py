"""What `template.yaml` declares, as far as the local runtime plays it: functions, queues, event source mappings.

The template is the one truth: a batch size or a time-out that changes there changes here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
TEMPLATE: Final = ROOT / "template.yaml"

REGION: Final = "us-east-1"
ACCOUNT: Final = "000000000000"
STACK: Final = "landfall"

_RATE: Final = re.compile(r"rate\((\d+) (second|minute|hour|day)s?\)")
_SECONDS: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


@dataclass(frozen=True)
class Queue:
    """One `AWS::SQS::Queue`.

    Attributes:
        id: its logical id in the template.
        name: what people call it: `changes`, `changes-dead-letter`.
        visibility_seconds: how long a received message stays hidden.
        max_receives: how often a message is received before it goes to `dead_letter`; 0 where there is none.
        dead_letter: logical id of the dead-letter queue; empty where there is none.
    """

    id: str
    name: str
    visibility_seconds: int
    max_receives: int
    dead_letter: str

    @property
    def arn(self) -> str:
        """The ARN that events carry locally."""
        return f"arn:aws:sqs:{REGION}:{ACCOUNT}:landfall-{self.name}"


@dataclass(frozen=True)
class Function:
    """One `AWS::Serverless::Function`.

    Attributes:
        id: its logical id in the template.
        name: its folder's name.
        folder: where its handler's module lies.
        handler: `module.function`.
        timeout_seconds: when an invocation is ended.
        memory_mb: what its context tells; nothing enforces it here.
        environment: plain values of its variables.
        queue_urls: variables that hold a queue's URL, with that queue's logical id.
    """

    id: str
    name: str
    folder: Path
    handler: str
    timeout_seconds: int
    memory_mb: int
    environment: Mapping[str, str]
    queue_urls: Mapping[str, str]

    @property
    def arn(self) -> str:
        """The ARN that its context tells."""
        return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:landfall-{self.name}"


@dataclass(frozen=True)
class EventSource:
    """One event source mapping: which queue feeds which function, and how its messages are gathered.

    Attributes:
        function: logical id.
        queue: logical id.
        batch_size: most messages an invocation.
        window_seconds: longest wait for a batch to fill.
        partial: whether the function's `batchItemFailures` are read (ReportBatchItemFailures).
    """

    function: str
    queue: str
    batch_size: int
    window_seconds: float
    partial: bool


@dataclass(frozen=True)
class Template:
    """What is played locally.

    Attributes:
        functions: by logical id.
        queues: by logical id.
        mappings: which queue feeds which function.
        schedules: logical ids of functions that a schedule invokes, with the seconds between two invocations.
    """

    functions: Mapping[str, Function]
    queues: Mapping[str, Queue]
    mappings: tuple[EventSource, ...]
    schedules: Mapping[str, float]

    @classmethod
    def load(cls, path: Path = TEMPLATE, root: Path = ROOT) -> "Template":
        """Read a template.

        Args:
            path: of the template.
            root: what its `CodeUri`s are relative to.

        Raises:
            ValueError: it declares something that cannot be played; the sentence says what.
        """
        template = yaml.load(path.read_text(), _Loader)  # noqa: S506 -- a safe loader with CloudFormation's tags
        return _Reader(template, root).read()


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's short tags as their long forms."""


def _tag(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    elif isinstance(node, yaml.MappingNode):
        value = loader.construct_mapping(node, deep=True)
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _tag)


class _Reader:
    def __init__(self, template: Mapping[str, Any], root: Path) -> None:
        self._root = root
        self._resources: Mapping[str, Any] = template["Resources"]
        self._globals: Mapping[str, Any] = (template.get("Globals") or {}).get("Function") or {}
        self._defaults = {name: str(p.get("Default", "")) for name, p in (template.get("Parameters") or {}).items()}
        self._defaults["AWS::StackName"] = STACK

    def read(self) -> Template:
        queues = {id_: self._queue(id_, p) for id_, p in self._of_type("AWS::SQS::Queue")}
        functions, mappings, schedules = {}, [], {}
        for id_, properties in self._of_type("AWS::Serverless::Function"):
            functions[id_] = self._function(id_, properties, queues)
            for event in (properties.get("Events") or {}).values():
                if event["Type"] == "SQS":
                    mappings.append(self._mapping(id_, event["Properties"]))
                elif event["Type"] in {"Schedule", "ScheduleV2"}:
                    schedules[id_] = self._seconds(id_, event["Properties"])
        return Template(functions, queues, tuple(mappings), schedules)

    def _of_type(self, type_: str) -> list[tuple[str, Mapping[str, Any]]]:
        return [(id_, r.get("Properties") or {}) for id_, r in self._resources.items() if r["Type"] == type_]

    def _queue(self, id_: str, properties: Mapping[str, Any]) -> Queue:
        redrive = properties.get("RedrivePolicy") or {}
        return Queue(
            id=id_,
            name=_kebab(id_.removesuffix("Queue")),
            visibility_seconds=int(self._value(properties.get("VisibilityTimeout", 30))),
            max_receives=int(self._value(redrive.get("maxReceiveCount", 0))),
            dead_letter=_target(redrive["deadLetterTargetArn"]) if redrive else "",
        )

    def _function(self, id_: str, own: Mapping[str, Any], queues: Mapping[str, Queue]) -> Function:
        properties = {**self._globals, **own}
        variables = {**_variables(self._globals), **_variables(own)}
        targets = {name: _target(value) for name, value in variables.items()}
        folder = self._root / self._value(properties["CodeUri"])
        return Function(
            id=id_,
            name=folder.name,
            folder=folder,
            handler=self._value(properties["Handler"]),
            timeout_seconds=int(self._value(properties.get("Timeout", 3))),
            memory_mb=int(self._value(properties.get("MemorySize", 128))),
            environment={n: self._value(v) for n, v in variables.items() if targets[n] not in queues},
            queue_urls={name: target for name, target in targets.items() if target in queues},
        )

    def _mapping(self, function: str, properties: Mapping[str, Any]) -> EventSource:
        return EventSource(
            function=function,
            queue=_target(properties["Queue"]),
            batch_size=int(self._value(properties.get("BatchSize", 10))),
            window_seconds=float(self._value(properties.get("MaximumBatchingWindowInSeconds", 0))),
            partial="ReportBatchItemFailures" in (properties.get("FunctionResponseTypes") or ()),
        )

    def _seconds(self, function: str, properties: Mapping[str, Any]) -> float:
        expression = self._value(properties.get("ScheduleExpression") or properties.get("Schedule"))
        match = _RATE.fullmatch(expression)
        if match is None:
            raise ValueError(f"the schedule of {function} is {expression!r}: only rate(…) can be played locally")
        return float(match[1]) * _SECONDS[match[2]]

    def _value(self, value: Any) -> str:
        """Return a plain value: as it stands, or its parameter's default; empty where only AWS knows it."""
        if isinstance(value, Mapping):
            return self._defaults.get(str(value.get("Ref")), "")
        return str(value)


def _variables(properties: Mapping[str, Any]) -> dict[str, Any]:
    return dict((properties.get("Environment") or {}).get("Variables") or {})


def _target(value: Any) -> str:
    """Return the logical id that a `Ref` or a `GetAtt` means."""
    match value:
        case {"Ref": str(target)}:
            return target
        case {"Fn::GetAtt": [str(target), *_]}:
            return target
        case _:
            return ""


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()
