"""What a State Store's endpoint or URL means, however it is spelled."""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from shared.errors import StateStoreNotReady

_HOST: Final = re.compile(
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])\.?(?::(?P<port>[0-9]{1,5}))?/?",
    re.ASCII,
)
_PATH: Final = re.compile(r"(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{1,5})?)/+[A-Za-z0-9][A-Za-z0-9._/-]*", re.ASCII)
_REGION: Final = r"(?P<region>[a-z]{2,4}(?:-[a-z]+)+-[0-9])"
_AWS: Final = r"amazonaws\.(?:com|com\.cn|eu)"
# Hosts of providers that are known to take a bucket's name in front of them; AWS's are read more closely.
_PROVIDERS: Final = re.compile(
    r"(?:[0-9a-f]{32}(?:\.[a-z]+)?\.r2\.cloudflarestorage\.com|storage\.googleapis\.com|[a-z0-9]+\.digitaloceanspaces\.com"
    r"|s3[.-][a-z0-9-]+\.(?:backblazeb2|wasabisys)\.com|s3\.[a-z0-9-]+\.scw\.cloud)",
    re.ASCII,
)
_AWS_REGIONAL: Final = re.compile(rf"s3(?P<fips>-fips)?(?P<dual>\.dualstack)?[.-]{_REGION}\.{_AWS}", re.ASCII)
_AWS_GLOBAL: Final = re.compile(r"s3(?:-external-1)?\.amazonaws\.com", re.ASCII)
_AWS_PRIVATE: Final = re.compile(rf"[a-z0-9.-]*vpce-[a-z0-9-]+\.s3\.{_REGION}\.vpce\.{_AWS}", re.ASCII)
_AWS_BUCKET: Final = re.compile(
    rf"[a-z0-9][a-z0-9.-]*\.(?P<rest>{_AWS_REGIONAL.pattern}|{_AWS_GLOBAL.pattern})", re.ASCII
)


@dataclass(frozen=True, slots=True)
class AwsHost:
    """What the name of one of AWS's own hosts says.

    Attributes:
        region: None for the global host, which knows the buckets of all regions.
        dual_stack, fips: which of the region's hosts.
        private: a PrivateLink endpoint's, which is talked to by this very name.
    """

    region: str | None
    dual_stack: bool = False
    fips: bool = False
    private: bool = False

    @property
    def partition(self) -> str:
        """The part of AWS in which a bucket's name is given once: China, GovCloud and such are parts of their own."""
        area, name = (self.region or "us-east-1").split("-")[:2]
        if area in {"cn", "eusc"}:
            return area
        return f"{area}-{name}" if name.startswith(("gov", "iso")) else "aws"


def read_host(endpoint: str, *, insecure: bool) -> tuple[str, int]:
    """Read an endpoint, and return its host in lower case, without the dot of a full name, and its port.

    Args:
        endpoint: as written; spaces around it, the scheme and a slash are forgiven.
        insecure: plain http.

    Raises:
        StateStoreNotReady: it is no `host[:port]`, or its scheme contradicts `insecure`; the sentence says what
            to write.
    """
    scheme = "http" if insecure else "https"
    written, separator, rest = endpoint.strip().rpartition("://")
    if separator and written.lower() not in {"http", "https"}:
        raise StateStoreNotReady(
            "spec.endpoint begins with a scheme that is not S3's: write host or host:port, for example"
            " s3.eu-west-1.amazonaws.com or minio.example.com:9000"
        )
    if separator and written.lower() != scheme:
        raise StateStoreNotReady(
            f"spec.endpoint begins with {written.lower()}:// but spec.insecure is {str(insecure).lower()}:"
            f" write host or host:port alone, and set insecure to {str(not insecure).lower()}"
            f" if {written.lower()} is meant"
        )
    if (path := _PATH.fullmatch(rest)) is not None:
        raise StateStoreNotReady(
            f"spec.endpoint has a path after the host: write {path['host'].lower()} alone; a bucket's name goes into"
            " spec.bucketName, and a directory in it into spec.path"
        )
    match = _HOST.fullmatch(rest)
    if match is None:  # not repeated in the message: what is wrong may be a password in it
        raise StateStoreNotReady(
            "spec.endpoint is not host or host:port: write it without a path, a user, a query or spaces, for example"
            " s3.eu-west-1.amazonaws.com or minio.example.com:9000"
        )
    port = default_port(insecure=insecure) if match["port"] is None else int(match["port"])
    if not 0 < port < 2**16:
        raise StateStoreNotReady(f"spec.endpoint has the port {match['port']}: write one from 1 to 65535")
    return match["host"].lower(), port


