"""What S3 servers say, line by line as they say it: who must act, what to change, and whether it is tried again."""
# ruff: noqa: E501 -- a line of the table is what a server says

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from shared.errors import (
    AccessDenied,
    QuotaExceeded,
    StateStoreNotReady,
    StoreNotFound,
    StoreUnavailable,
    WriteRejected,
)
from shared.writers.s3 import errors as s3_errors
from shared.writers.s3 import words as s3_words
from shared.writers.s3.errors import Where, unlike_s3
from shared.writers.words import Redactor, find

ACCESS, MISSING, SETTING = AccessDenied, StoreNotFound, StateStoreNotReady
RULE, QUOTA, TROUBLE = WriteRejected, QuotaExceeded, StoreUnavailable

DENY = (
    "User: arn:aws:iam::123456789012:user/deploy is not authorized to perform: s3:PutObject on resource:"
    ' "arn:aws:s3:::fleet/dev/x" with an explicit deny in a resource-based policy'
)
KMS = (
    "User: arn:aws:iam::123456789012:user/deploy is not authorized to perform: kms:GenerateDataKey on resource:"
    " arn:aws:kms:eu-west-1:123456789012:key/1 because no identity-based policy allows the kms:GenerateDataKey action"
)
IDENTITY = (
    "User: arn:aws:iam::1:user/x is not authorized to perform: s3:PutObject because no identity-based policy allows"
)

