"""What S3 servers answer: one table of their codes and messages, and who must act on each.

Sources, by server: AWS "Error responses" of the S3 API reference, and "Troubleshoot access denied (403) errors" of the
user guide; MinIO cmd/api-errors.go, internal/kms/errors.go; Ceph src/rgw/rgw_common.cc (rgw_http_s3_errors); Cloudflare
"R2, Error codes"; Google "XML API, HTTP status and error codes"; Garage src/api/s3/error.rs and
src/api/common/signature/error.rs; SeaweedFS weed/s3api/s3err/s3api_errors.go; versitygw s3err/s3err.go; Backblaze
"S3-compatible API, errors". A row is chosen by `Code: message` of the answer; the first that fits counts.
"""

from collections.abc import Sequence
from typing import Final

from shared.writers.words import Meaning, Saying, find

_ACCESS, _MISSING, _SETTING = Meaning.ACCESS, Meaning.MISSING, Meaning.SETTING
_RULE, _QUOTA, _TROUBLE = Meaning.RULE, Meaning.QUOTA, Meaning.TROUBLE

IN_TROUBLE: Final = "is overloaded or in trouble: it is tried again, see the server's state"
DEFAULT_ENCRYPTION: Final = (
    "objects are put without headers for encryption: let the bucket encrypt by default, and take "
    "a Deny that demands such"
    " headers out of its policy"
)

