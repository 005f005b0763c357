"""What is cited exists: each citation of a page and its section, and each test that a failure mode names."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.test_docs import DOCS, ROOT, anchors, text

FAILURES = DOCS / "failure-modes.md"
_ENTRY = re.compile(r"^### (\d+)\. .*?(?=^##|\Z)", re.MULTILINE | re.DOTALL)
ENTRIES = {int(found[1]): found[0] for found in _ENTRY.finditer(text(FAILURES))}

# `docs/contract.md#paths`; further sections of the same page may follow: `docs/contract.md#paths, #refusals`.
_CITATION = re.compile(r"(docs/[\w/.-]+\.md)((?:#[\w-]+)?(?:(?:,|,? and)\s+(?:# )?#[\w-]+)*)")

# Documents that the repository does not have.
_ELSEWHERE = re.compile(
    r"\bspec(?:\.md)?,? (?:sections? )?[0-9]|\b[Ff]ailures [0-9]|\(design\b|\b(?:spec|design|failures)\.md"
)


def citing() -> Iterator[Path]:
    """Yield all files in which something may be cited."""
    for folder in ("functions", "shared", "infra", "tests", "events", ".github"):
        for suffix in ("py", "md", "yaml", "yml", "toml"):
            yield from (ROOT / folder).rglob(f"*.{suffix}")
    yield from (*ROOT.glob("*.md"), *DOCS.rglob("*.md"))
    yield from (ROOT / name for name in ("template.yaml", "Makefile", "pyproject.toml"))


def test_every_page_and_section_that_is_cited_exists() -> None:
    found = 0
    for file in citing():
        for page, sections in _CITATION.findall(text(file)):
            found += 1
            assert (ROOT / page).is_file(), f"{file.relative_to(ROOT)} cites {page}"
            missing = set(re.findall(r"#([\w-]+)", sections)) - anchors(ROOT / page)
            assert not missing, f"{file.relative_to(ROOT)} cites {page}, which has no {missing}"
    assert found


def test_nothing_cites_a_document_that_the_repository_does_not_have() -> None:
    found = {str(file.relative_to(ROOT)): cited for file in citing() if (cited := _ELSEWHERE.findall(text(file)))}
    assert not {file: cited for file, cited in found.items() if file != "tests/unit/test_citations.py"}


def test_failure_modes_are_numbered_without_a_gap() -> None:
    assert sorted(ENTRIES) == list(range(1, len(ENTRIES) + 1))
    assert len(ENTRIES) >= 53


@pytest.mark.parametrize("number", ENTRIES)
def test_a_failure_mode_names_tests_that_exist_or_says_that_it_is_open(number: int) -> None:
    entry = ENTRIES[number]
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", entry)
    assert ("**Open.**" in entry) != bool(named), "name the test that fails without the prevention, or say **Open.**"
    assert ("**Open.**" in entry) != ("**Prevented by**: " in entry)
    for file, name in named:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file} has no {name}"
