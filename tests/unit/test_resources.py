"""Objects of either generation of clusters are read; what cannot be carried out is refused with a sentence."""

import base64
from typing import Any

import pytest

from shared.endpoints import repository_identity
from shared.errors import InvalidObject, StateStoreNotReady
from shared.resources import (
    BucketStateStore,
    Destination,
    GitStateStore,
    Secret,
    parse_state_store,
)

REF = {"kind": "BucketStateStore", "name": "default"}


def test_defaults_are_those_of_the_reference_page() -> None:
    spec = Destination.parse({"metadata": {"name": "d"}, "spec": {"stateStoreRef": REF}}).spec
    assert spec.filepath.mode == "nestedByMetadata"
    assert spec.filepath.filename == "aggregated.yaml"
    assert (spec.cleanup, spec.strict_match_labels, spec.init_workloads.enabled, spec.path) == ("none", False, True, "")


def test_nulls_and_unknown_fields_are_as_if_not_set() -> None:
    obj = {
        "metadata": {"name": "d", "namespace": None, "labels": None, "managedFields": []},
        "spec": {"stateStoreRef": REF, "filepath": {"mode": None}, "cleanup": None, "somethingNew": 1},
        "status": None,
    }
    assert Destination.parse(obj).spec.filepath.mode == "nestedByMetadata"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        pytest.param({}, "spec.stateStoreRef is required", id="no store"),
        pytest.param(
            {"stateStoreRef": {"kind": "BucketStateStore"}}, "spec.stateStoreRef.name is required", id="no name"
        ),
        pytest.param(
            {"stateStoreRef": {"kind": "FtpStateStore", "name": "x"}},
            "spec.stateStoreRef.kind: 'FtpStateStore' is unknown; write 'BucketStateStore' or 'GitStateStore'",
            id="unknown kind",
        ),
        pytest.param(
            {"stateStoreRef": REF, "filepath": {"mode": "flat"}}, "spec.filepath.mode: 'flat' is unknown", id="mode"
        ),
        pytest.param({"stateStoreRef": REF, "cleanup": "some"}, "spec.cleanup: 'some' is unknown", id="cleanup"),
        pytest.param({"stateStoreRef": REF, "path": 7}, "spec.path", id="a path that is no text"),
    ],
)
def test_a_destination_that_cannot_be_carried_out_says_what_to_change(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidObject) as refusal:
        Destination.parse({"metadata": {"name": "d"}, "spec": spec})
    assert words in str(refusal.value)


def test_a_store_is_read_as_its_kind() -> None:
    git = parse_state_store({"kind": "GitStateStore", "metadata": {"name": "g"}, "spec": {"url": "https://h/r.git"}})
    bucket = parse_state_store(
        {"kind": "BucketStateStore", "metadata": {"name": "b"}, "spec": {"endpoint": "e", "bucketName": "b"}}
    )
    assert isinstance(git, GitStateStore)
    assert (git.spec.branch, git.spec.auth_method, git.spec.git_author.name) == ("main", "basicAuth", "kratix")
    assert isinstance(bucket, BucketStateStore)
    assert bucket.spec.auth_method == "accessKey"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://example.com/team/repo.git", "https://EXAMPLE.com:443//team/repo/"),
        ("https://example.com/team/repo", "https://user@example.com/team/repo.git"),
        ("git@example.com:team/repo.git", "ssh://git@example.com:22/team/repo"),
        ("http://example.com:80/r", "http://example.com/r.git/"),
    ],
)
def test_two_spellings_of_one_repository_are_one(one: str, other: str) -> None:
    assert repository_identity(one) == repository_identity(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://example.com/team/repo", "https://example.com/team/Repo"),
        ("https://example.com/team/repo", "https://example.com:8443/team/repo"),
        ("https://example.com/team/repo", "ssh://example.com/team/repo"),
        ("https://example.com/team/repo", "https://example.com/team/repo2"),
    ],
)
def test_different_repositories_stay_different(one: str, other: str) -> None:
    assert repository_identity(one) != repository_identity(other)


def test_a_bad_url_has_an_identity_too_so_that_only_its_own_store_fails() -> None:
    assert repository_identity("https://[broken") == "https://[broken"


def bucket(endpoint: str, **spec: Any) -> BucketStateStore:
    return BucketStateStore.parse(
        {"metadata": {"name": "b"}, "spec": {"endpoint": endpoint, "bucketName": "kratix", **spec}}
    )