# server, code, HTTP status, message, what it is, words of the sentence
SAID: list[tuple[str, str, int, str, type[Exception], str]] = [
    ("aws", "InvalidAccessKeyId", 403, "The AWS Access Key Id you provided does not exist in our records.", ACCESS, "correct accessKeyID"),
    ("aws", "SignatureDoesNotMatch", 403, "The request signature we calculated does not match", ACCESS, "correct secretAccessKey"),
    ("aws", "ExpiredToken", 400, "The provided token has expired.", ACCESS, "have expired: renew"),
    ("aws", "TokenRefreshRequired", 400, "The provided token must be refreshed.", ACCESS, "have expired: renew"),
    ("aws", "InvalidToken", 400, "The provided token is malformed or otherwise not valid.", ACCESS, "session token"),
    ("aws", "RequestTimeTooSkewed", 403, "The difference between the request time and the server's time is too large.", ACCESS, "clock"),
    ("aws", "AccountProblem", 403, "There is a problem with your AWS account", ACCESS, "ask its provider"),
    ("aws", "AllAccessDisabled", 403, "All access to this Amazon S3 resource has been disabled.", ACCESS, "ask its provider"),
    ("aws", "NotSignedUp", 403, "Your account is not signed up for the Amazon S3 service.", ACCESS, "ask its provider"),
    ("aws", "InvalidSecurity", 403, "The provided security credentials are not valid.", ACCESS, "correct the Secret"),
    ("aws", "AccessDenied", 403, "Access Denied", ACCESS, "allow these credentials s3:PutObject in it"),
    ("aws", "AccessDenied", 403, IDENTITY, ACCESS, "no identity-based policy allows"),
    ("aws-deny", "AccessDenied", 403, DENY, ACCESS, "look for its Deny"),
    ("aws-headers", "AccessDenied", 403, DENY, ACCESS, "let the bucket encrypt by default"),
    ("aws-kms", "AccessDenied", 403, KMS, ACCESS, "kms:GenerateDataKey and kms:Decrypt on it"),
    ("aws", "KMS.DisabledException", 400, "arn:aws:kms:eu-west-1:1:key/1 is disabled.", RULE, "mend the key"),
    ("aws", "KMS.NotFoundException", 400, "Key 'x' does not exist", RULE, "mend the key"),
    ("aws", "KMS.KMSInvalidStateException", 400, "key is pending deletion.", RULE, "mend the key"),
    ("aws", "NoSuchBucket", 404, "The specified bucket does not exist", MISSING, "create it, or correct spec.bucketName"),
    ("aws", "InvalidBucketName", 400, "The specified bucket is not valid.", MISSING, "correct spec.bucketName"),
    ("aws", "PermanentRedirect", 301, "The bucket you are attempting to access must be addressed using the specified endpoint.", SETTING, "endpoint of its region"),
    ("aws", "TemporaryRedirect", 307, "Please re-send this request to the specified temporary endpoint.", TROUBLE, "not known everywhere yet"),
    ("aws", "AuthorizationHeaderMalformed", 400, "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-1'", SETTING, "expecting 'eu-west-1'"),
    ("aws", "IllegalLocationConstraintException", 400, "The eu-west-1 location constraint is incompatible for the region", SETTING, "region"),
    ("aws", "MethodNotAllowed", 405, "The specified method is not allowed against this resource.", SETTING, "not of a console or a website"),
    ("aws", "InvalidRequest", 400, "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.", SETTING, "Signature Version 4"),
    ("aws", "EntityTooLarge", 400, "Your proposed upload exceeds the maximum allowed object size.", RULE, "larger than the server takes"),
    ("aws", "KeyTooLongError", 400, "Your key is too long", RULE, "shorten or rename"),
    ("aws", "ServerSideEncryptionConfigurationNotFoundError", 404, "not found", RULE, "encrypt by default"),
    ("aws", "SlowDown", 503, "Please reduce your request rate.", TROUBLE, "overloaded or in trouble"),
    ("aws", "ServiceUnavailable", 503, "Service is unable to handle request.", TROUBLE, "overloaded or in trouble"),
    ("aws", "InternalError", 500, "We encountered an internal error. Please try again.", TROUBLE, "overloaded or in trouble"),
    ("aws", "OperationAborted", 409, "A conflicting conditional operation is currently in progress", TROUBLE, "tried again"),
    ("aws", "RequestTimeout", 400, "Your socket connection to the server was not read from", TROUBLE, "tried again"),
    ("aws", "InvalidRequest", 400, "Content-MD5 HTTP header is required for Put Object requests with Object Lock parameters", RULE, "object lock"),
    ("minio", "InvalidAccessKeyId", 403, "Your account is disabled; please contact your administrator.", ACCESS, "disabled: enable it"),
    ("minio", "InvalidAccessKeyId", 403, "The Access Key Id you provided does not exist in our records.", ACCESS, "correct accessKeyID"),
    ("minio", "AccessDenied", 403, "Request is not valid yet", ACCESS, "clock"),
    ("minio", "XMinioAdminBucketQuotaExceeded", 400, "Bucket quota exceeded", QUOTA, "quota is used up: raise it"),
    ("minio", "XMinioStorageFull", 507, "Storage backend has reached its minimum free drive threshold.", QUOTA, "disks are full"),
    ("minio", "InvalidRegion", 400, "Region does not match.", SETTING, "region"),
    ("minio", "XMinioInsecureClientRequest", 400, "Cannot respond to plain-text request from TLS-encrypted server", SETTING, "set spec.insecure to false"),
    ("minio", "XMinioObjectExistsAsDirectory", 409, "Object name already exists as a directory.", RULE, "where a directory is needed"),
    ("minio", "XMinioParentIsObject", 400, "Object-prefix is already an object, please choose a different object-prefix name.", RULE, "where a directory is needed"),
    ("minio", "XMinioInvalidObjectName", 400, "Object name contains unsupported characters.", RULE, "shorten or rename"),
    ("minio", "XMinioServerNotInitialized", 503, "Server not initialized yet, please try again.", TROUBLE, "starting"),
    ("minio", "XMinioBackendDown", 503, "Remote backend is unreachable", TROUBLE, "parts of it are down"),
    ("minio", "SlowDownWrite", 503, "Resource requested is unwritable, please reduce your request rate", TROUBLE, "overloaded"),
    ("minio", "ServerBusy", 503, "The service is unavailable. Please retry.", TROUBLE, "overloaded"),
    ("minio", "AccessDenied", 403, "Access Denied.", ACCESS, "one that demands encryption headers"),
    ("ceph", "QuotaExceeded", 403, "", QUOTA, "raise it"),
    ("ceph", "UserSuspended", 403, "", ACCESS, "ask its provider"),
    ("ceph", "NoSuchTenant", 404, "", MISSING, "does not exist"),
    ("ceph", "AccessDenied", 403, "None", ACCESS, "s3:PutObject in it"),
    ("ceph", "Busy", 503, "", TROUBLE, "overloaded"),
    ("r2", "Unauthorized", 401, "Unauthorized", ACCESS, "correct accessKeyID"),
    ("r2", "NotEntitled", 403, "Please enable R2 through the Cloudflare Dashboard.", ACCESS, "Please enable R2"),
    ("r2", "ExpiredRequest", 400, "Request has expired.", ACCESS, "clock"),
    ("r2", "InsufficientStorage", 507, "", QUOTA, "raise it"),
    ("r2", "TooManyRequests", 429, "Reduce your concurrent request rate for the same object.", TROUBLE, "overloaded"),
    ("google", "UserProjectAccountProblem", 403, "billing is disabled", ACCESS, "billing is disabled"),
    ("google", "UserProjectMissing", 400, "Bucket is a requester pays bucket but no user project provided.", ACCESS, "requester pays"),
    ("google", "CredentialsNotSupported", 400, "This request does not support credentials.", ACCESS, "correct the Secret"),
    ("google", "AccessDenied", 403, "Access denied.", ACCESS, "s3:PutObject in it"),
    ("google", "rateLimitExceeded", 429, "The object exceeded the rate limit for object mutation operations", TROUBLE, "overloaded"),
    ("google", "backendError", 503, "Backend Error", TROUBLE, "overloaded"),
    ("garage", "AuthorizationHeaderMalformed", 400, "Authorization header malformed, unexpected scope: 20261125/us-east-1/s3/aws4_request (expected: …)", SETTING, "let the server's region be us-east-1"),
    ("garage", "AccessDenied", 403, "Forbidden: No such key: GK31", ACCESS, "No such key"),
    ("garage", "NoSuchBucket", 404, "Bucket not found: fleet", MISSING, "create it"),
    ("garage", "ServiceUnavailable", 503, "Could not reach quorum of 2.", TROUBLE, "overloaded"),
    ("garage", "AccessDenied", 403, "Forbidden: Bucket size quota exceeded (maximum total size of objects for this bucket: 1)", QUOTA, "raise it"),
    ("seaweedfs", "KMSAccessDeniedException", 403, "Access denied to the specified KMS key.", ACCESS, "kms:GenerateDataKey"),
    ("seaweedfs", "KMSKeyDisabledException", 400, "The specified KMS key is disabled.", RULE, "mend the key"),
    ("seaweedfs", "KMSKeyNotFoundException", 400, "The specified KMS key does not exist.", RULE, "mend the key"),
    ("seaweedfs", "SlowDown", 503, "Simultaneous request bytes exceed limitations", TROUBLE, "overloaded"),
    ("seaweedfs", "InvalidAccessKeyId", 403, "The access key ID you provided does not exist in our records.", ACCESS, "correct accessKeyID"),
    ("seaweedfs", "ExistingObjectIsDirectory", 409, "Existing Object is a directory.", RULE, "where a directory is needed"),
    ("seaweedfs", "AuthorizationHeaderMalformed", 400, "The authorization header is malformed.", RULE, "AuthorizationHeaderMalformed"),
    ("versitygw", "QuotaExceeded", 403, "Your request was denied due to quota exceeded.", QUOTA, "raise it"),
    ("versitygw", "ObjectParentIsFile", 409, "Object parent already exists as a file.", RULE, "where a directory is needed"),
    ("versitygw", "AccessDenied", 403, "Access Denied because object protected by object lock.", RULE, "retention"),
    ("backblaze", "AccessDenied", 403, "Cannot upload files, storage cap exceeded. See the Caps & Alerts page to increase your cap.", QUOTA, "a cap of the account"),
    ("backblaze", "AccessDenied", 403, "Transaction cap exceeded, see the Caps & Alerts page to increase your cap.", QUOTA, "a cap of the account"),
    ("any", "SomethingNew", 400, "the moon is in the wrong phase", RULE, "the moon is in the wrong phase"),
    ("any", "SomethingNew", 403, "not on a Sunday", ACCESS, "not on a Sunday"),
    ("any", "SomethingNew", 503, "back at noon", TROUBLE, "back at noon"),
    ("proxy", "403", 403, "Forbidden", ACCESS, "HTTP 403"),
    ("proxy", "404", 404, "Not Found", MISSING, "spec.endpoint is the S3 API's"),
    ("proxy", "405", 405, "Method Not Allowed", SETTING, "not of a console or a website"),
    ("proxy", "413", 413, "Request Entity Too Large", RULE, "larger than the server takes"),
    ("proxy", "429", 429, "Too Many Requests", TROUBLE, "HTTP 429"),
    ("proxy", "502", 502, "Bad Gateway", TROUBLE, "HTTP 502"),
    ("proxy", "400", 400, "Bad Request", RULE, "HTTP 400"),
]  # fmt: skip
IDS = [f"{server}-{code}-{number}" for number, (server, code, *_) in enumerate(SAID)]
KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


