"""How one State Store's server is reached: the checked URL, the credentials, and a client for each session."""

from typing import Final, Protocol

from dulwich.client import GitClient

from shared.errors import StateStoreNotReady
from shared.resources import GitStateStore, Secret
from shared.settings import Settings
from shared.writers.git import remote as remotes
from shared.writers.git.remote import Remote
from shared.writers.git.session import Session
from shared.writers.tls import tls_context
from shared.writers.words import Redactor

AUTH_METHODS = ("basicAuth", "ssh", "githubApp")
GITHUB_USER: Final = "x-access-token"


class GitEndpoint(Protocol):
    """A server with credentials.

    Attributes:
        remote: where it is.
        path: of the repository, as the client takes it.
        redactor: knows the credentials, to keep them out of messages.
    """

    remote: Remote
    path: str
    redactor: Redactor

    def client(self, session: Session) -> GitClient:
        """Return a client that lives as long as the session."""

    def forget(self) -> bool:
        """Drop credentials that were refused, if they can be had anew; return whether that is so."""


def open_endpoint(store: GitStateStore, secret: Secret | None, settings: Settings) -> GitEndpoint:
    """Return the endpoint of a GitStateStore; nothing is sent yet.

    Raises:
        StateStoreNotReady: the URL, the authMethod or the Secret cannot be used.
    """
    spec = store.spec
    if spec.auth_method not in AUTH_METHODS:
        raise StateStoreNotReady(f"spec.authMethod {spec.auth_method!r} is unknown: write {', '.join(AUTH_METHODS)}")
    remote = remotes.parse(spec.url)
    if (remote.scheme == "ssh") != (spec.auth_method == "ssh"):
        fitting = "ssh" if remote.scheme == "ssh" else "basicAuth or githubApp"
        raise StateStoreNotReady(
            f"spec.authMethod {spec.auth_method} does not fit the {remote.scheme} URL in spec.url: write {fitting}"
        )
    if remote.scheme == "http" and not settings.allow_plain_http_git:
        raise StateStoreNotReady(
            "spec.url begins with http://, which would send the credentials in the clear: use https://, or let the"
            " operator set LANDFALL_ALLOW_PLAIN_HTTP_GIT"
        )
    if secret is None:
        ref = spec.secret_ref
        if ref is None:
            raise StateStoreNotReady(f"spec.secretRef is required for authMethod {spec.auth_method}: add it")
        raise StateStoreNotReady(f"Secret {ref.name} not found in namespace {ref.namespace}", reason="SecretNotFound")
    if spec.auth_method == "ssh":
        return _SshEndpoint(remote, secret)
    return _HttpEndpoint(remote, secret, settings, spec.auth_method)


class _HttpEndpoint:
    """HTTPS with a user's password, or with a GitHub App's token."""

    def __init__(self, remote: Remote, secret: Secret, settings: Settings, auth_method: str) -> None:
        from shared.writers.git import smart_http  # noqa: PLC0415 -- a batch over SSH needs no HTTP client

        self.remote, self.path, self.redactor = remote, "", Redactor()
        self._app = None
        if auth_method == "githubApp":
            from shared.writers.git.github_app import GitHubApp  # noqa: PLC0415 -- few stores need a JWT library

            self._app = GitHubApp(secret, settings, self.redactor)
        else:
            self._basic = smart_http.BasicAuth(_user(secret, remote), secret.require_line("password"))
            if ":" in self._basic.user:
                raise StateStoreNotReady(f"secret key username of Secret {secret.name} contains a colon: remove it")
            self.redactor.add(self._basic.password, user=self._basic.user)
        self._http = smart_http
        self._context = tls_context(settings.ca_bundle, secret.get("ca.crt"))

    def client(self, session: Session) -> GitClient:
        pool = self._http.pool_of(session, self._context)
        credentials = self._basic if self._app is None else self._app.credentials(session, pool)
        return self._http.HttpClient(self.remote, session, pool, credentials, self.redactor)

    def forget(self) -> bool:
        return self._app is not None and self._app.forget()


def _user(secret: Secret, remote: Remote) -> str:
    """Return the user name that goes with a token; Kratix's for a Secret without one (util/git/http.go).

    Most forges read a token and no user name. GitHub wants one that is not empty.
    """
    if (secret.get("username") or b"").strip():
        return secret.require_line("username")
    return GITHUB_USER if "github" in remote.url.lower() else ""


class _SshEndpoint:
    """SSH with a key, to a host whose own key is known."""

    def __init__(self, remote: Remote, secret: Secret) -> None:
        from shared.writers.git import ssh  # noqa: PLC0415 -- a batch over HTTPS must not load paramiko

        self.remote, self.path, self.redactor = remote, remote.path, Redactor()
        self._ssh = ssh
        self._key = ssh.private_key(secret)
        self._known = ssh.KnownHosts(secret.require_text("knownHosts"))
        self._known.of(remote)

    def client(self, session: Session) -> GitClient:
        vendor = self._ssh.SshVendor(self.remote, session, self._key, self._known)
        return self._ssh.SshClient(self.remote, session, vendor)

    def forget(self) -> bool:
        return False
