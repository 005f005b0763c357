"""What Git servers answer: a table each for HTTPS, SSH and pushes, and who must act on each answer.

Sources, by server: GitHub docs "Error: Repository not found", "Error: Permission to user/repo denied", "About rulesets"
and "About large files"; GitLab lib/gitlab/git_access.rb, lib/gitlab/checks/, lib/gitlab/auth.rb,
lib/gitlab/repository_size_error_message.rb and gitlab-shell; Gitea and Forgejo routers/private/serv.go,
routers/private/hook_pre_receive.go, routers/web/repo/githttp.go and cmd/serv.go; Atlassian "Troubleshoot SSH issues"
and "Reduce repository size"; Microsoft "Git permission and policy errors" (TF401019, TF401027, TF402455); AWS
"Troubleshooting CodeCommit" and "Limit pushes and merges to branches"; Gerrit ReceiveCommits.java,
CommitValidators.java and "Documentation, error messages"; git: daemon.c, path.c, receive-pack.c, setup.c, shell.c.
"""

from collections.abc import Sequence
from typing import Final

from shared.writers.words import Meaning, Saying

_ACCESS, _MISSING, _SETTING = Meaning.ACCESS, Meaning.MISSING, Meaning.SETTING
_RULE, _QUOTA, _TROUBLE = Meaning.RULE, Meaning.QUOTA, Meaning.TROUBLE

_PASSES: Final = "is in trouble, which may pass: it is tried again"
_ROOM: Final = "takes no more: raise the quota, or make room in the repository"
_WRITE: Final = "does not let these credentials push: give them write access"

# What forges say however they are reached.
_FORGES: Final[Sequence[Saying]] = (
    # GitHub and GitLab: a token or key that is right, and that the organisation wants to have authorised.
    Saying(
        _ACCESS,
        r"SAML SSO|SSO session|single sign-?on|re-authorize the OAuth",
        ("wants the token or the key to be authorized for single sign-on (SSO): authorize it for the organization"),
    ),
    Saying(
        _ACCESS,
        r"IP allow ?list|not permitted to access this repository|IP address .*(not allowed|restricted)",
        "does not let this address in: add the function's addresses to the allow list",
    ),
    Saying(
        _ACCESS,
        (
            r"account (has been|is|was) (suspended|blocked|disabled|locked|deactivated)|account has been "
            r"deactivated"
        ),
        "has blocked the account of these credentials: unblock it, or use another account",
    ),
    Saying(
        _ACCESS,
        r"(key|token) (has|is) expired|expired (key|token)|token has been revoked",
        "does not take the key or token any more: renew it",
    ),
    Saying(
        _ACCESS,
        (
            r"fine-grained personal access token|token'?s? lifetime|lack one or more required (privilege "
            r")?scopes|insufficient.?scope|must use a personal access token with|required scopes?"
        ),
        "wants a token with other scopes: give it the right to read and write the repository",
    ),
    Saying(
        _ACCESS,
        r"two-factor|\b2FA\b|\bOTP\b",
        "wants a token in the place of the password, as the account has a second factor: create one",
    ),
    Saying(
        _ACCESS,
        (
            r"password authentication (was removed|is not supported)|stopped supporting account passwords|"
            r"App passwords are deprecated|required to use a token"
        ),
        "wants a token in the place of the password: create one, and put it into the Secret",
    ),
    # Before what denies access, since they say 403 and "read-only", too. Bitbucket calls plans user limits.
    Saying(
        _QUOTA,
        (
            r"quota|exceed(ed|s)? (its|the) (repository )?(size|storage|user) limit|storage (limit|is "
            r"full)|over the .{0,20}size limit|(size|storage) limit .{0,40}(reached|exceeded)|exceed the "
            r"size limit|repository size limit"
        ),
        _ROOM,
    ),
    Saying(_RULE, r"archived", "keeps the repository as it is, as it is archived: unarchive it, or use another one"),
    Saying(
        _RULE,
        r"mirror repository",
        "keeps the repository as it is, as it is a mirror: use another one, or end the mirroring",
    ),
    Saying(
        _TROUBLE,
        (
            r"temporarily (read-only|unavailable)|maintenance|retry (it |after it )?(later|finished)|"
            r"heavy load|internal api (unreachable|error)|rate limit|too many requests|throttl|rate "
            r"exceeded|TF400733|TF400898|please (wait|try again)|internal server error|repository is "
            r"being created"
        ),
        _PASSES,
    ),
    Saying(
        _RULE,
        r"read-only GitLab instance|project state does not permit write",
        "takes no push to this repository at all: use the primary, or change the project's state",
    ),
    Saying(
        _ACCESS,
        (
            r"access is blocked|access (to this repository has been|blocked)|disabled by GitHub staff|"
            r"unavailable for legal reasons"
        ),
        "has blocked the repository: ask the forge's support",
    ),
    Saying(
        _ACCESS,
        r"over (HTTP|SSH) is not allowed|SSH access .*(disabled|not allowed)",
        "does not allow Git this way: allow it, or use the other of HTTPS and SSH",
    ),
)

