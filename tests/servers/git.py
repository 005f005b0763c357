"""Git over HTTPS and HTTP the way hosting services do it: nginx with basic auth in front of git's own backend."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers import web
from tests.servers.certificates import Authority, Certificate
from tests.servers.debian import system_binary
from tests.servers.process import free_port, private_environment, running
from tests.servers.repository import Repository, make_bare, run_git

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.servers.ssh import SshServer

_BACKENDS = 8

_SITE = """\
  server {{
    listen 127.0.0.1:{port}{ssl};
    server_name localhost;
{certificate}
    location = /ready {{ auth_basic off; return 204; }}
    location / {{
      auth_basic "git";
      auth_basic_user_file {users};
      fastcgi_pass unix:{socket};
      fastcgi_read_timeout 120s;
      fastcgi_param SCRIPT_FILENAME {backend};
      fastcgi_param GIT_PROJECT_ROOT {root};
      fastcgi_param GIT_HTTP_EXPORT_ALL 1;
      fastcgi_param PATH_INFO $uri;
      fastcgi_param QUERY_STRING $query_string;
      fastcgi_param REQUEST_METHOD $request_method;
      fastcgi_param CONTENT_TYPE $content_type;
      fastcgi_param CONTENT_LENGTH $content_length;
      fastcgi_param REMOTE_USER $remote_user;
      fastcgi_param REMOTE_ADDR $remote_addr;
      fastcgi_param SERVER_PROTOCOL $server_protocol;
    }}
  }}
"""

_NGINX = """\
daemon off;
pid {run}/nginx.pid;
error_log stderr warn;
worker_processes 1;
{user}
events {{ worker_connections 512; }}
http {{
  access_log {run}/access.log;
  client_max_body_size 0;
  client_body_temp_path {run}/body;
  fastcgi_temp_path {run}/fastcgi;
  proxy_temp_path {run}/proxy;
  scgi_temp_path {run}/scgi;
  uwsgi_temp_path {run}/uwsgi;
{sites}}}
"""


@dataclass(frozen=True)
class GitServer:
    """A running Git server; every repository is made on demand and served under each of its URLs."""

    https_base: str
    http_base: str
    wrong_host_base: str
    expired_base: str
    ca: Path
    username: str
    password: str = field(repr=False)
    root: Path
    access_log: Path
    """nginx's own log: one line a request, to count what a client asked for."""
    _users: dict[str, str] = field(repr=False)
    _users_file: Path = field(repr=False)
    _ssh: list[SshServer] = field(default_factory=list, repr=False)

    def create_repository(
        self,
        name: str | None = None,
        *,
        default_branch: str = "main",
        empty: bool = False,
        allow_filter: bool = True,
        hooks: Mapping[str, str] | None = None,
        config: Mapping[str, str] | None = None,
    ) -> Repository:
        """Create a repository, with a README.md on its default branch unless it is to be `empty`."""
        name = name or f"repository-{secrets.token_hex(6)}"
        path = self.root / f"{name}.git"
        path.parent.mkdir(parents=True, exist_ok=True)
        make_bare(path, default_branch=default_branch, allow_filter=allow_filter, config=config or {})
        repository = Repository(
            name,
            path,
            default_branch,
            https_url=f"{self.https_base}/{name}.git",
            http_url=f"{self.http_base}/{name}.git",
            wrong_host_url=f"{self.wrong_host_base}/{name}.git",
            expired_url=f"{self.expired_base}/{name}.git",
            ssh_url=self._ssh[0].url(path) if self._ssh else "",
        )
        if not empty:
            repository.commit_files({"README.md": b"# A repository for tests\n"}, message="Initial commit")
        for hook, script in (hooks or {}).items():
            repository.set_hook(hook, script)
        return repository

    def set_password(self, username: str, password: str | None) -> None:
        """Let a user in with another password from the next request on; None locks the user out."""
        if password is None:
            self._users.pop(username, None)
        else:
            self._users[username] = password
        fresh = self._users_file.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text("".join(f"{name}:{{PLAIN}}{word}\n" for name, word in self._users.items()))
        fresh.replace(self._users_file)

    def add_token(self, token: str) -> None:
        """Accept `x-access-token` with this token, in place of the one before, as for a GitHub App."""
        self.set_password("x-access-token", token)

    def serve_over_ssh(self, server: SshServer) -> None:
        """Give the repositories that are made from now on an SSH URL."""
        self._ssh[:] = [server]


@contextlib.contextmanager
def git_server(authority: Authority | None = None) -> Iterator[GitServer]:
    """Run nginx, fcgiwrap and git http-backend."""
    with tempfile.TemporaryDirectory(prefix="landfall-git-") as folder, contextlib.ExitStack() as stack:
        directory = Path(folder)
        run, root = directory / "run", directory / "repositories"
        run.mkdir()
        root.mkdir()
        authority = authority or Authority(directory / "tls")
        sockets = run / "fcgiwrap.socket"
        _start_fcgiwrap(stack, directory, sockets)
        ports = {name: free_port() for name in ("https", "http", "wrong_host", "expired")}
        certificates = {
            "https": authority.issue("git"),
            "wrong_host": authority.issue("git-wrong-host", hosts=["elsewhere.example.test"]),
            "expired": authority.issue("git-expired", expired=True),
        }
        server = GitServer(
            https_base=f"https://localhost:{ports['https']}",
            http_base=f"http://localhost:{ports['http']}",
            wrong_host_base=f"https://localhost:{ports['wrong_host']}",
            expired_base=f"https://localhost:{ports['expired']}",
            ca=authority.ca,
            username="landfall",
            password=secrets.token_urlsafe(16),
            root=root,
            access_log=run / "access.log",
            _users={},
            _users_file=directory / "users",
        )
        server.set_password(server.username, server.password)
        backend = Path(run_git("--exec-path", cwd=directory).stdout.decode().strip()) / "git-http-backend"
        sites = "".join(
            _SITE.format(
                port=port,
                ssl=" ssl" if name in certificates else "",
                certificate=_tls(certificates[name]) if name in certificates else "",
                users=directory / "users",
                socket=sockets,
                backend=backend,
                root=root,
            )
            for name, port in ports.items()
        )
        # Its workers would otherwise be another user's, who may not read a folder in our temp folder.
        user = "user root;" if os.geteuid() == 0 else ""
        configuration = directory / "nginx.conf"
        configuration.write_text(_NGINX.format(run=run, user=user, sites=sites))
        # Its -e: before it has read the configuration it would write to the system's log, which others may not.
        command = [system_binary("nginx"), "-e", "stderr", "-p", directory, "-c", configuration]

        def ready() -> bool:
            return all(
                web.request("GET", f"{base}/ready", ca=authority.ca, timeout=5).status == 204
                for base in (server.https_base, server.http_base)
            )

        stack.enter_context(running("nginx", command, directory=directory, ready=ready))
        yield server


def _start_fcgiwrap(stack: contextlib.ExitStack, directory: Path, path: Path) -> None:
    def ready() -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
            return True

    command = [system_binary("fcgiwrap"), "-f", "-c", _BACKENDS, "-s", f"unix:{path}"]
    env = private_environment(HOME=str(directory))
    stack.enter_context(running("fcgiwrap", command, directory=directory, ready=ready, env=env))


def _tls(certificate: Certificate) -> str:
    return f"    ssl_certificate {certificate.certificate};\n    ssl_certificate_key {certificate.key};"
