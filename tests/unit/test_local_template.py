"""The local runtime plays what template.yaml declares."""

import ast
from pathlib import Path

import pytest

from infra.local.template import Template


@pytest.fixture(scope="module")
def template() -> Template:
    return Template.load()


def test_every_function_of_the_tree_is_declared_with_a_handler_that_exists(template: Template) -> None:
    folders = {path.name for path in Path("functions").iterdir() if any(path.glob("*.py"))}
    assert {function.name for function in template.functions.values()} == folders
    for function in template.functions.values():
        module, _, name = function.handler.rpartition(".")
        tree = ast.parse((function.folder / f"{module}.py").read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, function.name


def test_queues_know_their_dead_letter_queues_and_mappings_their_queues(template: Template) -> None:
    fed = {mapping.queue for mapping in template.mappings}
    names = {"changes", "canary", "cleanup", "works", "documents", "status"}
    assert {template.queues[queue].name for queue in fed} == names
    for queue in fed:
        declared = template.queues[queue]
        assert template.queues[declared.dead_letter].name == f"{declared.name}-dead-letter"
        assert declared.max_receives == 6
    canary = next(m for m in template.mappings if template.functions[m.function].name == "write-canary")
    assert (canary.batch_size, canary.window_seconds, canary.partial) == (10, 0.0, True)


def test_plain_variables_take_their_parameters_defaults_and_queue_urls_are_kept_apart(template: Template) -> None:
    function = template.functions["WriteCanaryFunction"]
    assert function.environment["LANDFALL_CLUSTER"] == ""  # the default of ClusterName
    assert function.environment["POWERTOOLS_SERVICE_NAME"] == "landfall"
    assert function.queue_urls["LANDFALL_CANARY_QUEUE_URL"] == "CanaryQueue"
    assert function.queue_urls["LANDFALL_STATUS_QUEUE_URL"] == "StatusQueue"
    assert not function.queue_urls.keys() & function.environment.keys()
    assert (function.timeout_seconds, function.memory_mb) == (120, 1024)
    assert template.functions["StatusReportFunction"].timeout_seconds == 60


def test_the_schedule_of_resync_is_ten_minutes(template: Template) -> None:
    assert template.schedules == {"ResyncFunction": 600}


SCHEDULED = """
Resources:
  F:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: f/
      Handler: f.lambda_handler
      Events:
        S: {{Type: Schedule, Properties: {{Schedule: "{expression}"}}}}
"""


@pytest.mark.parametrize(
    ("expression", "seconds"), [("rate(1 minute)", 60), ("rate(2 hours)", 7200), ("rate(1 day)", 86400)]
)
def test_a_rate_is_read_in_seconds(tmp_path: Path, expression: str, seconds: float) -> None:
    path = tmp_path / "template.yaml"
    path.write_text(SCHEDULED.format(expression=expression))
    assert Template.load(path, tmp_path).schedules == {"F": seconds}


def test_a_schedule_that_cannot_be_played_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "template.yaml"
    path.write_text(SCHEDULED.format(expression="cron(0 10 * * ? *)"))
    with pytest.raises(ValueError, match=r"schedule of F is 'cron.*only rate"):
        Template.load(path, tmp_path)
