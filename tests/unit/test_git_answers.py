"""What Git servers say, line by line as they say it, over HTTPS, over SSH and of a push: who must act, what to change."""
# ruff: noqa: E501 -- a line of the table is what a server says

from __future__ import annotations

import pytest

from shared.writers.git.words import HTTPS, PUSH, SSH
from shared.writers.words import Meaning, Saying, find

ACCESS, MISSING, SETTING = Meaning.ACCESS, Meaning.MISSING, Meaning.SETTING
RULE, QUOTA, TROUBLE = Meaning.RULE, Meaning.QUOTA, Meaning.TROUBLE
Line = tuple[str, str, Meaning, str]  # server, words, who must act, a part of the advice

OVER_HTTPS: list[Line] = [
    ("github", "Invalid username or token. Password authentication is not supported for Git operations.", ACCESS, "token in the place of the password"),
    ("github", "Support for password authentication was removed on August 13, 2021.", ACCESS, "token in the place of the password"),
    ("github", "Permission to octo/fleet.git denied to robot.", ACCESS, "write access"),
    ("github", "Write access to repository not granted.", ACCESS, "write access"),
    ("github", "Repository not found.", MISSING, "spec.url"),
    ("github", "The 'acme' organization has enabled or enforced SAML SSO. To access this repository, visit https://github.com/orgs/acme/sso", ACCESS, "single sign-on"),
    ("github", "The 'acme' organization has enabled or enforced SAML SSO.\nTo access this repository, you must re-authorize the OAuth Application 'x'.", ACCESS, "authorize it for the organization"),
    ("github", "The `acme' organization has an IP allow list enabled, and 203.0.113.7 is not permitted to access this repository.", ACCESS, "allow list"),
    ("github", "The 'acme' organization forbids access via a fine-grained personal access tokens if the token's lifetime is greater than 366 days.", ACCESS, "other scopes"),
    ("github", "This repository was archived so it is read-only.", RULE, "unarchive"),
    ("github", "Your account is suspended. Please visit https://support.github.com for more information.", ACCESS, "unblock"),
    ("github", "Access to this repository has been disabled by GitHub staff.", ACCESS, "forge's support"),
    ("github", "You have exceeded a secondary rate limit.", TROUBLE, "tried again"),
    ("gitlab", "HTTP Basic: Access denied. If a password was provided for Git authentication, the password was incorrect or you're required to use a token instead of a password.", ACCESS, "token in the place"),
    ("gitlab", "HTTP Basic: Access denied", ACCESS, "correct username and password"),
    ("gitlab", "You are not allowed to push code to this project.", ACCESS, "write access"),
    ("gitlab", "This deploy key does not have write access to this project.", ACCESS, "write access"),
    ("gitlab", "The project you were looking for could not be found or you don't have permission to view it.", MISSING, "hides it"),
    ("gitlab", "Your account has been blocked.", ACCESS, "unblock"),
    ("gitlab", "You can't push code to a read-only GitLab instance.", RULE, "use the primary"),
    ("gitlab", "The repository is temporarily read-only. Please try again later.", TROUBLE, "tried again"),
    ("gitlab", "Git access over HTTP is not allowed", ACCESS, "the other of HTTPS and SSH"),
    ("gitlab", "Pushing over HTTP is not allowed.", ACCESS, "the other of HTTPS and SSH"),
    ("gitlab", "Cannot find valid SSO session. Please login via your group's SSO at https://gitlab.com/groups/acme/-/saml/sso", ACCESS, "single sign-on"),
    ("gitlab", "Your push to this repository has been rejected because the namespace storage limit of 5 GiB has been reached.", QUOTA, "make room"),
    ("gitlab", "HTTP Basic: Access denied. You must use a personal access token with 'write_repository' scope for Git over HTTP.", ACCESS, "other scopes"),
    ("gitea", "This repo is archived. You can view files and clone it, but cannot push or open issues/pull-requests.", RULE, "unarchive"),
    ("gitea", "mirror repository is read-only", RULE, "mirror"),
    ("gitea", "Users with two-factor authentication enabled cannot perform HTTP/HTTPS operations via plain username and password. Please create and use a personal access token", ACCESS, "second factor"),
    ("gitea", "Your account is disabled.", ACCESS, "unblock"),
    ("gitea", "Push to create is not enabled for users.", MISSING, "spec.url"),
    ("gitea", "Repository not found", MISSING, "spec.url"),
    ("gitea", "Repository cannot be accessed. You cannot push or open issues/pull-requests.", ACCESS, "write access"),
    ("forgejo", "Quota exceeded", QUOTA, "raise the quota"),
    ("bitbucket", "Bitbucket Cloud recently stopped supporting account passwords for Git authentication.", ACCESS, "token"),
    ("bitbucket", "App passwords are deprecated and must be replaced with API tokens by June 9, 2026.", ACCESS, "token"),
    ("bitbucket", "Your credentials lack one or more required privilege scopes.", ACCESS, "other scopes"),
    ("bitbucket", "You may not have access to this repository or it no longer exists in this workspace.", MISSING, "hides it"),
    ("bitbucket", "[ALERT] Your push failed because the account 'acme' has exceeded its user limit and this repository is restricted to read-only access.", QUOTA, "raise the quota"),
    ("bitbucket", "Bitbucket is currently under heavy load and is not able to service your request. Please wait briefly and try your request again", TROUBLE, "tried again"),
    ("bitbucket", "You are not permitted to access this resource", ACCESS, "write access"),
    ("azure", "TF401019: The Git repository with name or identifier fleet does not exist or you do not have permissions for the operation you are attempting.", MISSING, "hides it"),
    ("azure", "TF401027: You need the Git 'GenericContribute' permission to perform this action. Details: identity 'x', scope 'repository'.", ACCESS, "write access"),
    ("azure", "TF400813: The user 'x' is not authorized to access this resource.", ACCESS, "correct username and password"),
    ("azure", "TF200016: The following project does not exist: fleet.", MISSING, "spec.url"),
    ("azure", "TF400733: The request has been canceled: Request was canceled.", TROUBLE, "tried again"),
    ("codecommit", "User: arn:aws:iam::1:user/x is not authorized to perform: codecommit:GitPush on resource: arn:aws:codecommit:eu-west-1:1:fleet", ACCESS, "write access"),
    ("codecommit", "RepositoryDoesNotExistException: fleet does not exist", MISSING, "spec.url"),
    ("codecommit", "ThrottlingException: Rate exceeded", TROUBLE, "tried again"),
    ("gerrit", "Git repository not found", MISSING, "spec.url"),
    ("gerrit", "Authentication failed for 'robot'", ACCESS, "correct username"),
]  # fmt: skip

