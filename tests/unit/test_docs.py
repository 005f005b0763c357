"""The documentation says what the code does: every reason, field, setting, parameter and alarm has its row."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_core import PydanticUndefined

from infra.local.embedded.kubernetes.schema import problems, read_crds, read_kinds, shape
from infra.local.template import _Loader
from shared.settings import PREFIX, ClusterSettings, Settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LINKED = [*PAGES, *sorted(ROOT.glob("*.md"))]
TEMPLATE: dict[str, Any] = yaml.load((ROOT / "template.yaml").read_text(), _Loader)
CRDS = ROOT / "infra" / "kubernetes" / "crds"
KINDS = {kind.kind: kind for kind in read_kinds(read_crds(CRDS))}

# Which page tells of what a function or a table of shared/conditions.py decides. A new one needs a line here.
DECIDES = {
    "destination": (
        "destination_ready",
        "destination_first_seen",
        "store_not_found",
        "path_clash",
        "destination_failed",
        "finalizer_failed",
        "cleanup_skipped",
        "files_left_behind",
        "paused",
        "reconciled",
        "_destination_event",
    ),
    "bucketstatestore": ("store_ready", "paused", "store_failed", "store_failed_message", "_store_event"),
    "gitstatestore": ("store_ready", "paused", "store_failed", "store_failed_message", "_store_event"),
    "workplacement": (
        "placement_written",
        "placement_failed",
        "placement_scheduled",
        "_ready_of_placement",
        "_placement_event",
    ),
    "work": ("work_scheduled", "work_not_scheduled", "_READY_OF_WORK", "_work_event"),
}
# What looks like a reason there and is none.
NO_REASONS = {"WorkPlacement", "BucketStateStore", "GitStateStore", "NotReady"}
REASON = re.compile(r"(?:[A-Z][a-z]+){2,}")


def text(page: Path) -> str:
    return page.read_text()


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^( *)```.*?^\1```$", "", text(page), flags=re.MULTILINE | re.DOTALL)


def section(page: str, heading: str) -> str:
    found = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", text(DOCS / "kinds" / f"{page}.md"), re.MULTILINE | re.DOTALL)
    assert found, f"{page}.md has no section {heading}"
    return found[1]


def cells(line: str) -> list[str]:
    return [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def rows(markdown: str) -> dict[str, list[str]]:
    """Return the rows of all tables by each name in code that their first cell holds."""
    found = {}
    for line in markdown.splitlines():
        if line.startswith("|"):
            first, *others = cells(line)
            found.update(dict.fromkeys(re.findall(r"`([^`]+)`", first), others))
    return found


def conditions() -> dict[str, ast.AST]:
    """Return the functions and tables of shared/conditions.py, with names of constants as what they stand for."""
    tree = ast.parse((ROOT / "shared" / "conditions.py").read_text())
    constants = {
        node.target.id: node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and isinstance(node.value, ast.Constant)
    }

    class Resolve(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            return constants.get(node.id, node)

    found: dict[str, ast.AST] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            node.body = node.body[1:] if ast.get_docstring(node) else node.body
            found[node.name] = Resolve().visit(node)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            found[node.target.id] = Resolve().visit(node.value)
    return found


def strings(node: ast.AST) -> set[str]:
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


DECIDED = conditions()


def reasons(page: str) -> set[str]:
    found = {s for name in DECIDES[page] for s in strings(DECIDED[name]) if REASON.fullmatch(s)}
    return found - NO_REASONS - {"WriteSucceeded", "ScheduleSucceeded"}


def test_every_part_of_the_conditions_that_names_a_reason_belongs_to_a_page() -> None:
    naming = {name for name, node in DECIDED.items() if {s for s in strings(node) if REASON.fullmatch(s)} - NO_REASONS}
    deciding = {name for names in DECIDES.values() for name in names}
    told = {s for page in DECIDES for s in reasons(page)} | {"WriteSucceeded", "ScheduleSucceeded"}
    unknown = {name: strings(DECIDED[name]) - told for name in naming - deciding}
    assert not {
        name: found
        for name, left in unknown.items()
        if (found := {s for s in left if REASON.fullmatch(s)} - NO_REASONS)
    }


@pytest.mark.parametrize(("page", "reason"), [(page, reason) for page in DECIDES for reason in sorted(reasons(page))])
def test_every_reason_is_told_under_status_and_has_a_row_that_says_what_to_do(page: str, reason: str) -> None:
    assert f"`{reason}`" in section(page, "Status")
    what = rows(section(page, "Debugging"))
    assert reason in what, f"say in {page}.md what to do about {reason}"
    assert what[reason][0]


def test_every_reason_that_an_error_carries_is_told() -> None:
    carried = set()
    for module in (ROOT / "shared").rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "reason" and isinstance(node.value, ast.Constant):
                carried.add(node.value.value)
            if isinstance(node, ast.arguments):
                named = zip(node.kwonlyargs, node.kw_defaults, strict=True)
                carried |= {d.value for a, d in named if a.arg == "reason" and isinstance(d, ast.Constant)}
    assert {"SecretNotFound", "ErrorInitialisingWriter"} <= carried
    told = {name for page in ("destination", "bucketstatestore") for name in rows(section(page, "Debugging"))}
    assert carried <= told


MESSAGES = [
    pytest.param(page, argument.value, id=f"{page}: {argument.value}")
    for page, names in DECIDES.items()
    for name in names
    for call in ast.walk(DECIDED[name])
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "_verdict"
    for argument in call.args[3:]
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
]


@pytest.mark.parametrize(("page", "message"), MESSAGES)
def test_a_message_stands_on_its_page_word_for_word(page: str, message: str) -> None:
    assert f"`{message}`" in section(page, "Status")


def fields(schema: dict[str, Any], path: str) -> Iterator[str]:
    """Yield the paths of all fields of a schema that hold no further ones."""
    if schema.get("type") == "array":
        yield from fields(schema["items"], f"{path}[]")
    elif schema.get("properties"):
        for name, inner in schema["properties"].items():
            yield from fields(inner, f"{path}.{name}")
    else:
        yield path


@pytest.mark.parametrize("plural", [pytest.param(path.stem, id=path.stem) for path in sorted(CRDS.glob("*.yaml"))])
def test_every_field_of_a_kind_has_a_row_with_its_default(plural: str) -> None:
    crd = yaml.safe_load((CRDS / f"{plural}.yaml").read_text())
    page = crd["spec"]["names"]["singular"]
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    told = rows(section(page, f"Working with {crd['spec']['names']['kind']}s"))
    for field in fields(spec, "spec"):
        assert field in told, f"{field} has no row in {page}.md"
        default = default_of(spec, field)
        if default is not None:
            assert f"`{default}`" in told[field][0]


def default_of(spec: dict[str, Any], field: str) -> str | None:
    at: dict[str, Any] = spec
    for part in field.replace("[]", "").split(".")[1:]:
        at = at.get("items", at)["properties"][part]
    value = at.get("default")
    return str(value).lower() if isinstance(value, bool) else value


def told_default(value: object) -> str:
    if value in (None, "", (), {}, PydanticUndefined):
        return ""
    if isinstance(value, tuple):
        return f"`{' '.join(map(str, value))}`"
    return f"`{str(value).lower() if isinstance(value, bool) else str(value)}`"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_a_row_with_its_default(name: str) -> None:
    told = rows(text(DOCS / "operations.md"))[f"{PREFIX}{name.upper()}"]
    assert told[0] == told_default(Settings.model_fields[name].default)
    assert told[1]


def test_no_page_tells_of_a_setting_that_is_none() -> None:
    forwarders = {
        *("LANDFALL_TARGET", "LANDFALL_WATCH_SECRETS", "LANDFALL_HEALTH_ADDRESS"),
        *("LANDFALL_METRICS_ADDRESS", "LANDFALL_HEARTBEAT_SECONDS"),
    }
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | forwarders
    for page in LINKED:
        assert set(re.findall(r"LANDFALL_[A-Z_]+[A-Z]", text(page))) <= known | {"LANDFALL_CACHE"}, page


@pytest.mark.parametrize("name", [field.alias for field in ClusterSettings.model_fields.values()])
def test_every_way_to_a_cluster_has_a_row(name: str) -> None:
    assert rows(text(DOCS / "deployment.md"))[name][0]


@pytest.mark.parametrize("name", TEMPLATE["Parameters"])
def test_every_parameter_has_a_row_with_its_default(name: str) -> None:
    told = rows(text(DOCS / "deployment.md"))[name]
    default = TEMPLATE["Parameters"][name].get("Default", "")
    assert told[0] == (f"`{default}`" if default != "" else "")
    assert told[1]


@pytest.mark.parametrize("name", TEMPLATE["Outputs"])
def test_every_output_has_a_row(name: str) -> None:
    assert rows(text(DOCS / "deployment.md"))[name][0]


ALARMS = {
    r["Properties"]["AlarmName"]["Fn::Sub"].removeprefix("${AWS::StackName}-")
    for r in TEMPLATE["Resources"].values()
    if r["Type"] == "AWS::CloudWatch::Alarm"
}


def test_every_alarm_has_a_row_that_says_what_it_means_and_what_to_do_and_no_other_has() -> None:
    told = re.search(r"^## Alarms$(.*?)^### ", text(DOCS / "operations.md"), re.MULTILINE | re.DOTALL)
    assert told
    found = rows(told[1])
    assert found.keys() == ALARMS
    assert all(meaning and what for meaning, what in found.values())


def anchors(page: Path) -> set[str]:
    """Return what GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


