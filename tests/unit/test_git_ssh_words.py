"""An SSH server that says no in words, beside its output or in the place of it, has answered; it has not broken off.

The servers here are paramiko's own: no forge but each one itself says these words, in these places.
"""

from __future__ import annotations

import contextlib
import io
import socket
import threading
from typing import TYPE_CHECKING, Any

import paramiko
import pytest
from paramiko.common import AUTH_SUCCESSFUL, OPEN_SUCCEEDED

from shared.errors import (
    AccessDenied,
    StateStoreError,
    StateStoreNotReady,
    StoreNotFound,
    StoreUnavailable,
    WriteRejected,
)
from shared.resources import GitStateStore
from shared.settings import Settings
from shared.writers import open_writer
from tests.contract.harness import LOOPBACK, secret_of, soon
from tests.servers.ssh import key_pair

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Forge(paramiko.ServerInterface):
    """Lets every key in, and answers every command with the same words."""

    def __init__(self, output: bytes, errors: bytes) -> None:
        self.output, self.errors = output, errors

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED

    def check_channel_env_request(self, channel: Any, name: bytes, value: bytes) -> bool:
        return True

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=self._answer, args=(channel,), daemon=True).start()
        return True

    def _answer(self, channel: paramiko.Channel) -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            channel.event.wait(0.05)  # the client reads the answer to its request first
            channel.sendall(self.output)
            channel.sendall_stderr(self.errors)
            channel.send_exit_status(1)
            channel.close()


@contextlib.contextmanager
def forge(output: bytes, errors: bytes) -> Iterator[tuple[str, str]]:
    """Run a server, and return its URL and its line of known_hosts."""
    private, public = key_pair()
    host_key = paramiko.Ed25519Key.from_private_key(io.StringIO(private))
    stopped = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def serve() -> None:
            while not stopped.is_set():
                with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                    connection, _ = listening.accept()
                    transport = paramiko.Transport(connection)
                    transports.append(transport)
                    transport.add_server_key(host_key)
                    transport.start_server(server=_Forge(output, errors))

        transports: list[paramiko.Transport] = []
        listening.settimeout(0.2)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"ssh://git@127.0.0.1:{port}/octo/fleet.git", f"[127.0.0.1]:{port} {public}\n"
        finally:
            stopped.set()
            thread.join()
            for transport in transports:
                transport.close()
                transport.join(5)


ANSWERS: dict[str, tuple[bytes, bytes, type[StateStoreError], str]] = {
    "github": (b"", b"ERROR: Repository not found.\n", StoreNotFound, "Repository not found."),
    "gitlab": (
        b"",
        b"remote: \nremote: ERROR: The project you were looking for could not be found.\nremote: \n",
        StoreNotFound,
        "hides it from this key",
    ),
    "gitea": (b"\n", b"Gitea: Unauthorized\n", AccessDenied, "give the key write access"),
    "gitea-deploy-key": (
        b"\n",
        b"\nGitea: Deploy Key: 1:robot is not authorized to write to octo/fleet.\n",
        AccessDenied,
        "is not authorized to write to octo/fleet",
    ),
    "sso": (b"", b"ERROR: The 'acme' organization has enabled or enforced SAML SSO.\n", AccessDenied, "(SSO)"),
    "archived": (b"", b"ERROR: This repository was archived so it is read-only.\n", WriteRejected, "unarchive it"),
    "on-its-output": (b"repository access denied.\n", b"", AccessDenied, "repository access denied."),
    "another-user": (b'Please login as the user "git".\n', b"", StateStoreNotReady, "user in spec.url"),
    "err-packet": (b"002bERR Repository is temporarily read-only", b"", StoreUnavailable, "temporarily read-only"),
    "new-words": (b"", b"Not on a Sunday.\x1b[0m\n", StoreUnavailable, "ended the session: Not on a Sunday."),
    "new-words-on-its-output": (b"Not on a Sunday.\n", b"", StoreUnavailable, "ended the session: Not on a Sunday."),
    "nothing": (b"", b"", StoreUnavailable, "broke off"),
}


@pytest.mark.parametrize(("output", "errors", "kind", "words"), ANSWERS.values(), ids=ANSWERS)
async def test_words_of_an_ssh_server_are_an_answer(
    output: bytes, errors: bytes, kind: type[StateStoreError], words: str
) -> None:
    private, _ = key_pair()
    with forge(output, errors) as (url, known):
        spec = {"url": url, "authMethod": "ssh"}
        store = GitStateStore.parse({"kind": "GitStateStore", "metadata": {"name": "s"}, "spec": spec})
        secret = secret_of(sshPrivateKey=private, knownHosts=known)
        async with open_writer(store, secret, Settings(allowed_networks=LOOPBACK)) as writer:
            with pytest.raises(StateStoreError) as caught:
                await writer.check("", soon())
    assert words in str(caught.value)
    assert isinstance(caught.value, kind)
    assert str(caught.value).isprintable()
    assert ("broke" in str(caught.value)) == (words == "broke off")
