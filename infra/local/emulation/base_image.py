"""A stand-in for Lambda's Python image, made of this machine's own Python and libraries.

For where no Docker engine pulls the real one. It has what SAM and the emulator rely on: Python under /var/lang,
awslambdaric beside it, /var/runtime/bootstrap, a shell for the one RUN that SAM adds. It is no Amazon Linux: what needs
that system's own libraries is not tested by it.
"""

import io
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Final

SETTINGS: Final = (
    "ENV PATH=/var/lang/bin:/bin",
    "ENV LD_LIBRARY_PATH=/var/lang/lib:/opt/lib:/var/task:/var/task/lib",
    "ENV LAMBDA_TASK_ROOT=/var/task",
    "ENV TZ=:UTC",
    "ENV LANG=C.UTF-8",
)
_BOOTSTRAP: Final = '#!/bin/sh\nexec /var/lang/bin/python3.13 -m awslambdaric "$_HANDLER"\n'
_TOOLS: Final = ("sh", "mv", "chmod", "cp", "rm")  # of the Dockerfile that SAM writes
_FOLDERS: Final = ("var/task", "var/rapid", "opt", "etc", "proc", "sys", "dev")
# Wheels may use these without bringing them along (PEP 600: manylinux).
_LIBRARIES: Final = ("libdl.so.2", "libgcc_s.so.1", "libpthread.so.0", "librt.so.1", "libstdc++.so.6", "libutil.so.1")
_LEFT_OUT: Final = frozenset(
    {"test", "tests", "idlelib", "site-packages", "dist-packages", "ensurepip", "tkinter", "turtledemo", "__pycache__"}
)
_WITHOUT_LIBRARIES: Final = ("_tkinter", "_test")  # extension modules that no function loads
_LINKED: Final = re.compile(r"^\s+(\S+) => (/\S+)", re.MULTILINE)
_LOADER: Final = re.compile(r"^\s+(/\S+) \(", re.MULTILINE)


def write(client: Path, target: IO[bytes]) -> None:
    """Write the image's root as a tar archive; it is made of the very Python that runs this.

    Args:
        client: folder with awslambdaric.
        target: where to.

    Raises:
        FileNotFoundError: this system lacks one of the tools.
    """
    python, library = Path(sys.executable).resolve(), Path(sysconfig.get_path("stdlib"))
    tools = {name: shutil.which(name) for name in _TOOLS}
    if missing := sorted(name for name, found in tools.items() if found is None):
        raise FileNotFoundError(f"{', '.join(missing)} cannot be found on the PATH")
    programs = [Path(found).resolve() for found in tools.values() if found]
    extensions = [p for p in library.glob("lib-dynload/*.so") if not p.name.startswith(_WITHOUT_LIBRARIES)]
    loader, libraries = _libraries([python, *programs, *extensions, *client.rglob("*.so")])
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name in _FOLDERS:
            _folder(tar, name)
        _folder(tar, "tmp", 0o1777)
        tar.add(python, "var/lang/bin/python3.13", filter=_owned)
        tar.add(library, "var/lang/lib/python3.13", filter=_kept)
        tar.add(client, "var/lang/lib/python3.13/site-packages", filter=_owned)
        tar.add(loader.resolve(), str(loader).lstrip("/"), filter=_owned)
        for name, path in sorted(libraries.items()):
            tar.add(path.resolve(), f"var/lang/lib/{name}", filter=_owned)
        for name, program in zip(tools, programs, strict=True):
            tar.add(program, f"bin/{name}", filter=_owned)
        _file(tar, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\n", 0o644)
        _file(tar, "var/runtime/bootstrap", _BOOTSTRAP, 0o755)


def _libraries(files: Iterable[Path]) -> tuple[Path, Mapping[str, Path]]:
    """Return the dynamic loader, and the libraries that it would load for files, by name."""
    said = subprocess.run(["ldd", *files], capture_output=True, text=True, check=False).stdout
    libraries = {name: Path(path) for name, path in _LINKED.findall(said)}
    beside = libraries["libc.so.6"].resolve().parent
    libraries = {name: beside / name for name in _LIBRARIES if (beside / name).exists()} | libraries
    return Path(_LOADER.findall(said)[0]), libraries


def _owned(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    parts = Path(entry.name).parts
    left_out = not _LEFT_OUT.isdisjoint(parts) or any(part.startswith("config-") for part in parts)
    return None if left_out else _owned(entry)


def _folder(tar: tarfile.TarFile, name: str, mode: int = 0o755) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    tar.addfile(entry)


def _file(tar: tarfile.TarFile, name: str, text: str, mode: int) -> None:
    content = text.encode()
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))


if __name__ == "__main__":
    with Path(sys.argv[2]).open("wb") as archive:
        write(Path(sys.argv[1]), archive)
