"""Words that are not used: the reader knows the field's own (docs/glossary.md).

What is not gone through yet is listed, so that the list can shrink.
"""

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What to write instead, by a pattern.
WORDS = {
    r"\b(whoever|nobody|somebody|anybody|everybody)\b": "name the person, the function or the object",
    r"\b(told|tells?)\b": "say, send, set, report or notify",
    r"\b(is|are) no [\w-]+ (that|of)\b|\bis none (that|of)\b": "is not a …",
    r"\bfor ever\b": "without end, or a limit",
    r"\ball is well\b|\bworth a moment\b|\ba lone change\b": "a plain statement",
    r"\btime-outs?\b": "timeout",
    r"\bclean-ups?\b": "cleanup; the verb is clean up",
    r"\blook-ups?\b": "lookup; the verb is look up",
}
# By pattern, the first one that fits counts. A pattern in which no such word is left has to go.
NOT_YET = (
    "docs/kinds/*",
    "docs/migration.md",
    "infra/kubernetes/*",
    "infra/local/*",
    "infra/smoke/*",
    "shared/kube/*",
    "shared/reconcile/*",
    "shared/writers/*",
    "shared/*",
)
# Of those, the files that are done.
DONE = (
    "shared/events.py",
    "shared/queues.py",
    "shared/reconcile/leases.py",
    "shared/runtime.py",
    "shared/state_files.py",
)


def files() -> Iterator[Path]:
    """Yield the documents, the template and the code that is not a test."""
    yield from ROOT.glob("*.md")
    yield from (ROOT / "docs").rglob("*.md")
    yield from (ROOT / name for name in ("Makefile", "template.yaml", ".ci/run"))
    for folder in ("functions", "infra", "shared", ".github"):
        for suffix in ("py", "yaml", "yml", "tpl", "md", "toml"):
            yield from (ROOT / folder).rglob(f"*.{suffix}")


def found(path: Path) -> list[str]:
    """Return the words in a file, with what to write instead; code in a document does not count."""
    text = path.read_text()
    if path.suffix == ".md":
        text = re.sub(r"^( *)```.*?^\1```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    return [
        f"{match[0]!r}: {instead}"
        for pattern, instead in WORDS.items()
        for match in re.finditer(pattern, text, re.IGNORECASE)
    ]


def pattern_of(path: Path) -> str | None:
    name = str(path.relative_to(ROOT))
    if name in DONE:
        return None
    return next((pattern for pattern in NOT_YET if fnmatch(name, pattern)), None)


FILES = [path for path in files() if pattern_of(path) is None]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_fields_words_are_used(path: Path) -> None:
    assert found(path) == []


@pytest.mark.parametrize("pattern", NOT_YET)
def test_what_is_done_is_listed_no_more(pattern: str) -> None:
    assert any(found(path) for path in files() if pattern_of(path) == pattern), f"take {pattern!r} out of NOT_YET"