def answered(code: str, status: int = 400, message: str = "", operation: str = "PutObject") -> ClientError:
    response: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(response, operation)


def where(*, insecure: bool = False) -> Where:
    return Where("fleet", "s3.example.com:9000", insecure, Redactor((KEY, SECRET)))


@pytest.mark.parametrize(("server", "code", "status", "message", "kind", "words"), SAID, ids=IDS)
def test_each_answer_says_who_must_act(  # noqa: PLR0917 -- a row
    server: str, code: str, status: int, message: str, kind: type[Exception], words: str
) -> None:
    error = answered(code, status, message)
    said = s3_errors.translate(error, where(), 20)
    assert (type(said), words in str(said)) == (kind, True), str(said)
    assert "bucket fleet at s3.example.com:9000" in str(said)
    assert (code if not code.isdigit() else f"HTTP {code}") in str(said)
    # What passes is called again at once; what a person must change is not.
    assert (s3_errors.attempts_for(error) > 1) == (kind is TROUBLE)


def test_what_a_person_must_change_is_terminal() -> None:
    """AccessDenied and StoreNotFound are the exception: they are mended where no event comes from (shared.errors)."""
    terminal = {kind.__name__: not kind.transient for kind in (SETTING, RULE, QUOTA, TROUBLE, ACCESS, MISSING)}
    assert [name for name, so in terminal.items() if so] == ["StateStoreNotReady", "WriteRejected", "QuotaExceeded"]


