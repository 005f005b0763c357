"""Installs the servers that come as Debian packages, if their binaries are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from tests.servers.process import ServerUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

# Servers live in sbin, which is not on everybody's PATH.
_SEARCH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
_PACKAGES = {
    "nginx": "nginx-light",
    "fcgiwrap": "fcgiwrap",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "git": "git",
}
# Started by their packages, and at every boot, unless told otherwise: we start our own.
_UNITS = {
    "nginx-light": ["nginx.service"],
    "fcgiwrap": ["fcgiwrap.service", "fcgiwrap.socket"],
    "openssh-server": ["ssh.service", "ssh.socket"],
}

# policy-rc.d is Debian's way to forbid the start of services during an installation; it is put back as it was,
# whatever happens, and the lock keeps a second run from saving ours as if it were the machine's. `systemctl disable`
# keeps what we installed from starting at the next boot. A second attempt helps where another apt-get has just cleaned
# away what this one had downloaded.
_INSTALL = r"""
set -eu
exec 9> /run/landfall-test-servers.lock
flock 9
policy=/usr/sbin/policy-rc.d
saved=
restore() {
  if [ -n "$saved" ]; then mv -f "$saved" "$policy"; else rm -f "$policy"; fi
}
if [ -e "$policy" ]; then saved=$(mktemp "$policy.XXXXXX"); cp -p "$policy" "$saved"; fi
trap restore EXIT
trap 'exit 1' HUP INT TERM
printf '#!/bin/sh\nexit 101\n' > "$policy"
chmod 755 "$policy"
export DEBIAN_FRONTEND=noninteractive
apt-get -q -o DPkg::Lock::Timeout=300 update || echo 'apt-get update failed; trying with the lists as they are'
attempt=1
until apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold \
  install $PACKAGES
do
  [ $attempt -lt 3 ] || exit 1
  attempt=$((attempt + 1))
  sleep 3
done
if [ -d /run/systemd/system ]; then
  for unit in $UNITS; do systemctl disable "$unit" 2>/dev/null || true; done
fi
"""


def system_binary(name: str) -> str:
    """Return the path of a Debian package's binary; without it, say which command installs it."""
    found = shutil.which(name, path=_SEARCH)
    if found is None:
        raise ServerUnavailable(f"{name} is missing; run: python -m tests.servers.build {_PACKAGES[name]}")
    return found


def missing_packages() -> list[str]:
    """Return the packages whose binaries are not on this machine."""
    return sorted({package for binary, package in _PACKAGES.items() if shutil.which(binary, path=_SEARCH) is None})


def install(packages: list[str], say: Callable[[str], None]) -> None:
    """Install packages as root or through sudo, without starting any service."""
    by_hand = f"apt-get install --no-install-recommends {' '.join(packages)}"
    if shutil.which("apt-get") is None:
        raise ServerUnavailable(
            f"no apt-get here; install what Debian calls {', '.join(packages)} with this system's own package manager"
        )
    become = _become_root()
    if become is None:
        raise ServerUnavailable(f"installing {', '.join(packages)} needs root; run: sudo {by_hand}")
    say(f"installing {', '.join(packages)} with apt-get")
    units = [unit for package in packages for unit in _UNITS.get(package, [])]
    script = f"PACKAGES='{' '.join(packages)}'\nUNITS='{' '.join(units)}'\n{_INSTALL}"
    # The values are in the script itself: sudo need not pass any environment on.
    command = [*become, "sh", "-c", script]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode or missing_packages():
        output = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        raise ServerUnavailable(f"apt-get failed; run: sudo {by_hand}\n{output}")
    say(f"installed {', '.join(packages)}; their services are neither started nor enabled")


def _become_root() -> list[str] | None:
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo and subprocess.run([sudo, "-n", "true"], capture_output=True, check=False).returncode == 0:
        return [sudo, "-n"]
    return None