OVER_SSH: list[Line] = [
    ("github", "ERROR: Repository not found.", MISSING, "the key's access"),
    ("github", "ERROR: Permission to octo/fleet.git denied to deploy key", ACCESS, "write access"),
    ("github", "ERROR: The key you are authenticating with has been marked as read only.", ACCESS, "write access"),
    ("github", "ERROR: The 'acme' organization has enabled or enforced SAML SSO.\nTo access this repository, you must use the HTTPS remote with a personal access token", ACCESS, "single sign-on"),
    ("github", "ERROR: This repository was archived so it is read-only.", RULE, "unarchive"),
    ("github", "ERROR: Your account is suspended.", ACCESS, "unblock"),
    ("gitlab", "remote: ERROR: The project you were looking for could not be found or you don't have permission to view it.", MISSING, "hides it from this key"),
    ("gitlab", "ERROR: You are not allowed to push code to this project.", ACCESS, "write access"),
    ("gitlab", "ERROR: This deploy key does not have write access to this project.", ACCESS, "write access"),
    ("gitlab", "ERROR: Your SSH key has expired.", ACCESS, "renew"),
    ("gitlab", "ERROR: Git access over SSH is not allowed", ACCESS, "the other of HTTPS and SSH"),
    ("gitlab", "ERROR: Internal API unreachable", TROUBLE, "tried again"),
    ("gitea", "Gitea: Unauthorized", ACCESS, "write access"),
    ("gitea", "Gitea: Deploy Key: 1:robot is not authorized to write to octo/fleet.", ACCESS, "write access"),
    ("gitea", "Gitea: User: 2:robot with Key: 1:key is not authorized to write to octo/fleet.", ACCESS, "write access"),
    ("gitea", "Gitea: Cannot find repository: octo/fleet", MISSING, "spec.url"),
    ("gitea", "error: Push to create is not enabled for organizations.", MISSING, "spec.url"),
    ("gitea", "Gitea: Repo: octo/fleet is archived.", RULE, "unarchive"),
    ("gitea", "Gitea: Mirror Repository octo/fleet is read-only", RULE, "mirror"),
    ("gitea", "Gitea: Repository cannot be accessed, you could retry it later", TROUBLE, "tried again"),
    ("forgejo", "Forgejo: Your account is disabled.", ACCESS, "unblock"),
    ("bitbucket", "conq: repository does not exist.", MISSING, "spec.url"),
    ("bitbucket", "conq: repository access denied. access via a deployment key is read-only.", ACCESS, "write access"),
    ("bitbucket", "Unauthorized", ACCESS, "write access"),
    ("bitbucket", "Repository not found\nThe requested repository does not exist, or you do not have permission to access it.", MISSING, "hides it"),
    ("azure", "remote: Public key authentication failed.", ACCESS, "public half"),
    ("azure", "remote: TF401019: The Git repository with name or identifier fleet does not exist or you do not have permissions", MISSING, "hides it"),
    ("codecommit", "Repository not found for the given name", MISSING, "spec.url"),
    ("gerrit", "fatal: Project not found: fleet", MISSING, "spec.url"),
    ("gerrit", "Gerrit Code Review: git-receive-pack: not permitted on fleet", ACCESS, "write access"),
    ("git", "fatal: '/srv/fleet.git' does not appear to be a git repository", MISSING, "spec.url"),
    ("git", "access denied or repository not exported: /fleet", MISSING, "spec.url"),
    ("git", "fatal: detected dubious ownership in repository at '/srv/fleet.git'", RULE, "safe.directory"),
    ("git", "fatal: Interactive git shell is not enabled.", SETTING, "user in spec.url"),
    ("host", "This account is currently not available.", SETTING, "user in spec.url"),
    ("host", 'Please login as the user "ec2-user" rather than the user "root".', SETTING, "user in spec.url"),
    ("host", "git@host: Permission denied (publickey).", ACCESS, "public half"),
]  # fmt: skip