LINKS = [
    pytest.param(page, link, id=f"{page.relative_to(ROOT)}: {link}")
    for page in LINKED
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page))
    if not link.startswith("https://")
]


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_a_link_leads_somewhere(page: Path, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    assert target.exists()
    if anchor:
        assert anchor in anchors(target)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_file_of_ours_that_a_page_names_is_there(page: Path) -> None:
    named = set(re.findall(r"`((?:tests|infra|shared|functions)/[\w./-]+)`", prose(page)))
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "README.md"], ids=lambda page: page.stem)
def test_every_page_is_found_from_the_index(page: Path) -> None:
    assert f"({page.relative_to(DOCS)})" in text(DOCS / "README.md")


OBJECTS = [
    pytest.param(obj, id=f"{page.relative_to(ROOT)}: {obj['kind']} {obj['metadata']['name']}")
    for page in LINKED
    for block in re.findall(r"^```yaml\n(.*?)^```$", text(page), re.MULTILINE | re.DOTALL)
    for obj in yaml.safe_load_all(block)
    if isinstance(obj, dict) and obj.get("kind") in KINDS
]


@pytest.mark.parametrize("obj", OBJECTS)
def test_an_example_is_what_its_kind_allows(obj: dict[str, Any]) -> None:
    assert problems(shape(obj, KINDS[obj["kind"]]), None, KINDS[obj["kind"]]) == []
    known = set(fields(crd_spec(obj["kind"]), "spec"))
    assert {re.sub(r"\[\d+\]", "[]", path) for path in paths(obj["spec"], "spec")} <= known | {
        path for path in paths(obj["spec"], "spec") if "matchLabels." in path
    }


def crd_spec(kind: str) -> dict[str, Any]:
    crds = [yaml.safe_load(path.read_text()) for path in CRDS.glob("*.yaml")]
    (crd,) = (crd for crd in crds if crd["spec"]["names"]["kind"] == kind)
    spec: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return spec


def paths(value: object, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from paths(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from paths(inner, f"{path}[]")
    else:
        yield path