TABLE: Final[Sequence[Saying]] = (
    # MinIO says so of a key that its administrator has disabled, by the code of an unknown one.
    Saying(_ACCESS, r"^InvalidAccessKeyId: .*disabled", "the access key is disabled: enable it, or use another"),
    # R2 says Unauthorized. NotEntitled is an account that has not switched it on.
    Saying(
        _ACCESS,
        r"^(InvalidAccessKeyId|Unauthorized|UnauthorizedAccess\w*):",
        "the server does not know the access key: correct accessKeyID in the Secret",
    ),
    Saying(_ACCESS, r"^SignatureDoesNotMatch:", "the signature is wrong: correct secretAccessKey in the Secret"),
    Saying(_ACCESS, r"^(ExpiredToken\w*|TokenRefreshRequired):", "the credentials have expired: renew them"),
    Saying(_ACCESS, r"^InvalidToken:", "the session token is not valid: renew the credentials"),
    Saying(
        _ACCESS,
        r"^(RequestTimeTooSkewed|RequestExpired|ExpiredRequest|RequestNotYetValid):",
        "its clock and ours differ too much: set the server's clock",
    ),
    Saying(
        _ACCESS,
        r"^AccessDenied: .*(Request has expired|not valid yet)",
        "its clock and ours differ too much: set the server's clock",
    ),
    Saying(
        _ACCESS,
        (
            r"^(AccountProblem|UserProjectAccountProblem|UserProjectMissing|AllAccessDisabled|"
            r"UserSuspended|NotEntitled|NotSignedUp):"
        ),
        "the account cannot be used: ask its provider",
    ),
    Saying(
        _ACCESS, r"^(InvalidSecurity|CredentialsNotSupported):", "the credentials are not valid: correct the Secret"
    ),
    # Backblaze's code is AccessDenied, too. Before what denies access, since both say 403.
    Saying(
        _QUOTA,
        r"(storage|transaction|download)[ _]cap[ _]exceeded",
        "a cap of the account is reached: raise it, or delete what is not needed",
    ),
    Saying(
        _QUOTA,
        (
            r"^(QuotaExceeded|XMinioAdminBucketQuotaExceeded|InsufficientStorage|ServiceQuotaExceeded\w*|"
            r"StorageQuotaExceeded):|\bquota (?:is |was |has been )?exceeded"
        ),
        "the bucket's quota is used up: raise it, or delete what is not needed",
    ),
    Saying(_QUOTA, r"^XMinioStorageFull:", "its disks are full: add some, or delete what is not needed"),
    # A bucket's key in a key management service. AWS names the action in a message whose code is AccessDenied.
    Saying(
        _ACCESS,
        r"^(KMSAccessDenied\w*|AccessDenied: .*\bkms:\w+)",
        (
            "the bucket's encryption key may not be used: allow these credentials kms:GenerateDataKey "
            "and kms:Decrypt on it"
        ),
    ),
    Saying(
        _RULE,
        r"^(KMS\.?\w*(NotFound|Disabled|InvalidState)\w*|KMS\.\w+|KMSNotConfigured|XMinioKMS\w*):",
        "the bucket's encryption key cannot be used: mend the key, or the bucket's default encryption",
    ),
    Saying(
        _RULE,
        r"^(AccessDenied|ObjectLocked|InvalidRequest): .*object lock",
        (
            "an object lock keeps the object as it is: wait for the end of its retention, or use a "
            "bucket without object lock"
        ),
    ),
    Saying(
        _ACCESS,
        r"^AccessDenied: .*(explicit deny|SecureTransport)",
        (
            "a policy denies it, whatever else is allowed: look for its Deny (addresses, TLS, headers); "
            f"{DEFAULT_ENCRYPTION}"
        ),
    ),
    Saying(_RULE, r"^(ServerSideEncryption\w+|MissingEncryption\w*|InvalidEncryption\w*):", DEFAULT_ENCRYPTION),
    Saying(
        _MISSING,
        r"^(NoSuchBucket|NoSuchTenant|NoSuchVpc\w*|InvalidBucketName):",
        "does not exist: create it, or correct spec.bucketName or spec.endpoint",
    ),
    # A region that is not ours, where botocore has not found the right one by itself; Garage calls its own `garage`.
    Saying(
        _SETTING,
        (
            r"^(AuthorizationHeaderMalformed|InvalidRegion|IllegalLocationConstraint\w*): .*(region|scope|"
            r"location)"
        ),
        (
            "the bucket's region is another one: write the region's endpoint at AWS; elsewhere let the "
            "server's region be us-east-1"
        ),
    ),
    Saying(
        _SETTING,
        r"^(PermanentRedirect|MovedPermanently):",
        "the bucket is served elsewhere: write the endpoint of its region",
    ),
    Saying(_TROUBLE, r"^(TemporaryRedirect|Redirect):", "is new, and not known everywhere yet: it is tried again"),
    Saying(
        _SETTING,
        r"^XMinioInsecureClientRequest:|plain[- ]text request|HTTP request (was sent )?to an? HTTPS",
        "the server speaks TLS: set spec.insecure to false",
    ),
    Saying(
        _SETTING,
        r"^(MethodNotAllowed|405):",
        ("the endpoint does not take S3's calls: write the endpoint of the S3 API, not of a console or a website"),
    ),
    Saying(
        _SETTING,
        r"^InvalidRequest: .*(authorization mechanism|AWS4-HMAC-SHA256)",
        "the server wants another signature: use one that takes Signature Version 4",
    ),
    Saying(
        _RULE,
        (
            r"^(ExistingObjectIsDirectory|ObjectParentIsFile|XMinioObjectExistsAsDirectory|"
            r"XMinioParentIsObject|DirectoryObject\w+):|parent.* is (an? )?(object|file)"
        ),
        "a file stands where a directory is needed, or the other way round: remove it, or change the path",
    ),
    Saying(
        _RULE,
        r"^(EntityTooLarge|MaxMessageLengthExceeded|RequestEntityTooLarge|413):",
        "the document is larger than the server takes: split it, or raise the server's limit",
    ),
    Saying(
        _RULE,
        r"^(KeyTooLong\w*|XMinioInvalidObjectName|XMinioInvalidResourceName|InvalidURI|InvalidObjectName):",
        "the server does not take the document's path: shorten or rename it",
    ),
    Saying(
        _TROUBLE,
        (
            r"^(BandwidthLimitExceeded|ConditionalRequestConflict|InternalError|OperationAborted|"
            r"OperationTimedOut|RequestLimitExceeded|RequestThrottled|RequestTimeout\w*|ServerBusy|"
            r"ServiceUnavailable|SlowDown\w*|Throttling\w*|TooManyRequests|(user)?rateLimitExceeded|"
            r"backendError|Unavailable|Busy):"
        ),
        IN_TROUBLE,
    ),
    Saying(
        _TROUBLE,
        r"^XMinio(\w*NotInitialized|BackendDown|\w*Quorum|ServerNotReady\w*):",
        "is starting, or parts of it are down: it is tried again, see the server's state",
    ),
)

_RIGHTS: Final = {
    "ListObjectsV2": "s3:ListBucket on the bucket, at least below the State Store's path",
    "GetObject": "s3:GetObject in it",
    "HeadObject": "s3:GetObject in it",
    "DeleteObject": "s3:DeleteObject in it",
    "DeleteObjects": "s3:DeleteObject in it",
    "AbortMultipartUpload": "s3:AbortMultipartUpload in it",
}
_PUT: Final = (
    "s3:PutObject in it, and look for a Deny in the bucket's policy, such as one that demands encryption headers"
)


def meaning_of(code: str, message: str) -> Saying | None:
    """Return what an answer means; None for one that no server of the table is known to give."""
    return find(TABLE, f"{code}: {message}")


def right_for(operation: str) -> str:
    """Return the permission that a denied operation of botocore's needs, as the object of "allow"."""
    return _RIGHTS.get(operation, _PUT)
