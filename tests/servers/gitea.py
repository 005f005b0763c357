"""A real forge: Gitea over HTTPS and its own SSH server, with users, tokens, deploy keys and protected branches."""

from __future__ import annotations

import base64
import contextlib
import getpass
import json
import secrets
import shutil
import socket
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.servers import web
from tests.servers.certificates import Authority
from tests.servers.golang import go_binary
from tests.servers.process import ServerFailed, free_port, private_environment, running
from tests.servers.repository import run_git
from tests.servers.ssh import key_pair

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_CONFIGURATION = """\
RUN_MODE = prod
RUN_USER = {user}
WORK_PATH = {directory}
[server]
PROTOCOL = https
CERT_FILE = {certificate}
KEY_FILE = {key}
HTTP_ADDR = 127.0.0.1
HTTP_PORT = {https}
DOMAIN = localhost
ROOT_URL = https://localhost:{https}/
STATIC_ROOT_PATH = {static}
START_SSH_SERVER = true
SSH_DOMAIN = 127.0.0.1
SSH_LISTEN_HOST = 127.0.0.1
SSH_PORT = {ssh}
SSH_LISTEN_PORT = {ssh}
BUILTIN_SSH_SERVER_USER = git
SSH_SERVER_HOST_KEYS = {directory}/host_key
OFFLINE_MODE = true
LFS_START_SERVER = false
[database]
DB_TYPE = sqlite3
PATH = {directory}/gitea.db
[repository]
ROOT = {directory}/repositories
[security]
INSTALL_LOCK = true
SECRET_KEY = {secret}
PASSWORD_HASH_ALGO = pbkdf2_v2
[service]
DISABLE_REGISTRATION = true
[log]
MODE = console
LEVEL = Warn
[actions]
ENABLED = false
[cron]
ENABLED = false
"""


@dataclass(frozen=True)
class User:
    """An account, with the private half of the SSH key that was added to it."""

    name: str
    password: str = field(repr=False)
    ssh_key: str = field(repr=False)


@dataclass(frozen=True)
class Gitea:
    """A running Gitea, and the calls that prepare it."""

    https_base: str
    ssh_port: int
    ca: Path
    admin: str
    admin_password: str = field(repr=False)
    known_hosts: str
    repositories: Path

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, user: User | None = None) -> Any:
        """Make one call of Gitea's API, as the administrator unless a user is given; return its answer."""
        name, password = (self.admin, self.admin_password) if user is None else (user.name, user.password)
        basic = base64.b64encode(f"{name}:{password}".encode()).decode()
        headers = {"Authorization": f"Basic {basic}", "Content-Type": "application/json"}
        content = b"" if body is None else json.dumps(body).encode()
        answer = web.request(method, f"{self.https_base}/api/v1{path}", headers=headers, body=content, ca=self.ca)
        if answer.status >= 300:
            raise ServerFailed(f"gitea: {method} {path} answered {answer}")
        return answer.json() if answer.body else None

    def create_user(self) -> User:
        """Create a user with an SSH key."""
        name, password = f"user-{secrets.token_hex(4)}", secrets.token_urlsafe(16)
        private, public = key_pair()
        email = f"{name}@example.test"
        account = {"username": name, "password": password, "email": email, "must_change_password": False}
        self.call("POST", "/admin/users", account)
        user = User(name, password, private)
        self.call("POST", "/user/keys", {"title": "key", "key": public}, user=user)
        return user

    def create_repository(self, owner: User) -> str:
        """Create a private repository with a first commit on main; return its `owner/name`."""
        name = f"fleet-{secrets.token_hex(4)}"
        body = {"name": name, "private": True, "auto_init": True, "default_branch": "main"}
        self.call("POST", "/user/repos", body, user=owner)
        return f"{owner.name}/{name}"

    def create_token(self, owner: User, *scopes: str) -> str:
        """Create an access token."""
        body = {"name": secrets.token_hex(4), "scopes": list(scopes)}
        return str(self.call("POST", f"/users/{owner.name}/tokens", body, user=owner)["sha1"])

    def create_deploy_key(self, repository: str, *, read_only: bool) -> str:
        """Add a deploy key to a repository; return its private half."""
        private, public = key_pair()
        body = {"title": secrets.token_hex(4), "key": public, "read_only": read_only}
        self.call("POST", f"/repos/{repository}/keys", body)
        return private

    def https_url(self, repository: str) -> str:
        """Return a repository's URL."""
        return f"{self.https_base}/{repository}.git"

    def ssh_url(self, repository: str) -> str:
        """Return a repository's URL for SSH."""
        return f"ssh://git@127.0.0.1:{self.ssh_port}/{repository}.git"

    def folder(self, repository: str) -> Path:
        """Return where a repository is on this machine."""
        return self.repositories / f"{repository.lower()}.git"

    def files(self, repository: str) -> set[str]:
        """Return the paths of a repository's main branch."""
        listed = run_git("ls-tree", "-r", "--name-only", "main", cwd=self.folder(repository))
        return set(listed.stdout.decode().split())


@contextlib.contextmanager
def gitea() -> Iterator[Gitea]:
    """Run a Gitea, with its database in a file."""
    binary = go_binary("gitea")
    with tempfile.TemporaryDirectory(prefix="landfall-gitea-") as folder:
        directory, https, ssh = Path(folder), free_port(), free_port()
        authority = Authority(directory / "tls")
        certificate = authority.issue("gitea")
        private, public = key_pair()
        (directory / "host_key").touch(mode=0o600)
        (directory / "host_key").write_text(private)
        static = directory / "static"
        for asset in ("templates", "options", "public"):
            shutil.copytree(binary.parent / asset, static / asset)
        manifest = static / "public" / "assets" / ".vite"
        manifest.mkdir(parents=True, exist_ok=True)
        (manifest / "manifest.json").write_text("{}")  # of the web pages, which nothing here asks for
        configuration = directory / "app.ini"
        configuration.write_text(
            _CONFIGURATION.format(
                user=getpass.getuser(),
                directory=directory,
                certificate=certificate.certificate,
                key=certificate.key,
                https=https,
                ssh=ssh,
                static=static,
                secret=secrets.token_hex(16),
            )
        )
        # In tests that are root, which Gitea otherwise refuses to be.
        # Gitea writes to Git's global configuration: git puts a new file in its place, also in that of /dev/null.
        own = str(directory / "gitconfig")
        env = private_environment(
            HOME=str(directory), GIT_CONFIG_GLOBAL=own, GITEA_I_AM_BEING_UNSAFE_RUNNING_AS_ROOT="true"
        )
        server = Gitea(
            https_base=f"https://localhost:{https}",
            ssh_port=ssh,
            ca=authority.ca,
            admin="root-of-tests",
            admin_password=secrets.token_urlsafe(16),
            known_hosts=f"[127.0.0.1]:{ssh} {public}\n",
            repositories=directory / "repositories",
        )

        def ready() -> bool:
            with socket.create_connection(("127.0.0.1", ssh), timeout=2):
                return web.request("GET", f"{server.https_base}/api/healthz", ca=authority.ca, timeout=5).status == 200

        command = [binary, "web", "--config", configuration]
        with running("gitea", command, directory=directory, ready=ready, env=env):
            create = [
                binary,
                "admin",
                "user",
                "create",
                "--config",
                configuration,
                "--admin",
                "--username",
                server.admin,
            ]
            create += [
                "--password",
                server.admin_password,
                "--email",
                "root@example.test",
                "--must-change-password=false",
            ]
            subprocess.run(list(map(str, create)), env=env, cwd=directory, check=True, capture_output=True)
            yield server
