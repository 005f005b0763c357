"""Tokens of a GitHub App's installation, asked for when needed and kept until shortly before they expire."""

import json
import threading
import time
from datetime import datetime
from typing import Any, Final

import jwt
import urllib3
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from urllib3.exceptions import HTTPError

from shared.errors import AccessDenied, StateStoreNotReady, StoreUnavailable
from shared.resources import Secret
from shared.settings import Settings
from shared.writers.git import remote
from shared.writers.git.session import ConnectionLost, Session
from shared.writers.git.smart_http import BasicAuth, request
from shared.writers.words import Redactor

DEFAULT_API_URL: Final = "https://api.github.com"
CLOCK_SKEW_SECONDS: Final = 60  # GitHub refuses a request that was signed in its future
JWT_SECONDS: Final = 9 * 60  # GitHub's limit is ten minutes, counted on its own clock
RENEW_BEFORE_SECONDS: Final = 5 * 60
MAX_REPLY_BYTES: Final = 64 * 1024
USER: Final = "x-access-token"


class GitHubApp:
    """Credentials of one installation of a GitHub App, from the Secret's keys `appID`, `installationID`, `privateKey`.

    The optional key `apiURL` is for GitHub Enterprise (`https://HOST/api/v3`).

    Raises:
        StateStoreNotReady: a key is missing or cannot be used.
    """

    def __init__(self, secret: Secret, settings: Settings, redactor: Redactor) -> None:
        self._app = secret.require_line("appID")
        self._installation = secret.require_line("installationID")
        if not self._installation.isdecimal():
            raise StateStoreNotReady(f"secret key installationID of Secret {secret.name} is no number")
        url = secret.require_line("apiURL") if secret.get("apiURL") else DEFAULT_API_URL
        try:
            api = remote.parse(f"{url.rstrip('/')}/app")
        except StateStoreNotReady:
            raise StateStoreNotReady(f"secret key apiURL of Secret {secret.name} is no https URL") from None
        if api.scheme != "https" and not (api.scheme == "http" and settings.allow_plain_http_git):
            raise StateStoreNotReady(f"secret key apiURL of Secret {secret.name} must begin with https://")
        self._url, self._host = f"{api.url}/installations/{self._installation}/access_tokens", api.host
        try:
            key = load_pem_private_key(secret.require_text("privateKey").encode(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, RSAPrivateKey):
            raise StateStoreNotReady(f"secret key privateKey of Secret {secret.name} is no RSA key in PEM")
        self._key = key
        self._redactor = redactor
        self._lock = threading.Lock()
        self._token: BasicAuth | None = None
        self._renew_at = 0.0

    def credentials(self, session: Session, pool: urllib3.PoolManager) -> BasicAuth:
        """Return user name and password for Git over HTTPS.

        Raises:
            AccessDenied: GitHub does not accept the App or knows no such installation.
            StoreUnavailable: GitHub could not be reached or did not answer as documented.
        """
        with self._lock:
            if self._token is None or time.time() >= self._renew_at:
                self._token, self._renew_at = self._ask(session, pool)
            return self._token

    def forget(self) -> bool:
        """Drop the token after GitHub refused it; return whether there was one to drop."""
        with self._lock:
            had, self._token = self._token is not None, None
            return had

    def _signed(self) -> str:
        now = int(time.time())
        claims = {"iat": now - CLOCK_SKEW_SECONDS, "exp": now + JWT_SECONDS, "iss": self._app}
        return jwt.encode(claims, self._key, algorithm="RS256")

    def _ask(self, session: Session, pool: urllib3.PoolManager) -> tuple[BasicAuth, float]:
        """Return a new token, and the time on the wall clock at which it is to be renewed."""
        signed = self._signed()
        self._redactor.add(signed)
        headers = {
            "Authorization": f"Bearer {signed}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
            "User-Agent": "landfall",
        }
        response = request(session, pool, "POST", self._url, headers=headers, body=b"")
        try:
            reply = response.read(MAX_REPLY_BYTES)
        except HTTPError:
            raise ConnectionLost(f"the connection to {self._host} broke while it sent a token") from None
        finally:
            response.close()
        try:
            answer: Any = json.loads(reply)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            answer = {}
        if response.status != 201:  # noqa: PLR2004
            raise self._refusal(response.status, str(answer.get("message", "")))
        try:
            token = str(answer["token"])
            expires = datetime.fromisoformat(answer["expires_at"]).timestamp()
        except (KeyError, TypeError, ValueError):
            raise StoreUnavailable(f"{self._host} answered without a token: check apiURL") from None
        self._redactor.add(token, user=USER)
        return BasicAuth(USER, token), expires - RENEW_BEFORE_SECONDS

    def _refusal(self, status: int, message: str) -> AccessDenied | StoreUnavailable:
        words = self._redactor.words(message)
        said = f": {words}" if words else ""
        match status:
            case 401:
                return AccessDenied(
                    f"{self._host} refuses the GitHub App's key (401): check appID and privateKey{said}"
                )
            case 403 | 404 | 422:
                return AccessDenied(
                    f"{self._host} gives no token for installation {self._installation} ({status}):"
                    f" check installationID, and that the App is installed and not suspended{said}"
                )
            case _:
                return StoreUnavailable(f"{self._host} answered {status} when asked for a token{said}")
