"""An OpenSSH server of the tests' own: the current user, one client key, nothing of the system's configuration."""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import socket
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from tests.servers.debian import system_binary
from tests.servers.process import free_port, running

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONFIGURATION = """\
ListenAddress 127.0.0.1:{port}
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/authorized_keys
PidFile {directory}/sshd.pid
AuthenticationMethods publickey
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
StrictModes no
UseDNS no
PrintMotd no
PermitUserRC no
AllowTcpForwarding no
X11Forwarding no
MaxStartups 200
MaxSessions 100
LogLevel VERBOSE
SetEnv GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null/none
"""


@dataclass(frozen=True)
class SshServer:
    """A running SSH server that lets one key in."""

    host: str
    port: int
    user: str
    private_key: str = field(repr=False)
    """The client's key, in OpenSSH's format."""
    private_key_file: Path
    known_hosts: str
    """The line of a known_hosts file that is true of this server."""
    changed_known_hosts: str
    """A line for the same server with another key, as after a change of its key or in an attack."""
    stranger_private_key: str = field(repr=False)
    """A client's key that the server does not let in."""
    known_hosts_file: Path
    log: Path

    def url(self, path: Path) -> str:
        """Return the URL of a path on this machine."""
        return f"ssh://{self.user}@{self.host}:{self.port}{path}"

    def git_ssh_command(self) -> str:
        """Return what GIT_SSH_COMMAND has to be for git's own client to come in."""
        options = {
            "IdentityFile": self.private_key_file,
            "UserKnownHostsFile": self.known_hosts_file,
            "GlobalKnownHostsFile": os.devnull,
            "IdentitiesOnly": "yes",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
        }
        given = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        return shlex.join([system_binary("ssh"), "-F", os.devnull, *given])


@contextlib.contextmanager
def ssh_server() -> Iterator[SshServer]:
    """Run an sshd on a port of its own."""
    with tempfile.TemporaryDirectory(prefix="landfall-ssh-") as folder:
        directory, port = Path(folder), free_port()
        private, public = key_pair()
        _, other_host = key_pair()
        host_private, host_public = key_pair()
        _write_private(directory / "host_key", host_private)
        _write_private(directory / "client_key", private)
        (directory / "authorized_keys").write_text(f"{public}\n")
        known_hosts = f"[127.0.0.1]:{port} {host_public}\n"
        (directory / "known_hosts").write_text(known_hosts)
        configuration = directory / "sshd_config"
        configuration.write_text(_CONFIGURATION.format(port=port, directory=directory))
        if os.geteuid() == 0:
            # The empty folder that an sshd run by root insists on; Debian's own start script would make it.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        server = SshServer(
            host="127.0.0.1",
            port=port,
            user=getpass.getuser(),
            private_key=private,
            private_key_file=directory / "client_key",
            known_hosts=known_hosts,
            changed_known_hosts=f"[127.0.0.1]:{port} {other_host}\n",
            stranger_private_key=key_pair()[0],
            known_hosts_file=directory / "known_hosts",
            log=directory / "sshd.log",
        )

        def ready() -> bool:
            with socket.create_connection(("127.0.0.1", port), timeout=2) as probe:
                return probe.recv(8).startswith(b"SSH-2.0")

        # Its full path, since it runs itself again for each connection; -D and -e keep it and its log with us.
        command = [system_binary("sshd"), "-D", "-e", "-f", configuration]
        with running("sshd", command, directory=directory, ready=ready):
            yield server


def key_pair() -> tuple[str, str]:
    """Return a new ed25519 key in OpenSSH's format: private, public."""
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private.decode(), public.decode()


def _write_private(path: Path, key: str) -> None:
    path.touch(mode=0o600)
    path.write_text(key)