@pytest.mark.parametrize(
    ("spellings", "spec"),
    [
        (
            [
                "s3.example.com",
                "S3.example.com:443",
                "https://s3.example.com/",
                " s3.example.com ",
                "s3.example.com.:0443",
            ],
            {},
        ),
        (["minio:9000", "MINIO:9000 ", "minio.:9000", "minio.:09000/", "HTTP://minio:9000"], {"insecure": True}),
        (["minio", "minio:80", "minio.", "http://minio:80/"], {"insecure": True}),
        (["[fd00::a]:9000", "[FD00::A]:9000/"], {}),
        (
            [
                "s3.amazonaws.com",
                "s3-external-1.amazonaws.com.",
                "s3.eu-west-1.amazonaws.com",
                "S3.EU-West-1.amazonaws.com.:443 ",
                "s3-eu-west-1.amazonaws.com",
                "s3.dualstack.eu-west-1.amazonaws.com",
                "s3-fips.us-east-2.amazonaws.com",
                "bucket.vpce-0a1b-2c.s3.eu-west-1.vpce.amazonaws.com",
            ],
            {},
        ),
        (["s3.cn-north-1.amazonaws.com.cn", "s3.cn-northwest-1.amazonaws.com.cn"], {}),
        (["s3.us-gov-west-1.amazonaws.com", "s3-fips.us-gov-east-1.amazonaws.com"], {}),
    ],
    ids=["https", "port", "http", "IPv6", "AWS", "China", "GovCloud"],
)
def test_all_spellings_of_one_bucket_are_one(spellings: list[str], spec: dict[str, Any]) -> None:
    assert len({bucket(endpoint, **spec).identity for endpoint in spellings}) == 1


def test_a_bucket_of_aws_is_one_with_and_without_tls() -> None:
    assert bucket("s3.amazonaws.com").identity == bucket("s3.eu-west-1.amazonaws.com", insecure=True).identity


def test_different_buckets_stay_different() -> None:
    stores = [
        *map(bucket, ["s3.example.com", "s3.example.com:9000", "s3.example.com:80", "s3.example.org", "example.com"]),
        bucket("s3.example.com", insecure=True),
        bucket("s3.example.com", bucketName="Kratix"),
        bucket("s3.example.com", bucketName="kratix2"),
        bucket("s3.eu-west-1.amazonaws.com"),
        bucket("s3.eu-west-1.amazonaws.com", bucketName="kratix2"),
        bucket("s3.eu-west-1.amazonaws.com:8443"),
        bucket("s3.eu-west-1.amazonaws.com.example"),
        bucket("s3.cn-north-1.amazonaws.com.cn"),
        bucket("s3.us-gov-west-1.amazonaws.com"),
        bucket("s3.eusc-de-east-1.amazonaws.eu"),
        bucket("accesspoint.vpce-0a1b-2c.s3.eu-west-1.vpce.amazonaws.com"),
    ]
    assert len({store.identity for store in stores}) == len(stores)


@pytest.mark.parametrize(
    "endpoint", ["minio/path", "user:word@minio", "minio:port", "minio:0", "http://minio", "ftp://minio", "[minio"]
)
def test_an_endpoint_that_cannot_be_read_is_nobody_elses_place(endpoint: str) -> None:
    assert bucket(endpoint).identity not in {bucket("minio").identity, bucket("minio", insecure=True).identity}
    assert bucket(endpoint).identity == bucket(endpoint).identity


def secret(**data: bytes) -> Secret:
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    return Secret.parse({"metadata": {"name": "s", "namespace": "n", "uid": "u"}, "data": encoded})


def test_a_secret_shows_its_values_to_nobody_who_does_not_ask() -> None:
    hidden = secret(password=b"hunter2\n")
    assert "hunter2" not in repr(hidden) + str(hidden) + hidden.model_dump_json()
    assert hidden.require("password") == b"hunter2\n"
    assert hidden.require_text("password") == "hunter2"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param({}, "secret is missing key: password", id="missing"),
        pytest.param({"password": b""}, "secret is missing key: password", id="empty"),
        pytest.param({"password": b"\xff"}, "not UTF-8", id="no text"),
    ],
)
def test_a_secret_without_the_key_says_which_one_to_add(data: dict[str, bytes], words: str) -> None:
    with pytest.raises(StateStoreNotReady, match=words):
        secret(**data).require_text("password")


def test_a_secret_that_is_not_base64_is_refused_without_its_value() -> None:
    with pytest.raises(StateStoreNotReady) as refusal:
        Secret.parse({"metadata": {"name": "s"}, "data": {"password": "hunter2!"}})
    assert "hunter2" not in str(refusal.value)
