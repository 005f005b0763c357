"""Git over SSH, by paramiko: Lambda has no ssh binary, and nothing here touches a disk, an agent or `~/.ssh`."""

import base64
import binascii
import contextlib
import fnmatch
import hashlib
import hmac
import io
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Final, cast

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from dulwich.client import SSHGitClient, SSHVendor, SubprocessWrapper
from dulwich.protocol import Protocol

from shared.errors import AccessDenied, StateStoreNotReady, StoreUnavailable
from shared.resources import Secret
from shared.writers.git.remote import PORTS, Remote
from shared.writers.git.session import ConnectionLost, Session

THREAD_SECONDS: Final = 2.0  # that paramiko's own thread has to end after its connection was closed
SAID_SECONDS: Final = 1.0  # that the words of a server may take after it has ended a command
POLL_SECONDS: Final = 0.02
MAX_SAID_BYTES: Final = 8192
HEAD_BYTES: Final = 512  # of the output that is kept, in case it is words
_PACKET: Final = re.compile(rb"[0-9a-fA-F]{4}")
_KNOWN_HOST_FIELDS: Final = 3
# The signature algorithms behind a key's type in known_hosts; a server is asked only for keys that can be checked.
_ALGORITHMS: Final = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}


@dataclass(frozen=True)
class _KnownHost:
    patterns: tuple[str, ...]
    type: str
    key: bytes
    revoked: bool

    def names(self, host: str) -> bool:
        """Whether this line is about a host, in one of OpenSSH's spellings (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""
        matched = False
        for pattern in self.patterns:
            if pattern.startswith("|1|"):
                matched |= _hash_matches(pattern, host)
            elif pattern.startswith("!"):
                if fnmatch.fnmatchcase(host, _literal_brackets(pattern[1:].lower())):
                    return False
            else:
                matched |= fnmatch.fnmatchcase(host, _literal_brackets(pattern.lower()))
        return matched


class KnownHosts:
    """The host keys that may be trusted: the Secret's `knownHosts`, in the format of OpenSSH's known_hosts.

    Raises:
        StateStoreNotReady: no line of it can be read.
    """

    def __init__(self, text: str) -> None:
        self._entries = tuple(_entries(text))
        if not any(not entry.revoked for entry in self._entries):
            raise StateStoreNotReady("secret key knownHosts holds no host key: write the output of `ssh-keyscan HOST`")

    def of(self, remote: Remote) -> list[_KnownHost]:
        """Return the keys of a host; with a port of its own first those of `[host]:port`, as OpenSSH does.

        Raises:
            StateStoreNotReady: there is none.
        """
        host = remote.host.lower()
        names = [host] if remote.port == PORTS["ssh"] else [f"[{host}]:{remote.port}", host]
        for name in names:
            if found := [entry for entry in self._entries if not entry.revoked and entry.names(name)]:
                return found
        raise StateStoreNotReady(
            f"the host key of {remote} is unknown: add the output of `ssh-keyscan -p {remote.port} {remote.host}`"
            " to the key knownHosts of the Secret, after checking it"
        )

    def revoked(self, key: bytes) -> bool:
        """Whether a line marks the key as revoked."""
        return any(entry.revoked and entry.key == key for entry in self._entries)


def private_key(secret: Secret) -> paramiko.PKey:
    """Return the Secret's `sshPrivateKey`: ed25519, ecdsa or rsa, in OpenSSH's format or PEM.

    Raises:
        StateStoreNotReady: it is missing, protected by a passphrase, or no such key.
    """
    # Editors and `echo` change line ends and the last one; both formats want theirs back.
    text = secret.require_text("sshPrivateKey").replace("\r\n", "\n").encode() + b"\n"
    what = f"secret key sshPrivateKey of Secret {secret.name}"
    load = serialization.load_ssh_private_key if b"OPENSSH" in text else serialization.load_pem_private_key
    try:
        key = load(text, password=None)
    except TypeError:
        raise StateStoreNotReady(f"{what} is protected by a passphrase: use a key without one") from None
    except (ValueError, UnsupportedAlgorithm):
        raise StateStoreNotReady(f"{what} is no private key in OpenSSH's or PEM format") from None
    kind: type[paramiko.PKey]
    match key:
        case ed25519.Ed25519PrivateKey():
            kind = paramiko.Ed25519Key
        case ec.EllipticCurvePrivateKey():
            kind = paramiko.ECDSAKey
        case rsa.RSAPrivateKey():
            kind = paramiko.RSAKey
        case _:
            raise StateStoreNotReady(f"{what} is of a type that is not supported: use ed25519, ecdsa or rsa")
    plain = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    return kind.from_private_key(io.StringIO(plain.decode()))


class SshVendor(SSHVendor):
    """Runs Git's commands over one connection a session, each in a channel of its own."""

    def __init__(self, remote: Remote, session: Session, key: paramiko.PKey, known: KnownHosts) -> None:
        self._remote = remote
        self._session = session
        self._key = key
        self._known = known
        self._transport: paramiko.Transport | None = None
        self._command: _Command | None = None

    def said(self) -> str:
        """Return what the server said beside the output of the last command."""
        return "" if self._command is None else self._command.said()

    def run_command(  # noqa: PLR0917 -- dulwich's signature
        self,
        host: str,
        command: bytes,
        username: str | None = None,
        port: int | None = None,
        password: str | None = None,
        key_filename: str | None = None,
        ssh_command: str | None = None,
        protocol_version: int | None = None,
    ) -> SubprocessWrapper:
        """Start a command on the server and return what reads and writes it.

        Raises:
            AccessDenied: the server does not accept the key.
            StateStoreNotReady: the host's key is not the known one, or of another type.
            StoreUnavailable: no connection.
        """
        del host, username, port, password, key_filename, ssh_command
        try:
            if self._transport is None or not self._transport.is_active():
                self._transport = self._connected()
            channel = self._transport.open_session(timeout=self._session.timeout())
            channel.settimeout(self._session.timeout())
            if protocol_version in {None, 2} and b"upload-pack" in command:
                channel.set_environment_variable("GIT_PROTOCOL", "version=2")
            channel.exec_command(command.decode())
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self._explain(error) from None
        self._command = _Command(channel, self._session, str(self._remote))
        return cast("SubprocessWrapper", self._command)

    def _connected(self) -> paramiko.Transport:
        remote, session = self._remote, self._session
        expected = self._known.of(remote)
        sock = session.connect(remote.host, remote.port)
        session.at_end(sock.close)
        transport = paramiko.Transport(sock)
        session.at_end(lambda: _end(transport))
        transport.banner_timeout = transport.auth_timeout = transport.handshake_timeout = session.timeout()
        options = transport.get_security_options()
        types = [name for entry in expected for name in _ALGORITHMS.get(entry.type, (entry.type,))]
        if usable := [name for name in dict.fromkeys(types) if name in options.key_types]:
            options.key_types = usable
        transport.start_client(timeout=session.timeout())
        key = transport.get_remote_server_key()
        if self._known.revoked(key.asbytes()) or not any(entry.key == key.asbytes() for entry in expected):
            raise StateStoreNotReady(
                f"the host key of {remote} does not match knownHosts (possible interception, or a rotated key; the host"
                f" shows {_fingerprint(key)}): check it, then update the key knownHosts of the Secret"
            )
        transport.auth_publickey(remote.user, self._key)
        return transport

    def _explain(self, error: Exception) -> AccessDenied | StateStoreNotReady | StoreUnavailable:
        remote = self._remote
        if isinstance(error, paramiko.AuthenticationException):
            return AccessDenied(
                f"{remote} does not accept the key of user {remote.user}: check sshPrivateKey, that its public half is"
                " added to the forge, and the user in spec.url"
            )
        if isinstance(error, paramiko.ssh_exception.IncompatiblePeer) and "host key" in str(error):
            types = ", ".join(dict.fromkeys(entry.type for entry in self._known.of(remote)))
            return StateStoreNotReady(
                f"{remote} has no host key of the types in knownHosts ({types}): add the output of"
                f" `ssh-keyscan -p {remote.port} {remote.host}` to the key knownHosts of the Secret, after checking it"
            )
        if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
            return StateStoreNotReady(f"{remote} and we have no algorithm in common: update the SSH server ({error})")
        if isinstance(error, TimeoutError):
            return StoreUnavailable(f"{remote} did not answer in time over SSH")
        return ConnectionLost(f"the SSH connection to {remote} broke ({type(error).__name__})")


