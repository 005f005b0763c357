"""Where a BucketStateStore's endpoint leads: to AWS, whose own rules then apply, or to any other S3 server."""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from shared.errors import StateStoreNotReady
from shared.resources import BucketSpec

DEFAULT_REGION: Final = "us-east-1"  # of AWS's global host, and what other servers take unless set up otherwise

_HOST: Final = re.compile(
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])\.?(?::(?P<port>[0-9]{1,5}))?/?",
    re.ASCII,
)
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", re.ASCII)
_REGION: Final = r"(?P<region>[a-z]{2,4}(?:-[a-z]+)+-[0-9])"
_AWS: Final = r"amazonaws\.(?:com|com\.cn|eu)"
_AWS_REGIONAL: Final = re.compile(rf"s3(?P<fips>-fips)?(?P<dual>\.dualstack)?[.-]{_REGION}\.{_AWS}", re.ASCII)
_AWS_GLOBAL: Final = re.compile(r"s3(?:-external-1)?\.amazonaws\.com", re.ASCII)
_AWS_PRIVATE: Final = re.compile(rf"[a-z0-9.-]*vpce-[a-z0-9-]+\.s3\.{_REGION}\.vpce\.{_AWS}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint, as the client is set up for it.

    Attributes:
        host: `host` or `host:port`, for messages.
        literal: the host's IP address, where it is one; no name look-up will see it.
        url: what to talk to; None where AWS's rules make the URL from region and bucket.
        region: that requests are signed for; with AWS's global host, the bucket's own is learned from the first answer.
        aws: whether the host is AWS's, so that a role may sign for it.
        insecure: plain http.
        dual_stack, fips: which of AWS's endpoints.
    """

    host: str
    literal: str | None
    url: str | None
    region: str
    aws: bool
    insecure: bool
    dual_stack: bool = False
    fips: bool = False


def read_endpoint(spec: BucketSpec) -> Endpoint:
    """Read `spec.endpoint` with what belongs to it.

    Raises:
        StateStoreNotReady: it is no `host[:port]`, or its scheme contradicts `insecure`; the sentence says what
            to write.
    """
    scheme = "http" if spec.insecure else "https"
    written, separator, rest = spec.endpoint.strip().rpartition("://")
    if separator and written.lower() not in {"http", "https"}:
        raise StateStoreNotReady(
            "spec.endpoint begins with a scheme that is not S3's: write host or host:port, for example"
            " s3.eu-west-1.amazonaws.com or minio.example.com:9000"
        )
    if separator and written.lower() != scheme:
        raise StateStoreNotReady(
            f"spec.endpoint begins with {written.lower()}:// but spec.insecure is {str(spec.insecure).lower()}:"
            f" write host or host:port alone, and set insecure to {str(not spec.insecure).lower()}"
            f" if {written.lower()} is meant"
        )
    match = _HOST.fullmatch(rest)
    if match is None:  # not repeated in the message: what is wrong may be a password in it
        raise StateStoreNotReady(
            "spec.endpoint is not host or host:port: write it without a path, a user, a query or spaces, for example"
            " s3.eu-west-1.amazonaws.com or minio.example.com:9000"
        )
    host, port = match["host"].lower(), match["port"]
    if port is not None and not 0 < int(port) < 2**16:
        raise StateStoreNotReady(f"spec.endpoint has the port {port}: write one from 1 to 65535")
    literal = _literal(host)
    if port is None or int(port) == (80 if spec.insecure else 443):
        shown = host
        if (aws := _aws(host, spec)) is not None:
            return aws
    else:
        shown = f"{host}:{int(port)}"
    return Endpoint(shown, literal, f"{scheme}://{shown}", DEFAULT_REGION, aws=False, insecure=spec.insecure)


def check_bucket_name(name: str) -> None:
    """Refuse what is no bucket's name; an ARN would lead to another host than the endpoint's.

    Raises:
        StateStoreNotReady: the sentence says what a name is made of.
    """
    if not _BUCKET.fullmatch(name) or ".." in name:
        raise StateStoreNotReady(
            f"spec.bucketName {name[:80]!r} is no bucket's name: write lower-case letters, digits, hyphens and dots"
        )


def _aws(host: str, spec: BucketSpec) -> Endpoint | None:
    if match := _AWS_REGIONAL.fullmatch(host):
        dual_stack = spec.use_dual_stack or match["dual"] is not None
        fips = match["fips"] is not None
        return Endpoint(
            host, None, None, match["region"], aws=True, insecure=spec.insecure, dual_stack=dual_stack, fips=fips
        )
    if _AWS_GLOBAL.fullmatch(host):
        return Endpoint(
            host, None, None, DEFAULT_REGION, aws=True, insecure=spec.insecure, dual_stack=spec.use_dual_stack
        )
    if match := _AWS_PRIVATE.fullmatch(host):
        url = f"{'http' if spec.insecure else 'https'}://{host}"
        return Endpoint(host, None, url, match["region"], aws=True, insecure=spec.insecure)
    return None


def _literal(host: str) -> str | None:
    """Return the address that a host is, if it is one; names are None."""
    bare = host.strip("[]")
    if bare == host and not host.replace(".", "").isdigit():
        return None
    try:
        return str(ip_address(bare))
    except ValueError:  # `127.1`, `2130706433`: the socket layer reads them as addresses, past every name look-up
        raise StateStoreNotReady(
            f"spec.endpoint has the host {host}, which is neither a name nor an IP address: write one of them"
        ) from None
