"""Which endpoint a BucketStateStore means, and which it cannot mean."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from shared.errors import StateStoreNotReady
from shared.resources import BucketSpec, BucketStateStore, Secret
from shared.settings import Settings
from shared.writers.s3 import BucketWriter
from shared.writers.s3.endpoint import S3Endpoint, read_endpoint

ODD_KEYS = [
    b"KEY\nID",
    b"KEY ID",
    b"KEY\tID",
    b"KEY\x00ID",
    "KEY\u200bID".encode(),
    "KEY\u00a0ID".encode(),
    "KÉY".encode(),
]
KEYS = {"accessKeyID": b"KEYID", "secretAccessKey": b"verysecret"}


def endpoint_of(endpoint: str, **spec: Any) -> S3Endpoint:
    return read_endpoint(BucketSpec.model_validate({"endpoint": endpoint, "bucketName": "bucket", **spec}))


def open_writer(data: dict[str, bytes] | None = None, settings: Settings | None = None, **spec: Any) -> BucketWriter:
    store = BucketStateStore.parse(
        {"metadata": {"name": "s"}, "spec": {"endpoint": "s3.example.com", "bucketName": "bucket", **spec}}
    )
    secret = None if data is None else Secret.model_validate({"name": "keys", "namespace": "apps", "data": data})
    return BucketWriter.open(store, secret, settings or Settings())


@pytest.mark.parametrize(
    ("host", "region", "dual_stack", "fips"),
    [
        ("s3.amazonaws.com", "us-east-1", False, False),
        ("S3.AmazonAWS.com", "us-east-1", False, False),
        ("s3.amazonaws.com:443", "us-east-1", False, False),
        ("https://s3.amazonaws.com/", "us-east-1", False, False),
        ("s3-external-1.amazonaws.com", "us-east-1", False, False),
        ("s3.eu-west-1.amazonaws.com", "eu-west-1", False, False),
        ("s3.eu-west-1.amazonaws.com.", "eu-west-1", False, False),
        ("s3-eu-west-1.amazonaws.com", "eu-west-1", False, False),
        ("s3.dualstack.eu-west-1.amazonaws.com", "eu-west-1", True, False),
        ("s3.cn-north-1.amazonaws.com.cn", "cn-north-1", False, False),
        ("s3-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1", False, True),
        ("s3-fips.dualstack.us-east-2.amazonaws.com", "us-east-2", True, True),
        ("s3.eusc-de-east-1.amazonaws.eu", "eusc-de-east-1", False, False),
    ],
)
def test_an_endpoint_of_aws_gives_the_region_and_leaves_the_url_to_aws_rules(
    host: str,
    region: str,
    dual_stack: bool,
    fips: bool,
) -> None:
    found = endpoint_of(host)
    assert (found.aws, found.url, found.region) == (True, None, region)
    assert (found.dual_stack, found.fips) == (dual_stack, fips)


def test_dual_stack_can_be_asked_for_by_the_field() -> None:
    assert endpoint_of("s3.eu-west-1.amazonaws.com", useDualStack=True).dual_stack
    assert endpoint_of("s3.amazonaws.com", useDualStack=True).dual_stack


def test_a_private_link_endpoint_is_awss_and_is_talked_to_as_written() -> None:
    found = endpoint_of("bucket.vpce-0a1b-2c.s3.eu-west-1.vpce.amazonaws.com")
    assert (found.aws, found.region) == (True, "eu-west-1")
    assert found.url == "https://bucket.vpce-0a1b-2c.s3.eu-west-1.vpce.amazonaws.com"


@pytest.mark.parametrize(
    ("endpoint", "insecure", "url"),
    [
        ("minio.example.com", False, "https://minio.example.com"),
        ("minio.example.com:9000", True, "http://minio.example.com:9000"),
        ("http://minio.example.com:9000", True, "http://minio.example.com:9000"),
        ("MINIO.default.svc:443", False, "https://minio.default.svc"),
        ("10.1.2.3:9000", False, "https://10.1.2.3:9000"),
        ("[fd12::1]:9000", False, "https://[fd12::1]:9000"),
        ("minio", True, "http://minio"),
    ],
)
def test_any_other_endpoint_is_talked_to_as_written(endpoint: str, insecure: bool, url: str) -> None:
    found = endpoint_of(endpoint, insecure=insecure)
    assert (found.aws, found.url, found.region) == (False, url, "us-east-1")


STRANGERS = [
    "s3.amazonaws.com.evil.example",
    "evil-s3.amazonaws.com.example",
    "s3.eu-west-1.amazonaws.com:8443",
    "notamazonaws.com",
    "s3.evil.eu-west-1.amazonaws.com",
    "x.execute-api.eu-west-1.amazonaws.com",
    "minio.example.com",
    "10.0.0.1",
]


@pytest.mark.parametrize("endpoint", STRANGERS)
def test_the_functions_role_never_signs_for_an_endpoint_that_is_not_awss(endpoint: str) -> None:
    with pytest.raises(StateStoreNotReady, match="authMethod IAM is for AWS's own endpoints"):
        open_writer(endpoint=endpoint, authMethod="IAM")


def test_the_functions_role_needs_no_secret_at_aws() -> None:
    open_writer(endpoint="s3.eu-west-1.amazonaws.com", authMethod="IAM")


@pytest.mark.parametrize(
    "endpoint",
    [
        "user:password1@minio.example.com",
        "minio.example.com/path",
        "minio.example.com?password1",
        "minio.example.com#x",
        "minio example.com",
        "minio.example.com\n",
        "minio.example.com:port",
        "my_minio",
        "-minio",
        "[::1",
        "münchen.example",
        "https://http://minio",
        "//minio",
    ],
)
def test_what_is_no_host_is_refused_and_not_repeated(endpoint: str) -> None:
    if endpoint.endswith("\n"):
        assert endpoint_of(endpoint).url == "https://minio.example.com"  # what editors leave behind
        return
    with pytest.raises(StateStoreNotReady, match=r"spec\.endpoint") as caught:
        endpoint_of(endpoint)
    assert "password1" not in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "insecure", "words"),
    [
        ("http://minio", False, "set insecure to true"),
        ("https://minio", True, "set insecure to false"),
        ("ftp://minio", False, "scheme"),
        ("minio:0", False, "port 0"),
        ("minio:65536", False, "port 65536"),
    ],
)
def test_a_contradiction_says_what_to_change(endpoint: str, insecure: bool, words: str) -> None:
    with pytest.raises(StateStoreNotReady, match=words):
        endpoint_of(endpoint, insecure=insecure)


@pytest.mark.parametrize(
    "endpoint", ["127.1", "2130706433", "0177.0.0.1", "1.2.3.4.5", "[1.2.3.4]x", "[zz]", "256.1.1.1"]
)
def test_numbers_that_are_no_address_are_refused_because_sockets_would_read_them_as_one(endpoint: str) -> None:
    with pytest.raises(StateStoreNotReady):
        endpoint_of(endpoint)


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:9000", "[::1]", "169.254.169.254", "[::ffff:169.254.169.254]", "0.0.0.0"]
)
def test_an_address_of_the_function_itself_is_refused_before_any_look_up(endpoint: str) -> None:
    with pytest.raises(StateStoreNotReady, match="LANDFALL_ALLOWED_NETWORKS"):
        open_writer(KEYS, endpoint=endpoint)
    everything = Settings(allowed_networks=(ip_network("0.0.0.0/0"), ip_network("::/0")))
    open_writer(KEYS, everything, endpoint=endpoint)


@pytest.mark.parametrize(
    ("data", "spec", "words"),
    [
        (None, {}, "spec.secretRef is missing"),
        ({}, {}, "^secret is missing key: accessKeyID"),
        ({"accessKeyID": b"x"}, {}, "^secret is missing key: secretAccessKey"),
        ({"accessKeyID": b"", "secretAccessKey": b"x"}, {}, "^secret is missing key: accessKeyID"),
        (KEYS, {"authMethod": "password"}, "^unknown authMethod: password; write accessKey or IAM"),
        (KEYS, {"authMethod": "iam"}, "^unknown authMethod: iam"),
        (KEYS, {"bucketName": "a/b"}, "spec.bucketName"),
        (KEYS, {"bucketName": "arn:aws:s3:::x"}, "spec.bucketName"),
        (KEYS, {"bucketName": "a..b"}, "spec.bucketName"),
        *((KEYS | {"accessKeyID": odd}, {}, "accessKeyID of Secret keys holds") for odd in ODD_KEYS),
        (KEYS | {"secretAccessKey": b"very\nsecret"}, {}, "secretAccessKey of Secret keys holds a line break"),
        (KEYS | {"secretAccessKey": b"very\x00secret"}, {}, "secretAccessKey of Secret keys holds a line break"),
        (KEYS | {"secretAccessKey": b" \n "}, {}, "^secret is missing key: secretAccessKey"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else None,
)
def test_a_store_that_cannot_be_used_as_declared_says_what_is_missing(
    data: dict[str, bytes] | None, spec: dict[str, Any], words: str
) -> None:
    with pytest.raises(StateStoreNotReady, match=words):
        open_writer(data, **spec)


@pytest.mark.parametrize("around", [b"%s\n", b" %s ", b"\r\n%s\r\n"])
def test_white_space_around_a_key_or_a_setting_is_forgiven(around: bytes) -> None:
    data = {key: around % value for key, value in KEYS.items()}
    written = open_writer(data, bucketName=" bucket\n", endpoint=" s3.example.com ", authMethod=" accessKey")
    assert written._bucket.name == "bucket"


@pytest.mark.parametrize(
    ("endpoint", "bucket", "words"),
    [
        ("bucket.s3.eu-west-1.amazonaws.com", "bucket", "write s3.eu-west-1.amazonaws.com$"),
        ("https://Bucket.S3.amazonaws.com/", "bucket", "write s3.amazonaws.com$"),
        ("my.bucket.s3.dualstack.eu-west-1.amazonaws.com", "my.bucket", "write s3.dualstack.eu-west-1.amazonaws.com$"),
        ("other.s3.eu-west-1.amazonaws.com", "bucket", "write s3.eu-west-1.amazonaws.com, and the bucket's name into"),
        ("my.bucket.vpce-0a.s3.eu-west-1.vpce.amazonaws.com", "my", "write bucket.vpce-0a.s3"),
        (f"bucket.{'0a' * 16}.r2.cloudflarestorage.com", "bucket", f"write {'0a' * 16}.r2"),
        (f"bucket.{'0a' * 16}.eu.r2.cloudflarestorage.com", "bucket", f"write {'0a' * 16}.eu.r2"),
        ("bucket.storage.googleapis.com", "bucket", "write storage.googleapis.com$"),
        ("bucket.fra1.digitaloceanspaces.com", "bucket", "write fra1.digitaloceanspaces.com$"),
        ("s3.eu-west-1.amazonaws.com/bucket", "bucket", "write s3.eu-west-1.amazonaws.com alone; .*spec.bucketName"),
        ("https://minio.example.com:9000/bucket/dir/", "bucket", "write minio.example.com:9000 alone; .*spec.path"),
        ("minio.example.com/bucket", "bucket", "write minio.example.com alone"),
    ],
)
def test_a_bucket_in_the_endpoint_is_refused_with_the_host_to_write(endpoint: str, bucket: str, words: str) -> None:
    with pytest.raises(StateStoreNotReady, match=words):
        endpoint_of(endpoint, bucketName=bucket)


@pytest.mark.parametrize(
    ("endpoint", "bucket"),
    [
        ("bucket.example.com", "bucket"),  # a host of that name; the check finds out
        ("bucket.s3.example.com", "bucket"),
        ("s3.eu-west-1.amazonaws.com", "s3"),
        ("bucket.vpce-0a1b-2c.s3.eu-west-1.vpce.amazonaws.com", "bucket"),
        ("storage.googleapis.com", "storage"),
    ],
)
def test_a_host_that_may_be_the_servers_own_is_taken(endpoint: str, bucket: str) -> None:
    assert endpoint_of(endpoint, bucketName=bucket).host == endpoint


def test_an_empty_auth_method_is_the_default() -> None:
    open_writer(KEYS, authMethod="")
    with pytest.raises(StateStoreNotReady, match="accessKeyID"):
        open_writer({}, authMethod="")


def test_neither_the_writer_nor_what_it_is_made_of_shows_its_credentials() -> None:
    writer = open_writer(KEYS)
    assert "verysecret" not in repr(writer) + repr(vars(writer._bucket))
