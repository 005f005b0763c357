"""What a build refuses, and what an artifact on the wrong processor says."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra import artifacts

ROOT = Path(__file__).parents[2]


def settings(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str) -> None:
    file = folder / "samconfig.toml"
    file.write_text("version = 0.1\n" + text)
    monkeypatch.setattr(artifacts, "SETTINGS", file)


def test_our_own_settings_are_taken() -> None:
    artifacts._check_settings("x86_64")
    artifacts._check_settings("arm64")


def test_a_stack_whose_functions_names_would_be_too_long_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    most = artifacts.longest_stack_name()
    assert len(f"{'s' * most}-on-destination-change") == 64
    settings(monkeypatch, tmp_path, f'[default.global.parameters]\nstack_name = "{"s" * most}"')
    artifacts._check_settings("x86_64")
    settings(monkeypatch, tmp_path, f'[prod.deploy.parameters]\nstack_name = "{"s" * (most + 1)}"')
    with pytest.raises(SystemExit, match=rf"of \[prod\] in samconfig.toml has 43 characters, .*: use at most {most}"):
        artifacts._check_settings("x86_64")


OVERRIDES = [
    '"EksClusterName=prod Architecture=arm64"',
    '\'EksClusterName="prod" Architecture="arm64"\'',
    '["EksClusterName=prod", "Architecture=arm64"]',
]


@pytest.mark.parametrize("overrides", OVERRIDES, ids=["words", "quoted", "list"])
def test_a_build_for_another_processor_than_the_parameter_names_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, overrides: str
) -> None:
    settings(monkeypatch, tmp_path, f"[default.deploy.parameters]\nparameter_overrides = {overrides}")
    artifacts._check_settings("arm64")
    with pytest.raises(SystemExit, match="deploys Architecture=arm64, and this build is for x86_64: set the"):
        artifacts._check_settings("x86_64")


def test_an_artifact_on_another_processor_says_so_and_on_its_own_is_loaded(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "shared", tmp_path / "shared", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-c", "import shared.messages"]
    marker = tmp_path / "shared" / "architecture.txt"
    said = {}
    for machine in (os.uname().machine, "another"):
        marker.write_text(machine)
        said[machine] = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stderr
    assert said[os.uname().machine] == ""
    assert f"built for another, and the function runs on {os.uname().machine}" in said["another"]