def check_no_bucket(host: str, bucket: str) -> None:
    """Refuse an endpoint in front of which a bucket's name stands (virtual-hosted style).

    The bucket's name would be sent twice: what is written would go to `bucket/key` in a bucket that is listed as if it
    were empty.

    Args:
        host: as `read_host` returns it.
        bucket: `spec.bucketName`.

    Raises:
        StateStoreNotReady: the sentence says which host to write.
    """
    name = bucket.lower()
    rest = host.removeprefix(f"{name}.")
    known = (_AWS_REGIONAL, _AWS_GLOBAL, _PROVIDERS)
    if rest != host and (rest.startswith("bucket.vpce-") or any(form.fullmatch(rest) for form in known)):
        raise StateStoreNotReady(f"spec.endpoint begins with the bucket's name: write {rest}")
    found = _AWS_BUCKET.fullmatch(host)
    if found is not None:
        raise StateStoreNotReady(
            f"spec.endpoint begins with the name of a bucket, which is not spec.bucketName {bucket[:80]!r}: write"
            f" {found['rest']}, and the bucket's name into spec.bucketName"
        )


def default_port(*, insecure: bool) -> int:
    """Return the port that an endpoint without one has."""
    return 80 if insecure else 443


def aws_host(host: str, port: int, *, insecure: bool) -> AwsHost | None:
    """Return what a host is at AWS; None where it is not AWS's, or the port is not."""
    if port != default_port(insecure=insecure):
        return None
    if match := _AWS_REGIONAL.fullmatch(host):
        return AwsHost(match["region"], dual_stack=match["dual"] is not None, fips=match["fips"] is not None)
    if _AWS_GLOBAL.fullmatch(host):
        return AwsHost(None)
    if match := _AWS_PRIVATE.fullmatch(host):
        return AwsHost(match["region"], private=True)
    return None


def bucket_identity(endpoint: str, bucket: str, *, insecure: bool) -> str:
    """Return what is the same for two spellings of one bucket, and for nothing else.

    Two places taken for one would keep Destinations from being written, so what is not surely the same is not folded.
    """
    try:
        host, port = read_host(endpoint, insecure=insecure)
    except StateStoreNotReady:  # nothing is ever written there: the writer says what is wrong with it
        return f"unreadable {endpoint!r} {bucket}"
    aws = aws_host(host, port, insecure=insecure)
    if aws is not None and (not aws.private or host.startswith("bucket.")):  # others lead to access points and to APIs
        return f"{aws.partition} {bucket}"
    return f"{'http' if insecure else 'https'}://{host}:{port}/{bucket}"


def repository_identity(url: str) -> str:
    """Return one spelling for all spellings of a repository's URL: host case, default port, `.git`, slashes, user.

    Args:
        url: `https://…`, `ssh://…` or Git's short form `user@host:path`.
    """
    if "://" not in url and ":" in url.partition("/")[0]:
        host, _, path = url.partition(":")
        url = f"ssh://{host}/{path}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # no URL at all: the writer says what is wrong with it
        return url
    if port == {"https": 443, "http": 80, "ssh": 22}.get(parts.scheme.lower()):
        port = None
    path = "/".join(part for part in parts.path.split("/") if part).removesuffix(".git").rstrip("/")
    host = (parts.hostname or "").rstrip(".")
    return f"{parts.scheme.lower()}://{host}{f':{port}' if port else ''}/{path}"
