"""What `make release` writes: complete, the same bytes twice, and what its parts say that it is."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.artifacts import RUNTIME, functions
from infra.release import cluster
from infra.release.__main__ import LOCKS, list_packages
from infra.release.cluster import Image
from infra.release.functions import ARCHITECTURES, zip_folder
from infra.release.template import released
from tests.functions.interpreter import find_python
from tests.infra.conftest import CYCLONEDX, IMAGE, ROOT
from tests.infra.test_chart import by_name, manifests, pod, template

pytestmark = pytest.mark.timeout(900)  # a release takes a minute on a machine without other work

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
CHART = f"landfall-{VERSION}.tgz"
PLAIN = ("template.yaml", "crds.yaml", "rbac.yaml", "forwarder.yaml", "functions.cdx.json", "forwarder.cdx.json", CHART)
MACHINES = {"x86_64": 62, "arm64": 183}  # EM_X86_64, EM_AARCH64 (ELF's e_machine)
MAX_UNPACKED = 250_000_000  # Lambda's quota
MAX_TEMPLATE = 1_000_000  # CloudFormation's quota for a template in S3
DIGEST = "sha256:" + "0123456789abcdef" * 4


def zips(dist: Path) -> dict[tuple[str, str], Path]:
    """Return the zips by function and architecture."""
    found = {}
    for path in dist.glob("*.zip"):
        told = re.fullmatch(r"([a-z-]+)-(x86_64|arm64)-([0-9a-f]{12})\.zip", path.name)
        assert told, path.name
        assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(told[3])
        found[told[1], told[2]] = path
    return found


def test_a_release_is_complete_and_its_checksums_hold(dist: Path, tmp_path: Path) -> None:
    code = zips(dist)
    assert set(code) == {(name, architecture) for name in functions() for architecture in ARCHITECTURES}
    names = {*PLAIN, *(path.name for path in code.values())}
    assert {path.name for path in dist.iterdir()} == {*names, "SHA256SUMS"}
    check = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    done = subprocess.run(check, cwd=dist, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert {line.removesuffix(": OK") for line in done.stdout.splitlines()} == names
    shutil.copytree(dist, tmp_path / "dist")
    with (tmp_path / "dist" / CHART).open("ab") as file:
        file.write(b"\0")
    assert subprocess.run(check, cwd=tmp_path / "dist", capture_output=True, check=False).returncode == 1


def test_another_tree_makes_the_same_bytes_of_new_dependencies(
    dist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    for part in ("infra", "functions", "shared"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, tree / part, ignore=ignored, copy_function=shutil.copy)
    monkeypatch.setenv("LANDFALL_CACHE", str(tmp_path / "cache"))
    name = "write-documents"  # has all that any function has
    build = [find_python(RUNTIME), str(tree / "infra" / "artifacts.py"), "--function", name, str(tmp_path / "built")]
    subprocess.run(build, check=True, timeout=600)
    zip_folder(tmp_path / "built", tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == zips(dist)[name, "x86_64"].read_bytes()


def test_all_that_is_no_zip_comes_out_the_same_again(dist: Path, tmp_path: Path, transformed: dict[str, Any]) -> None:
    image = Image.parse(IMAGE, VERSION)
    code = {name: {each: zips(dist)[name, each].name for each in ARCHITECTURES} for name in functions()}
    again = {
        "template.yaml": released(transformed, code, VERSION).encode(),
        "crds.yaml": cluster.crds().encode(),
        "rbac.yaml": cluster.rbac().encode(),
        "forwarder.yaml": cluster.forwarder(image).encode(),
        CHART: cluster.chart(image, VERSION),
    }
    for name, lock in LOCKS.items():
        list_packages(str(CYCLONEDX), ROOT / lock, tmp_path / name)
        again[f"{name}.cdx.json"] = (tmp_path / name).read_bytes()
    assert again.keys() == set(PLAIN)
    assert [name for name, content in again.items() if (dist / name).read_bytes() != content] == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_zip_is_what_lambda_takes_and_for_its_own_architecture(dist: Path, architecture: str) -> None:
    for name in functions():
        with zipfile.ZipFile(zips(dist)[name, architecture]) as archive:
            entries = archive.infolist()
            assert archive.namelist() == sorted(archive.namelist())
            assert sum(entry.file_size for entry in entries) < MAX_UNPACKED
            assert {entry.external_attr >> 16 & 0o444 for entry in entries} == {0o444}, "Lambda's user reads it"
            assert {f"{name.replace('-', '_')}.py", "shared/runtime.py"} <= set(archive.namelist())
            assert any(entry.filename.endswith(".cpython-313.pyc") for entry in entries)
            libraries = [archive.read(entry)[:20] for entry in entries if ".so" in Path(entry.filename).suffixes]
            assert {int.from_bytes(head[18:20], "little") for head in libraries} == {MACHINES[architecture]}


def test_a_zip_is_the_same_whenever_and_by_whomever_its_files_were_written(tmp_path: Path) -> None:
    for number, names in enumerate((("b", "a/c"), ("a/c", "b"))):
        folder = tmp_path / str(number)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
            (folder / name).chmod(0o600 if number else 0o666)
            os.utime(folder / name, (10**9 * (number + 1),) * 2)
        zip_folder(folder, tmp_path / f"{number}.zip")
    assert (tmp_path / "0.zip").read_bytes() == (tmp_path / "1.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "0.zip") as archive:
        assert [(name, archive.read(name)) for name in archive.namelist()] == [("a/c", b"a/c"), ("b", b"b")]


@pytest.mark.parametrize(("sbom", "lock"), LOCKS.items())
def test_an_sbom_lists_every_package_of_its_lock_with_its_version(dist: Path, sbom: str, lock: str) -> None:
    told = json.loads((dist / f"{sbom}.cdx.json").read_text())
    assert (told["bomFormat"], told["metadata"]["component"]["version"]) == ("CycloneDX", VERSION)
    locked = set(re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", (ROOT / lock).read_text(), re.MULTILINE))
    assert len(locked) > 15
    assert {(component["name"], component["version"]) for component in told["components"]} == locked
    assert {component["purl"].partition("?")[0] for component in told["components"]} == {
        f"pkg:pypi/{name}@{version}" for name, version in locked
    }


def test_the_released_template_is_cloudformations_own_and_differs_in_the_code_alone(
    dist: Path, transformed: dict[str, Any]
) -> None:
    text = (dist / "template.yaml").read_text()
    assert len(text.encode()) < MAX_TEMPLATE
    template = yaml.safe_load(text)
    assert "Transform" not in template
    assert VERSION in template["Description"]
    assert template["Parameters"].keys() == {*transformed["Parameters"], "ArtifactBucket", "ArtifactPrefix"}
    assert "sam " not in json.dumps(template["Parameters"])
    named = {name for code in zips(dist).values() for name in [code.name]}
    pointed = set()
    for id_, resource in transformed["Resources"].items():
        ours = template["Resources"][id_]
        if resource["Type"] == "AWS::Lambda::Function":
            pointed |= set(re.findall(r"\$\{ArtifactPrefix\}([\w-]+\.zip)", json.dumps(ours["Properties"]["Code"])))
            ours["Properties"]["Code"] = resource["Properties"]["Code"]
            resource = {key: value for key, value in resource.items() if key != "Metadata"}
        assert ours == resource, id_
    assert pointed == named
    assert template["Resources"].keys() == transformed["Resources"].keys()
    assert template["Outputs"].keys() == transformed["Outputs"].keys()
    assert "infra/" not in json.dumps(template["Outputs"]), "whoever installs a release has no tree"


def test_each_function_gets_the_zip_of_its_architecture(dist: Path) -> None:
    template = yaml.safe_load((dist / "template.yaml").read_text())
    assert template["Conditions"]["OnArm"] == {"Fn::Equals": [{"Ref": "Architecture"}, "arm64"]}
    for resource in template["Resources"].values():
        if resource["Type"] != "AWS::Lambda::Function":
            continue
        name = resource["Properties"]["FunctionName"]["Fn::Sub"].removeprefix("${AWS::StackName}-")
        condition, *keys = resource["Properties"]["Code"]["S3Key"]["Fn::If"]
        assert condition == "OnArm"
        for key, architecture in zip(keys, ("arm64", "x86_64"), strict=True):
            assert key == {"Fn::Sub": f"${{ArtifactPrefix}}{zips(dist)[name, architecture].name}"}


def test_a_function_without_a_zip_is_no_release(transformed: dict[str, Any]) -> None:
    code = {name: dict.fromkeys(ARCHITECTURES, "a.zip") for name in functions() if name != "resync"}
    with pytest.raises(LookupError, match="has a function resync"):
        released(transformed, code, VERSION)


def test_cfn_lint_finds_nothing_in_the_released_template(dist: Path) -> None:
    command = [Path(sys.executable).with_name("cfn-lint"), dist / "template.yaml"]
    linted = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (linted.returncode, linted.stdout) == (0, "")


def test_the_manifests_are_those_of_the_tree_with_the_image_by_digest(dist: Path) -> None:
    texts = [(dist / name).read_text() for name in ("crds.yaml", "rbac.yaml", "forwarder.yaml")]
    assert "pod-security.kubernetes.io/enforce: restricted" in texts[-1]
    ours, plain = by_name([obj for text in texts for obj in yaml.safe_load_all(text)]), manifests()
    assert pod(ours)["spec"]["containers"][0]["image"] == IMAGE
    pod(ours)["spec"]["containers"][0]["image"] = pod(plain)["spec"]["containers"][0]["image"]
    assert ours == plain


def test_the_packaged_chart_renders_the_released_manifests(dist: Path, tmp_path: Path) -> None:
    chart = template(tmp_path, {}, dist / CHART)
    del pod(chart)["metadata"]["annotations"]
    texts = [(dist / name).read_text() for name in ("crds.yaml", "rbac.yaml", "forwarder.yaml")]
    plain = by_name([obj for text in texts for obj in yaml.safe_load_all(text)])
    assert chart == plain


@pytest.mark.parametrize(
    ("reference", "printed"),
    [
        ("", f"landfall-forwarder:{VERSION}"),
        (f"ghcr.io/a/landfall-forwarder@{DIGEST}", f"ghcr.io/a/landfall-forwarder@{DIGEST}"),
        (f"ghcr.io/a/landfall-forwarder:1.2@{DIGEST}", f"ghcr.io/a/landfall-forwarder@{DIGEST}"),
        ("localhost:5000/landfall-forwarder", f"localhost:5000/landfall-forwarder:{VERSION}"),
        ("localhost:5000/f:2", "localhost:5000/f:2"),
        ("111122223333.dkr.ecr.eu-west-1.amazonaws.com/f:2", "111122223333.dkr.ecr.eu-west-1.amazonaws.com/f:2"),
    ],
)
def test_an_image_is_named_by_its_digest_or_it_is_said_that_it_is_not(reference: str, printed: str) -> None:
    image = Image.parse(reference, VERSION)
    assert str(image) == printed
    assert ("by its tag alone" in image.advice) is ("@" not in printed)
    (deployment,) = (obj for obj in yaml.safe_load_all(cluster.forwarder(image)) if obj["kind"] == "Deployment")
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == printed


@pytest.mark.parametrize("reference", ["f@sha256:abc", f"f@md5:{'a' * 32}", "http://ghcr.io/f", "f f", "F", "a/b:"])
def test_what_is_no_image_is_refused(reference: str) -> None:
    with pytest.raises(ValueError, match="write repository@sha256:digest"):
        Image.parse(reference, VERSION)


def test_one_version_stands_everywhere() -> None:
    chart = yaml.safe_load((ROOT / "infra/kubernetes/chart/Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)
    (image,) = yaml.safe_load((ROOT / "infra/kubernetes/forwarder/kustomization.yaml").read_text())["images"]
    assert image["newTag"] == VERSION
    for page in (ROOT / "docs").rglob("*.md"):
        assert set(re.findall(r"landfall-forwarder:([0-9.]+[0-9])", page.read_text())) <= {VERSION}, page.name