OF_A_PUSH: list[Line] = [
    ("github", "failed GH001: Large files detected. File big is 120.00 MB; this exceeds GitHub's file size limit of 100.00 MB", RULE, ""),
    ("github", "protected branch hook declined GH006: Protected branch update failed for refs/heads/main.", RULE, ""),
    ("github", "push declined due to email privacy restrictions GH007: Your push would publish a private email address.", RULE, ""),
    ("github", "push declined due to repository rule violations GH013: Repository rule violations found", RULE, ""),
    ("gitlab", 'pre-receive hook declined GitLab: File "big" is larger than the allowed size of 1 MiB. Use Git LFS to manage this file.', RULE, ""),
    ("gitlab", "pre-receive hook declined GitLab: Your push has been rejected, because this repository has exceeded its size limit of 10 MB by 1 MB.", QUOTA, "make room"),
    ("gitlab", "pre-receive hook declined GitLab: Your push to this repository would cause it to exceed the size limit of 10 MB so it has been rejected.", QUOTA, "make room"),
    ("gitlab", "pre-receive hook declined GitLab: The repository is temporarily read-only. Please try again later.", TROUBLE, "tried again"),
    ("gitea", "pre-receive hook declined Gitea: Not allowed to push to protected branch main", RULE, ""),
    ("gitea", "pre-receive hook declined Gitea: User permission denied for writing.", ACCESS, "write access"),
    ("forgejo", "pre-receive hook declined Forgejo: Quota exceeded", QUOTA, "make room"),
    ("bitbucket", "pre-receive hook declined Your push has been blocked because your repository is over the 4.0 GB size limit", QUOTA, "make room"),
    ("azure", "TF402455: Pushes to this branch are not permitted; you must use a pull request to update this branch.", RULE, ""),
    ("azure", "VS403654: The push was rejected because it contains one or more secrets", RULE, ""),
    ("codecommit", "You don't have permission to push changes to this branch.", ACCESS, "write access"),
    ("gerrit", "prohibited by Gerrit: not permitted: update To push into this reference you need 'Push' rights.", ACCESS, "write access"),
    ("gerrit", "internal server error", TROUBLE, "tried again"),
]  # fmt: skip

# Answers to a push that no row is about: git's own words for a rule count (`answers`), and a rule is the default.
RULES_BY_DEFAULT = [
    "pre-receive hook declined GitLab: You are not allowed to push code to protected branches on this project.",
    "pre-receive hook declined GitLab: Committer's email 'x@y' does not follow the pattern '@acme.example$'",
    "pre-receive hook declined GitLab: Author 'x@y' is not a member of team",
    "pre-receive hook declined Gitea: branch main is protected from unverified commit 1234",
    "refusing to allow a Personal Access Token to create or update workflow `.github/workflows/x.yaml` without `workflow` scope",
    "prohibited by Gerrit: project state does not permit write",
    "commit 1234: email address kratix@example.com is not registered in your account, and you lack 'forge committer' permission.",
    "commit 1234: missing Change-Id in message footer",
    "Permission denied to update branch main.",
    "Branch refs/heads/main can only be modified through pull requests.",
]

ALL: list[tuple[str, tuple[Saying, ...], Line]] = [
    *(("https", tuple(HTTPS), line) for line in OVER_HTTPS),
    *(("ssh", tuple(SSH), line) for line in OVER_SSH),
    *(("push", tuple(PUSH), line) for line in OF_A_PUSH),
]


@pytest.mark.parametrize(
    ("table", "line"),
    [(t, line) for _, t, line in ALL],
    ids=[f"{n}-{line[0]}-{i}" for i, (n, _, line) in enumerate(ALL)],
)
def test_each_answer_says_who_must_act(table: tuple[Saying, ...], line: Line) -> None:
    _, words, meaning, advice = line
    row = find(table, words)
    assert row is not None
    assert (row.meaning, advice in row.advice) == (meaning, True), row


@pytest.mark.parametrize("words", RULES_BY_DEFAULT)
def test_a_rule_about_what_is_pushed_is_none_of_access_or_quota(words: str) -> None:
    row = find(PUSH, words)
    assert row is None or row.meaning is RULE


@pytest.mark.parametrize(
    "words",
    [
        "broke off",
        "non-fast-forward",
        "failed to update ref",
        "could not open '/dev/null': No such file or directory",
        "",
    ],
)
def test_words_that_no_server_of_the_tables_says_are_in_none(words: str) -> None:
    assert [find(table, words) for table in (HTTPS, SSH, PUSH)] == [None, None, None]


def test_every_row_of_the_tables_has_its_line() -> None:
    found = [find(table, line[1]) for _, table, line in ALL]
    assert [row.pattern for row in {*HTTPS, *SSH, *PUSH} if row not in found] == []
