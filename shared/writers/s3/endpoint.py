"""Where a BucketStateStore's endpoint leads: to AWS, whose own rules then apply, or to any other S3 server."""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from shared.endpoints import aws_host, check_no_bucket, default_port, read_host
from shared.errors import StateStoreNotReady
from shared.resources import BucketSpec

DEFAULT_REGION: Final = "us-east-1"  # of AWS's global host, and what other servers take unless set up otherwise

_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", re.ASCII)


@dataclass(frozen=True, slots=True)
class S3Endpoint:
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


def read_endpoint(spec: BucketSpec) -> S3Endpoint:
    """Read `spec.endpoint` with what belongs to it.

    Raises:
        StateStoreNotReady: it is no `host[:port]`, names a bucket, or its scheme contradicts `insecure`; the sentence
            says what to write.
    """
    host, port = read_host(spec.endpoint, insecure=spec.insecure)
    check_no_bucket(host, spec.bucket_name)
    shown = host if port == default_port(insecure=spec.insecure) else f"{host}:{port}"
    url = f"{'http' if spec.insecure else 'https'}://{shown}"
    if (aws := aws_host(host, port, insecure=spec.insecure)) is None:
        return S3Endpoint(shown, _literal(host), url, DEFAULT_REGION, aws=False, insecure=spec.insecure)
    return S3Endpoint(
        shown,
        None,
        url if aws.private else None,
        aws.region or DEFAULT_REGION,
        aws=True,
        insecure=spec.insecure,
        dual_stack=not aws.private and (spec.use_dual_stack or aws.dual_stack),
        fips=aws.fips,
    )


def check_bucket_name(name: str) -> None:
    """Refuse what is no bucket's name; an ARN would lead to another host than the endpoint's.

    Raises:
        StateStoreNotReady: the sentence says what a name is made of.
    """
    if not _BUCKET.fullmatch(name) or ".." in name:
        raise StateStoreNotReady(
            f"spec.bucketName {name[:80]!r} is not a bucket's name: write lower-case letters, digits, hyphens and dots"
        )


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
