"""What a State Store's certificate may be signed by, over HTTPS to S3 and Git alike."""

import ssl
from collections.abc import Iterator
from pathlib import Path

from shared.errors import StateStoreNotReady


def tls_context(bundle: Path | None, pem: bytes | None) -> ssl.SSLContext:
    """Return a context that verifies servers against the system's CAs and the given ones.

    Args:
        bundle: a PEM file of the operator's (`LANDFALL_CA_BUNDLE`).
        pem: the value of the Secret's `ca.crt`.

    Raises:
        StateStoreNotReady: one of them holds no certificates; the sentence names it.
    """
    context = ssl.create_default_context()
    for what, text in _authorities(bundle, pem):
        try:
            context.load_verify_locations(cadata=text)
        except (ssl.SSLError, ValueError):
            raise StateStoreNotReady(f"{what} holds no PEM certificates: write those of the server's CA") from None
        # Python 3.13 refuses certificates without key identifiers (RFC 5280), which private CAs often leave out, and
        # Git's and AWS's own clients accept. The chain, its dates and the host name are verified all the same. Public
        # CAs have to keep to RFC 5280, so without a CA of the user's nothing is loosened.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _authorities(bundle: Path | None, pem: bytes | None) -> Iterator[tuple[str, str]]:
    if bundle is not None:
        try:
            yield "LANDFALL_CA_BUNDLE", bundle.read_text()
        except (OSError, UnicodeDecodeError):
            raise StateStoreNotReady(
                "the file of LANDFALL_CA_BUNDLE cannot be read: the operator must put it into the artifact"
            ) from None
    if pem:
        try:
            yield "key ca.crt of the Secret", pem.decode()
        except UnicodeDecodeError:
            raise StateStoreNotReady("key ca.crt of the Secret is not text: write the CA's PEM") from None
