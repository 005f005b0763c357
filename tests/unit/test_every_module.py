"""Every module of ours is read by the Python that runs the tests, whether a test of its own reaches it or not."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST_LINES = 350


def test_every_module_can_be_imported_without_a_warning() -> None:
    files = [path.relative_to(ROOT) for folder in ("shared", "infra") for path in (ROOT / folder).rglob("*.py")]
    names = {".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files}
    handlers = sorted((ROOT / "functions").glob("*/*.py"))
    assert len(names) > 60
    assert handlers
    program = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    command = [sys.executable, "-W", "error", "-c", program, *sorted(names), *(path.stem for path in handlers)]
    search = [str(ROOT), *(str(path.parent) for path in handlers)]
    done = subprocess.run(command, env={"PYTHONPATH": ":".join(search)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_class_name_in_shared_stands_for_two_things() -> None:
    places: dict[str, list[str]] = {}
    for path in sorted((ROOT / "shared").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert len(places) > 100
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_no_file_of_the_product_is_longer_than_a_reader_holds_in_mind() -> None:
    lines = {
        path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines())
        for folder in ("shared", "infra", "functions")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert len(lines) > 100
    # Still to be split: the conditions of four kinds.
    assert {path for path, count in lines.items() if count > MOST_LINES} <= {"shared/conditions.py"}
