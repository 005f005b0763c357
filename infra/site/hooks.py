"""MkDocs hooks for `make docs`: pages from outside of docs/, links between all of them, and folders in the navigation.

On GitHub a page links to other files by their paths in the repository. On the site a page has another path, and a file
that is not a page is not there at all: such a link leads to the repository instead.
"""

import os
import posixpath
import re
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
# Pages outside of docs/, by their paths in the repository.
OUTSIDE: Final = {
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting-vulnerabilities.md",
}
_LINK: Final = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<path>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")
_CODE: Final = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)


def on_config(config: Any) -> Any:
    """Put all pages of a folder in the place of `folder/*` in the navigation."""
    config["repo_url"] = _repository()
    config["nav"] = [_expanded(entry) for entry in config["nav"]]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie outside of docs/."""
    from mkdocs.structure.files import File  # noqa: PLC0415 -- only the environment of `make docs` has it

    for source, path in OUTSIDE.items():
        files.append(File.generated(config, path, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Let a page's links lead to where their targets are on the site, or in the repository."""
    parts = _CODE.split(markdown)  # every other one is a block of code
    return "".join(part if at % 2 else linked(part, page.file.src_uri) for at, part in enumerate(parts))


def linked(markdown: str, page: str) -> str:
    """Return a page's text with links that are right on the site.

    Args:
        markdown: with links that are right in the repository.
        page: its path on the site.
    """
    by_page = {path: source for source, path in OUTSIDE.items()}
    folder = posixpath.dirname(by_page.get(page, f"docs/{page}"))

    def replace(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link["path"]))
        anchor = link["anchor"] or ""
        if target in OUTSIDE or (target.startswith("docs/") and target.endswith(".md")):
            path = OUTSIDE.get(target, target.removeprefix("docs/"))
            return f"[{link['text']}]({posixpath.relpath(path, posixpath.dirname(page) or '.')}{anchor})"
        if not (ROOT / target).exists():
            return link[0]  # MkDocs says that it leads nowhere
        repository = _repository()
        return f"[{link['text']}]({repository}/blob/HEAD/{target}{anchor})" if repository else link["text"]

    return _LINK.sub(replace, markdown)


def _expanded(entry: Any) -> Any:
    if not isinstance(entry, dict):
        return entry
    ((title, pages),) = entry.items()
    if isinstance(pages, str) and pages.endswith("/*"):
        docs = ROOT / "docs"
        pages = [str(path.relative_to(docs)) for path in sorted((docs / pages.removesuffix("/*")).glob("*.md"))]
    return {title: pages}


def _repository() -> str:
    """Return the repository's address on GitHub, from the environment of its workflows; empty elsewhere."""
    name = os.environ.get("GITHUB_REPOSITORY")
    return f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{name}" if name else ""