def test_every_row_of_the_table_has_its_line() -> None:
    found = [find(s3_words.TABLE, f"{code}: {message}") for _, code, _, message, *_ in SAID]
    assert [row.pattern for row in s3_words.TABLE if row not in found] == []


@pytest.mark.parametrize(
    ("operation", "right"),
    [
        ("ListObjectsV2", "s3:ListBucket"),
        ("GetObject", "s3:GetObject"),
        ("HeadObject", "s3:GetObject"),
        ("PutObject", "s3:PutObject"),
        ("CreateMultipartUpload", "s3:PutObject"),
        ("DeleteObject", "s3:DeleteObject"),
        ("DeleteObjects", "s3:DeleteObject"),
        ("AbortMultipartUpload", "s3:AbortMultipartUpload"),
    ],
)
def test_a_denied_call_names_the_right_that_it_needs(operation: str, right: str) -> None:
    said = str(s3_errors.translate(answered("AccessDenied", 403, "Access Denied", operation), where(), 20))
    assert f"allow these credentials {right} " in said


@pytest.mark.parametrize(
    "echo",
    [
        KEY,
        SECRET,
        "ASIAQWERTYUIOPASDFGH",
        "Credential=AKIAX/20261125/us-east-1/s3/aws4_request",
        "Signature=" + "0a" * 32,
        "0a" * 32,
        "AWS4-HMAC-SHA256 X-Amz-SecurityToken=IQoJb3JpZ2luX2Vj",
    ],
)
def test_what_belongs_to_credentials_is_not_repeated(echo: str) -> None:
    for code in ("SomethingNew", "AccessDenied", "SignatureDoesNotMatch", "QuotaExceeded"):
        said = str(s3_errors.translate(answered(code, 403, f"it was {echo} that came"), where(), 20))
        assert "it was" in said
        assert echo not in said
        assert echo.partition("=")[2] not in said or "=" not in echo


