"""GitHub's workflows: what they may, what they run, and the release's own steps, run here without GitHub."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.conftest import ROOT
from tests.infra.test_release import VERSION

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
RELEASE: dict[Any, Any] = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
MAY = {
    "version": {"contents": "read"},
    "image": {"contents": "read", "packages": "write", "id-token": "write", "attestations": "write"},
    "files": {"contents": "write", "id-token": "write", "attestations": "write"},
}
# Notes what it was called with, and what came on its input where something does.
NOTE = '#!/bin/bash\n{{ printf "%q " {name} "$@"; echo; }} >> {notes}\n'


def steps(job: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = RELEASE["jobs"][job]["steps"]
    return found


def step(job: str, name: str) -> dict[str, Any]:
    (found,) = (each for each in steps(job) if each.get("name") == name)
    return found


def run(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a step as GitHub's runner does."""
    path = {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **path, **environment}, capture_output=True, text=True, check=False
    )


def noted(folder: Path) -> list[list[str]]:
    return [shlex.split(line) for line in (folder / "notes").read_text().splitlines()]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that the steps read, and commands that only note how they were called."""
    for name in ("pyproject.toml", "CHANGELOG.md"):
        text = (ROOT / name).read_text()
        (tmp_path / name).write_text(text.replace("## Unreleased", f"## {VERSION} - 2026-12-01"))
    (tmp_path / "bin").mkdir()
    for name in ("gh", "docker"):
        (tmp_path / "bin" / name).write_text(NOTE.format(name=name, notes=tmp_path / "notes"))
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def test_a_tag_releases_and_each_job_may_no_more_than_it_does() -> None:
    assert RELEASE[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads `on` so
    assert RELEASE["permissions"] == {}
    assert {name: job["permissions"] for name, job in RELEASE["jobs"].items()} == MAY
    assert {name: job.get("needs") for name, job in RELEASE["jobs"].items()} == {
        "version": None,
        "image": "version",
        "files": "image",
    }
    for job in RELEASE["jobs"]:
        for each in steps(job):
            if each.get("uses", "").startswith("actions/checkout@"):
                assert each["with"]["persist-credentials"] is False


def test_every_action_of_the_release_is_pinned_to_a_commit_and_says_which_version_that_is() -> None:
    text = (ROOT / ".github/workflows/release.yml").read_text()
    used = re.findall(r"uses: (.*)$", text, re.MULTILINE)
    assert len(used) > 5
    assert [line for line in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_step_puts_what_others_may_write_into_its_script(path: Path) -> None:
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        for each in job["steps"]:
            filled_in = re.findall(r"\$\{\{ *(\w+)", each.get("run", ""))
            assert set(filled_in) <= {"matrix"}, "give it by env"
            assert subprocess.run(["bash", "-n", "-c", each.get("run", "")], check=False).returncode == 0


def test_the_tag_has_to_be_the_version_and_the_changelog_has_to_know_it(checkout: Path) -> None:
    (check,) = (each["run"] for each in steps("version") if "run" in each)
    assert run(check, checkout, GITHUB_REF_NAME=f"v{VERSION}").returncode == 0
    other = run(check, checkout, GITHUB_REF_NAME="v9.9.9")
    assert other.returncode == 1
    assert f"the tag is v9.9.9 and pyproject.toml says {VERSION}" in other.stdout
    (checkout / "CHANGELOG.md").write_text("## Unreleased\n")
    unknown = run(check, checkout, GITHUB_REF_NAME=f"v{VERSION}")
    assert (unknown.returncode, "no section" in unknown.stdout) == (1, True)


def test_the_image_is_named_in_small_letters_and_its_digest_reaches_the_manifests(checkout: Path) -> None:
    output = checkout / "output"
    name = step("image", "name the image, in small letters as registries want it")
    told = {"GITHUB_REPOSITORY_OWNER": "Example-Org", "GITHUB_REF_NAME": f"v{VERSION}", "GITHUB_OUTPUT": str(output)}
    assert run(name["run"], checkout, **told).returncode == 0
    outputs = dict(line.split("=", 1) for line in output.read_text().splitlines())
    assert outputs == {"image": "ghcr.io/example-org/landfall-forwarder", "version": VERSION}
    assert run(step("image", "log in")["run"], checkout, GITHUB_ACTOR="somebody", TOKEN="secret").returncode == 0
    assert noted(checkout) == [["docker", "login", "ghcr.io", "--username", "somebody", "--password-stdin"]]
    push = step("image", "build and push")["with"]
    assert (ROOT / push["file"]).is_file()
    assert (push["push"], push["provenance"], push["platforms"]) == (True, "mode=max", "linux/amd64,linux/arm64")
    assert RELEASE["jobs"]["image"]["outputs"] == {
        "reference": "${{ steps.name.outputs.image }}@${{ steps.push.outputs.digest }}"
    }
    (make,) = (each for each in steps("files") if each.get("run", "").startswith("make release"))
    assert make == {
        "run": 'make release IMAGE="$IMAGE"',
        "env": {"IMAGE": "${{ needs.image.outputs.reference }}"},
    }


def test_all_of_dist_is_attested_and_published_with_the_changelogs_words(checkout: Path) -> None:
    attested = [each["with"] for each in steps("files") if "attest" in each.get("uses", "")]
    assert attested == [{"subject-path": "dist/*"}]
    (checkout / "dist").mkdir()
    for name in ("a.zip", "SHA256SUMS"):
        (checkout / "dist" / name).write_text(name)
    (checkout / "CHANGELOG.md").write_text(
        f"# Changelog\n\n## {VERSION} - today\n### Added\n- this\n\n## 0.0.9\n- that\n"
    )
    done = run(step("files", "publish")["run"], checkout, GITHUB_REF_NAME=f"v{VERSION}", GH_TOKEN="none")
    assert done.returncode == 0, done.stderr
    (command,) = noted(checkout)
    assert command[:6] == ["gh", "release", "create", f"v{VERSION}", "dist/SHA256SUMS", "dist/a.zip"]
    assert "--verify-tag" in command
    assert (checkout / command[command.index("--notes-file") + 1]).read_text() == "### Added\n- this\n\n"
    assert json.dumps(RELEASE).count("secrets.") == 0
