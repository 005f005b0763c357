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
    key = f"AWS4{credentials.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    authorization = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope},SignedHeaders={names},Signature={signature}"
    )
    return {**signed, "authorization": authorization}
