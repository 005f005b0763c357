"""The URL of a GitStateStore: what is accepted, and why the rest is not."""

import re
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import SplitResult, unquote, urlsplit

from shared.errors import StateStoreNotReady

Scheme = Literal["https", "http", "ssh"]
PORTS: Final[dict[Scheme, int]] = {"https": 443, "http": 80, "ssh": 22}

_SHORT: Final = re.compile(r"(?:(?P<user>[^@/:]+)@)?(?P<host>\[[^\]]+\]|[^@/:\[\]]+):(?P<path>.+)")
_FORMS: Final = "write https://host/path, ssh://user@host/path or user@host:path"
_HOST: Final = re.compile(r"[a-z0-9._-]+|[0-9a-f:.%]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Remote:
    """Where a repository is; holds no credentials.

    Attributes:
        user: of ssh; empty for the others.
        path: of ssh: as the server's shell gets it; of the others: as in the URL.
    """

    scheme: Scheme
    user: str
    host: str
    port: int
    path: str

    @property
    def url(self) -> str:
        """The URL for an HTTP client."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"

    def __str__(self) -> str:
        return f"{self.host}{'' if self.port == PORTS[self.scheme] else f':{self.port}'}"


def parse(url: str) -> Remote:
    """Read `spec.url`.

    Raises:
        StateStoreNotReady: it is no such URL, or holds credentials; the sentence never repeats those.
    """
    url = url.strip()
    if not url.isprintable() or " " in url:
        raise StateStoreNotReady("spec.url contains white space or a control character: remove it")
    if "://" not in url:
        return _short(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise StateStoreNotReady(f"spec.url is no URL: {_FORMS}") from None
    if parts.scheme not in PORTS:
        raise StateStoreNotReady(f"spec.url has the scheme {parts.scheme!r}, which is not supported: {_FORMS}")
    if parts.password is not None or (parts.scheme != "ssh" and "@" in parts.netloc):
        raise StateStoreNotReady(
            "spec.url contains credentials: remove them and keep them in the Secret of spec.secretRef"
        )
    if parts.query or parts.fragment:
        raise StateStoreNotReady(f"spec.url has a part after '?' or '#', which no repository has: {_FORMS}")
    return _checked(parts, port)


def _checked(parts: SplitResult, port: int | None) -> Remote:
    scheme: Scheme = "ssh" if parts.scheme == "ssh" else "http" if parts.scheme == "http" else "https"
    user = unquote(parts.username or "git") if scheme == "ssh" else ""
    path = unquote(parts.path) if scheme == "ssh" else parts.path
    return _remote(scheme, user, parts.hostname or "", PORTS[scheme] if port is None else port, path.rstrip("/"))


def _short(url: str) -> Remote:
    match = _SHORT.fullmatch(url)
    if match is None:
        raise StateStoreNotReady(f"spec.url is no URL of a repository: {_FORMS}")
    return _remote("ssh", match["user"] or "git", match["host"].strip("[]"), PORTS["ssh"], match["path"])


def _remote(scheme: Scheme, user: str, host: str, port: int, path: str) -> Remote:
    if not _HOST.fullmatch(host) or host.startswith("-"):
        raise StateStoreNotReady(f"spec.url names no host: {_FORMS}")
    if not path.strip("/"):
        raise StateStoreNotReady(f"spec.url names no repository: {_FORMS}")
    if user.startswith("-") or path.startswith("-") or not (user + path).isprintable():
        raise StateStoreNotReady(f"spec.url has a user or a path that no server takes: {_FORMS}")
    return Remote(scheme, user, host.rstrip("."), port, path)
