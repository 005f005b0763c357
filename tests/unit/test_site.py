"""The documentation's site: links of the repository become links of the site, and no page is left out."""

from pathlib import Path

import pytest
import yaml

from infra.site import hooks

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("page", "link", "there"),
    [
        ("README.md", "kinds/work.md", "kinds/work.md"),
        ("README.md", "../ARCHITECTURE.md", "architecture.md"),
        ("kinds/work.md", "../operations.md#settings", "../operations.md#settings"),
        ("decisions/0002-shared-directories.md", "../../CONTRIBUTING.md#releasing", "../contributing.md#releasing"),
        ("architecture.md", "docs/contract.md#paths", "contract.md#paths"),
        ("changelog.md", "docs/decisions/0001-one-writer-at-a-time.md", "decisions/0001-one-writer-at-a-time.md"),
        ("contributing.md", "ARCHITECTURE.md", "architecture.md"),
        ("operations.md", "#settings", "#settings"),
        ("operations.md", "nowhere.md", "nowhere.md"),
        ("operations.md", "https://example.com/a#b", "https://example.com/a#b"),
    ],
)
def test_a_link_of_the_repository_leads_to_the_same_page_on_the_site(page: str, link: str, there: str) -> None:
    assert hooks.linked(f"see [this]({link}).", page) == f"see [this]({there})."


def test_what_is_no_page_is_linked_in_the_repository_where_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_REPOSITORY", "example/landfall")
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    there = "https://github.com/example/landfall/blob/HEAD/template.yaml"
    assert hooks.linked("[template.yaml](../template.yaml)", "security.md") == f"[template.yaml]({there})"
    monkeypatch.delenv("GITHUB_REPOSITORY")
    assert hooks.linked("[template.yaml](../template.yaml)", "security.md") == "template.yaml"


def test_every_page_is_in_the_navigation_once() -> None:
    text = (ROOT / "infra" / "site" / "mkdocs.yml").read_text()
    config = yaml.safe_load(text.replace("!!python/object/apply:pymdownx.slugs.slugify", ""))
    found: list[str] = []
    for entry in hooks.on_config(config)["nav"]:
        found += [entry] if isinstance(entry, str) else next(iter(entry.values()))
    docs = ROOT / "docs"
    pages = [str(path.relative_to(docs)) for path in docs.rglob("*.md")]
    assert sorted(found) == sorted([*pages, *hooks.OUTSIDE.values()])
    assert all((ROOT / source).is_file() for source in hooks.OUTSIDE)