HTTPS: Final[Sequence[Saying]] = (
    *_FORGES,
    Saying(
        _ACCESS,
        (
            r"invalid (username|credentials|user ?name)|HTTP Basic: Access denied|TF400813|public key "
            r"authentication failed|bad credentials|authentication failed"
        ),
        "does not accept the credentials: correct username and password in the Secret",
    ),
    Saying(
        _ACCESS,
        (
            r"permission to .+ denied|write access to repository not granted|not allowed to (push|upload)|"
            r"(deploy key|key) does not have write access|TF401027|GitPush|not permitted to (access|push)|"
            r"not authorized to|permission denied for writing|user permission denied|cannot push"
        ),
        _WRITE,
    ),
    Saying(
        _MISSING,
        (
            r"push to create|repository not found|project you were looking for|TF401019|TF200016|VS800075|"
            r"RepositoryDoesNotExist|no longer exists|repository .*does not exist|git repository not "
            r"found|not found in this"
        ),
        "knows no such repository, or hides it from these credentials: check spec.url and their access",
    ),
)

SSH: Final[Sequence[Saying]] = (
    *_FORGES,
    # Before "not found": some forges say it of a deploy key of another repository.
    Saying(
        _ACCESS,
        (
            r"marked as read[- ]only|deployment key is read-only|deploy key|not authorized to|Permission "
            r"to .+ denied|not allowed to (push|upload)|write access|access denied(?! or repository)|"
            r"\bunauthorized\b|TF401027|GitPush|not permitted|\bforbidden\b"
        ),
        "does not let this key push: give the key write access",
    ),
    Saying(
        _MISSING,
        (
            r"push to create|repository (was )?not found|project you were looking for|project .*not found|"
            r"cannot find repository|repository .*does not exist|does not appear to be a git repo|"
            r"not exported|TF401019|no such repository|RepositoryDoesNotExist|"
            r"does not exist, or you do not have permission"
        ),
        "knows no such repository, or hides it from this key: check spec.url and the key's access",
    ),
    Saying(
        _ACCESS,
        r"public key authentication failed|cannot find key|bad key id|permission denied \(publickey",
        "does not accept the key: add its public half to the forge",
    ),
    Saying(
        _SETTING,
        (
            r"interactive git shell|unrecognized command|account is currently not available|not a git "
            r"command|please login as the user"
        ),
        "has no Git for the user in spec.url: write the user that the forge names, mostly git",
    ),
    Saying(
        _RULE,
        r"dubious ownership",
        "does not trust the owner of the repository's files: correct the owner, or its safe.directory",
    ),
)

# What is said of a push that was sent: about the branch, or about the pack, with the text beside (git: `remote: …`).
PUSH: Final[Sequence[Saying]] = (
    Saying(
        _RULE,
        (
            r"\bGH0\d\d\b|protected branch|pre-receive hook declined.*(pattern|larger than|prohibited)|"
            r"TF402455|VS4036\d\d|file size"
        ),
        "rejects",
    ),
    *(row for row in _FORGES if row.meaning in {_QUOTA, _TROUBLE} or "archived" in row.pattern),
    Saying(
        _ACCESS,
        (
            r"don't have permission to push|need 'Push' rights|not permitted: (update|create)|user "
            r"permission denied for writing"
        ),
        _WRITE,
    ),
)

SIGN_IN: Final = r"sign[ _-]?in|log[ _-]?in|sso\b|saml|oauth|type=.?password|_signin"
