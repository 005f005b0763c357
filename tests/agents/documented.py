"""What docs/agents.md says to apply and to run, taken from the page itself: a test has no manifest of its own."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "agents.md"


def block(
    section: str, language: str = "yaml", *, agent: str = "Flux", replace: Mapping[str, str] | None = None
) -> str:
    """Return the blocks of one language in a section of an agent's part of the page, with examples replaced.

    Args:
        section: its heading.
        language: of the blocks.
        agent: the heading of the part; empty for what stands before the first.
        replace: by what stands on the page, what stands here instead; each must stand there.
    """
    part = _section(PAGE.read_text(), "##", agent)
    found = re.findall(rf"^```{language}\n(.*?)^```$", _section(part, "###", section), re.MULTILINE | re.DOTALL)
    assert found, f"docs/agents.md has no {language} under {agent}, {section}"
    text = ("---\n" if language == "yaml" else "").join(found)
    for old, new in (replace or {}).items():
        assert old in text, f"docs/agents.md says no {old!r} under {agent}, {section}"
        text = text.replace(old, new)
    return text


def policy(section: str, bucket: str, principal: str) -> list[dict[str, Any]]:
    """Return the statements of the policy in a section, for a bucket of ours and one user of it."""
    text = block(section, "json", replace={":::kratix": f":::{bucket}"})
    return [{**statement, "Principal": {"AWS": [principal]}} for statement in json.loads(text)]


def _section(text: str, marks: str, heading: str) -> str:
    found = re.search(rf"^{marks} {re.escape(heading)}$\n(.*?)(?=^{marks} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"docs/agents.md has no {marks} {heading}"
    return found[1]
