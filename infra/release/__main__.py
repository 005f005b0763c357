"""Builds a release (`make release`). It runs with the interpreter of SAM's environment, which has the translator."""

import argparse
import hashlib
import os
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Final

from infra.artifacts import functions
from infra.deployment.transform import transform
from infra.release import cluster
from infra.release.functions import ROOT, zip_functions
from infra.release.template import released

# The locks whose packages are listed, by what they are the lock of.
LOCKS: Final = {"functions": "infra/locks/requirements.txt", "forwarder": "infra/locks/requirements-forwarder.txt"}
CHECKSUMS: Final = "SHA256SUMS"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m infra.release", description=__doc__)
    parser.add_argument("--python", required=True, help="interpreter of the functions' version")
    parser.add_argument("--cyclonedx", required=True, help="the command cyclonedx-py")
    parser.add_argument("--image", default="", help="of the forwarder: repository@sha256:digest")
    parser.add_argument("target", type=Path, help="folder of the release; its content is deleted first")
    given = parser.parse_args()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    try:
        image = cluster.Image.parse(given.image, version)
    except ValueError as error:
        parser.error(str(error))
    target: Path = given.target
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    zips = zip_functions(functions(), given.python, target)
    (target / "template.yaml").write_text(released(transform(), zips, version))
    (target / "crds.yaml").write_text(cluster.crds())
    (target / "rbac.yaml").write_text(cluster.rbac())
    (target / "forwarder.yaml").write_text(cluster.forwarder(image))
    (target / f"landfall-{version}.tgz").write_bytes(cluster.chart(image, version))
    for name, lock in LOCKS.items():
        list_packages(given.cyclonedx, ROOT / lock, target / f"{name}.cdx.json")
    _sum_up(target)
    print(f"{target} holds release {version}; the forwarder's image is {image}")
    if image.advice:
        print(image.advice)


def list_packages(cyclonedx: str, lock: Path, target: Path) -> None:
    """Write the list of a lock's packages (SBOM) as CycloneDX, without a time or a random number in it."""
    command = [cyclonedx, "requirements", "--output-reproducible", "--spec-version", "1.6", "--output-format", "JSON"]
    command += ["--pyproject", str(ROOT / "pyproject.toml"), "--output-file", str(target), str(lock)]
    # It warns about a missing dependency graph: a lock has none.
    if subprocess.run(command, env={**os.environ, "PYTHONWARNINGS": "ignore"}, check=False).returncode:
        raise SystemExit(f"the packages of {lock.name} could not be listed: cyclonedx-py says why above")


def _sum_up(folder: Path) -> None:
    """Write the checksums of all files, as `sha256sum --check` reads them."""
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(folder.iterdir())]
    (folder / CHECKSUMS).write_text("".join(lines))


if __name__ == "__main__":
    main()