class SshClient(SSHGitClient):
    """dulwich's SSH client that closes what it opened, also where dulwich does not come to it."""

    def __init__(self, remote: Remote, session: Session, vendor: SshVendor) -> None:
        super().__init__(remote.host, port=remote.port, username=remote.user, vendor=vendor, thin_packs=False)
        self._session = session
        self._vendor = vendor

    def said(self) -> str:
        """Return what the server said beside the output of its last command."""
        return self._vendor.said()

    @staticmethod
    def _warn_filter_objects() -> None:
        """Say nothing: a server without filters is a slower one, not a problem."""

    def _connect(
        self, cmd: bytes, path: str | bytes, protocol_version: int | None = None
    ) -> tuple[Protocol, Callable[[], bool], IO[bytes] | None]:
        opened = super()._connect(cmd, path, protocol_version)
        self._session.at_end(opened[0].close)
        return opened


class _Command:
    """A command on the server, as dulwich wants to see it."""

    def __init__(self, channel: paramiko.Channel, session: Session, host: str) -> None:
        self._channel = channel
        self._session = session
        self._host = host
        self._output = channel.makefile("rb")
        self._metered = session.meter(self._output.read, host)
        self._head = bytearray()

    def said(self) -> str:
        """Return what the server says in words: beside its output, and in the place of it where it is not Git's.

        A server that says no ends the command; one that does not is not waited for long.
        """
        end = time.monotonic() + min(SAID_SECONDS, max(0.0, self._session.deadline.remaining))
        words = bytearray()
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            ended = False
            while not ended and len(words) < MAX_SAID_BYTES:
                ended = self._channel.exit_status_ready() or self._channel.closed or time.monotonic() >= end
                while self._channel.recv_stderr_ready() and len(words) < MAX_SAID_BYTES:
                    words += self._channel.recv_stderr(MAX_SAID_BYTES)
                time.sleep(0 if ended else POLL_SECONDS)
            if self._head and not _PACKET.match(self._head):
                while self._channel.recv_ready() and len(self._head) < MAX_SAID_BYTES:
                    self._head += self._channel.recv(MAX_SAID_BYTES)
                words += b" " + self._head
        return bytes(words[:MAX_SAID_BYTES]).decode("utf-8", "replace")

    @property
    def stderr(self) -> IO[bytes] | None:
        """What the command says beside its output; read when it has hung up."""
        return self._channel.makefile_stderr("rb")  # type: ignore[return-value]

    def can_read(self) -> bool:
        """Whether output is waiting."""
        return self._channel.recv_ready()

    def read(self, size: int) -> bytes:
        """Read so many bytes, fewer only at the end."""
        try:
            data = self._metered(size)
        except TimeoutError:
            raise StoreUnavailable(f"{self._host} did not answer in time over SSH") from None
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise ConnectionLost(f"the SSH connection to {self._host} broke ({type(error).__name__})") from None
        self._head += data[: max(0, HEAD_BYTES - len(self._head))]
        return data

    def write(self, data: bytes) -> int:
        """Send everything."""
        self._session.check()
        try:
            self._channel.sendall(data)
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise ConnectionLost(f"the SSH connection to {self._host} broke ({type(error).__name__})") from None
        return len(data)

    def close(self, timeout: int | None = None) -> None:
        """End the command; the connection stays for the session's next one."""
        del timeout
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.close()


def _end(transport: paramiko.Transport) -> None:
    transport.close()
    if transport.ident is not None:
        transport.join(THREAD_SECONDS)


def _entries(text: str) -> Iterator[_KnownHost]:
    for line in text.splitlines():
        fields = line.split("#", 1)[0].split() if line.lstrip().startswith("#") else line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) < _KNOWN_HOST_FIELDS or marker == "@cert-authority":
            continue
        try:
            key = base64.b64decode(fields[2], validate=True)
        except (binascii.Error, ValueError):
            continue
        yield _KnownHost(tuple(fields[0].split(",")), fields[1], key, revoked=marker == "@revoked")


def _hash_matches(pattern: str, host: str) -> bool:
    try:
        _, _, salt, digest = pattern.split("|")
        made = hmac.new(base64.b64decode(salt), host.encode(), hashlib.sha1).digest()
        return hmac.compare_digest(made, base64.b64decode(digest))
    except (ValueError, binascii.Error):
        return False


def _literal_brackets(pattern: str) -> str:
    # In known_hosts only `*` and `?` are special; fnmatch would also read `[host]` as a set of characters.
    return pattern.replace("[", "[[]")


def _fingerprint(key: paramiko.PKey) -> str:
    return "SHA256:" + base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")
