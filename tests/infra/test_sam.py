"""What SAM makes of the template and of its settings, with SAM itself."""

import subprocess
import tomllib
from pathlib import Path

import yaml

from infra.local.template import _Loader
from tests.infra.conftest import SAM

DUMP = (
    "import sys; from samcli.yamlhelper import yaml_dump, yaml_parse;"
    " sys.stdout.write(yaml_dump(yaml_parse(sys.stdin.read())))"
)


def test_what_sam_uploads_has_no_aliases_which_cloudformation_does_not_know() -> None:
    template = Path("template.yaml").read_text()
    command = [str(SAM / "python"), "-c", DUMP]
    done = subprocess.run(command, input=template, capture_output=True, text=True, check=True, timeout=60)
    assert any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(template))
    assert not any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(done.stdout))
    assert "<<" not in done.stdout
    assert yaml.load(done.stdout, _Loader)["Resources"] == yaml.load(template, _Loader)["Resources"]


def test_the_settings_for_sam_allow_what_the_template_makes() -> None:
    deploy = tomllib.loads(Path("infra/samconfig.toml").read_text())["default"]["deploy"]["parameters"]
    resources = yaml.load(Path("template.yaml").read_text(), _Loader)["Resources"].values()
    roles = [r["Properties"] for r in resources if r["Type"] in {"AWS::IAM::Role", "AWS::IAM::ManagedPolicy"}]
    assert roles
    named = any("RoleName" in role or "ManagedPolicyName" in role for role in roles)
    assert deploy["capabilities"] == ("CAPABILITY_NAMED_IAM" if named else "CAPABILITY_IAM")
    assert deploy["confirm_changeset"] is True


def test_sam_reads_these_settings_and_finds_the_template_valid() -> None:
    command = [str(SAM / "sam"), "validate", "--config-file", "infra/samconfig.toml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is a valid SAM Template" in done.stdout
