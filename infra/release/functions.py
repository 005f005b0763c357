"""The functions' code as reproducible zips: the same content gives the same bytes."""

import hashlib
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
ARCHITECTURES: Final = ("x86_64", "arm64")  # Lambda's names, and the template's parameter Architecture
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the oldest time that a zip can hold (APPNOTE 4.4.6)
_DIGITS: Final = 12  # of the checksum, in a zip's name


def zip_functions(names: Sequence[str], python: str, target: Path) -> Mapping[str, Mapping[str, str]]:
    """Build every function for every architecture, and zip it.

    A zip's name ends in a part of its checksum. So CloudFormation, which compares names, deploys a function exactly
    when its code has changed, and releases can share a prefix of a bucket.

    Args:
        names: of the functions.
        python: the interpreter that infra/artifacts.py runs on: the functions' own version.
        target: folder that gets the zips.

    Returns:
        By a function's name and by architecture, the zip's name.

    Raises:
        SystemExit: an artifact could not be built; the command says why.
    """
    made: dict[str, dict[str, str]] = {name: {} for name in names}
    for architecture in ARCHITECTURES:
        with tempfile.TemporaryDirectory() as folder:
            command = [python, str(ROOT / "infra" / "artifacts.py"), "--architecture", architecture, folder]
            if subprocess.run(command, check=False).returncode:
                raise SystemExit(f"the artifacts for {architecture} could not be built: see above for why")
            for name in names:
                zipped = target / f"{name}-{architecture}.zip"
                zip_folder(Path(folder) / name, zipped)
                digest = hashlib.sha256(zipped.read_bytes()).hexdigest()[:_DIGITS]
                made[name][architecture] = zipped.rename(target / f"{name}-{architecture}-{digest}.zip").name
    return made


def zip_folder(folder: Path, target: Path) -> None:
    """Zip a folder's files: sorted, with one time, readable for all users as Lambda requires."""
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
            if path.is_file():
                entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _EPOCH)
                entry.create_system = 3  # Unix, whose permissions follow
                entry.external_attr = (0o100755 if path.stat().st_mode & 0o100 else 0o100644) << 16
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, path.read_bytes())
