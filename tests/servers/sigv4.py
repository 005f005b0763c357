"""AWS signature version 4 in a few lines, so that preparing a bucket does not use the library under test."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Credentials:
    """An access key and its secret, with a session token if they are temporary."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


def sign(
    method: str,
    url: str,
    credentials: Credentials,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    region: str = "us-east-1",
    service: str = "s3",
) -> dict[str, str]:
    """Return the headers of a signed request, those given included; `url`'s path must be quoted as it is sent."""
    parts = urlsplit(url)
    now = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(body).hexdigest()
    signed = {key.lower(): " ".join(value.split()) for key, value in (headers or {}).items()}
    signed |= {"host": parts.netloc, "x-amz-date": now, "x-amz-content-sha256": digest}
    if credentials.session_token:
        signed["x-amz-security-token"] = credentials.session_token
    names = ";".join(sorted(signed))
    query = sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in parse_qsl(parts.query, True))
    canonical = "\n".join(
        [
            method,
            parts.path or "/",
            "&".join(f"{key}={value}" for key, value in query),
            *(f"{name}:{signed[name]}" for name in sorted(signed)),
            "",
            names,
            digest,
        ]
    )
    scope = f"{now[:8]}/{region}/{service}/aws4_request"
    to_sign = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = _signature(to_sign, scope, credentials.secret_key)
    authorization = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope},SignedHeaders={names},Signature={signature}"
    )
    return {**signed, "authorization": authorization}


def is_presigned_with(url: str, headers: Mapping[str, str], secret_key: str) -> bool:
    """Whether a GET of a URL carries, in its query, the signature that a secret key makes over it and its headers."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, True))
    signature = query.pop("X-Amz-Signature", "")
    signed = {"host": parts.netloc, **{key.lower(): value for key, value in headers.items()}}
    names = query["X-Amz-SignedHeaders"]
    pairs = sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in query.items())
    canonical = "\n".join(
        [
            "GET",
            parts.path or "/",
            "&".join(f"{key}={value}" for key, value in pairs),
            *(f"{name}:{signed.get(name, '')}" for name in names.split(";")),
            "",
            names,
            hashlib.sha256(b"").hexdigest(),
        ]
    )
    scope = query["X-Amz-Credential"].partition("/")[2]
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = f"AWS4-HMAC-SHA256\n{query['X-Amz-Date']}\n{scope}\n{digest}"
    return hmac.compare_digest(signature, _signature(to_sign, scope, secret_key))


def _signature(to_sign: str, scope: str, secret_key: str) -> str:
    key = f"AWS4{secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, to_sign.encode(), "sha256").hex()