def test_a_list_that_is_answered_as_an_object_means_that_the_host_names_the_bucket() -> None:
    error = answered("NoSuchKey", 404, "The specified key does not exist.", "ListObjectsV2")
    said = s3_errors.translate(error, Where("fleet", "fleet.minio.example.com"), 20)
    assert isinstance(said, StateStoreNotReady)
    assert str(said).endswith("spec.endpoint names the bucket already: write minio.example.com")
    other = s3_errors.translate(error, Where("fleet", "other.minio.example.com"), 20)
    assert "leads to another bucket" in str(other)


def test_a_bad_request_without_words_over_plain_http_is_a_server_that_speaks_tls() -> None:
    said = s3_errors.translate(answered("400", 400, "Bad Request"), where(insecure=True), 20)
    assert isinstance(said, StateStoreNotReady)
    assert "set spec.insecure to false" in str(said)


HTML = b"<!DOCTYPE html>\n<html><head><title>MinIO Console</title></head></html>"


@pytest.mark.parametrize(
    ("status", "headers", "body", "insecure", "kind", "words"),
    [
        (301, {"Location": "https://s3.example.com/fleet?x"}, b"", True, SETTING, "from http to https: set spec.insecure to false"),
        (308, {"Location": "https://s3.example.com:9443/"}, b"", True, SETTING, "set spec.insecure to false"),
        (302, {"Location": "https://login.example.com/?next=secret"}, HTML, False, SETTING, "redirect to login.example.com, which"),
        (307, {"Location": "https://user:pw@other.example.com:9443/x"}, b"", False, SETTING, "redirect to other.example.com:9443,"),
        (302, {"Location": "/login"}, b"", False, SETTING, "redirect to nowhere"),
        (302, {"Location": "https://[broken"}, b"", False, SETTING, "redirect to nowhere"),
        (200, {}, HTML, False, SETTING, "web page"),
        (404, {}, b"  <html><body>nginx</body></html>", False, SETTING, "not that of a console or a website"),
        (405, {}, HTML, False, SETTING, "web page"),
        (403, {}, HTML, False, ACCESS, "a proxy or a firewall"),
        (401, {}, HTML, False, ACCESS, "a proxy or a firewall"),
        (200, {}, b"Hello", False, SETTING, "not S3's"),
        (200, {}, b"", False, SETTING, "not S3's"),
        (503, {}, HTML, False, None, ""),
        (429, {}, HTML, False, None, ""),
        (502, {}, b"<html>Bad Gateway</html>", False, None, ""),
        (301, {"Location": "https://x"}, b"<Error><Code>PermanentRedirect</Code></Error>", False, None, ""),
        (403, {}, b"<?xml?><Error><Code>AccessDenied</Code></Error>", False, None, ""),
        (200, {}, b"<?xml?><ListBucketResult/>", False, None, ""),
    ],
)  # fmt: skip
def test_what_is_not_an_s3_server_says_so(  # noqa: PLR0917 -- a row
    status: int, headers: dict[str, str], body: bytes, insecure: bool, kind: type[Exception] | None, words: str
) -> None:
    said = unlike_s3(where(insecure=insecure), status, headers, body, listing=True)
    assert (None if said is None else type(said)) is kind
    assert words in str(said)
    assert "secret" not in str(said)
    assert "pw" not in str(said)
