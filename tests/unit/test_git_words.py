"""The pure parts of the Git writer: URLs, commit messages, the server's words, known hosts, opening."""

import base64
from typing import Any
from urllib.parse import quote

import pytest

from shared.errors import StateStoreNotReady
from shared.resources import GitAuthor, GitStateStore, Secret
from shared.settings import Settings
from shared.writers import words
from shared.writers.git import GitWriter, answers, commit, remote
from shared.writers.git.answers import RemoteText
from shared.writers.git.ssh import KnownHosts
from shared.writers.words import Redactor

BASIC = {"username": "u", "password": "canary-password"}
URL = "https://git.example.test/team/repo.git"
BRANCHES = [
    "",
    " ",
    "refs/tags/v1",
    "refs/heads/refs/heads/x",
    "refs/remotes/origin/x",
    "HEAD",
    "@",
    "-x",
    "a b",
    "x.lock",
]
ODD = ["\n", "\r\n", "\t", "\0", "\x1b", "\u200b", "\ufeff", "\u00a0"]


def open_writer(spec: dict[str, Any], data: dict[str, str] | None = None, **settings: Any) -> GitWriter:
    store = GitStateStore.parse({"kind": "GitStateStore", "metadata": {"name": "s"}, "spec": {"url": URL, **spec}})
    values = {key: value.encode() for key, value in (BASIC if data is None else data).items()}
    secret = Secret.model_validate({"name": "creds", "namespace": "platform", "data": values})
    return GitWriter.open(store, secret, Settings(**settings))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (URL, ("https", "", "git.example.test", 443, "/team/repo.git")),
        ("https://git.example.test:8443/repo/", ("https", "", "git.example.test", 8443, "/repo")),
        ("HTTP://Git.Example.test/r", ("http", "", "git.example.test", 80, "/r")),
        ("https://[2001:db8::1]:1/r", ("https", "", "2001:db8::1", 1, "/r")),
        ("ssh://me@host/abs/r.git", ("ssh", "me", "host", 22, "/abs/r.git")),
        ("ssh://host:2222/~/r%20s", ("ssh", "git", "host", 2222, "/~/r s")),
        ("git@github.com:org/repo.git", ("ssh", "git", "github.com", 22, "org/repo.git")),
        ("host:/abs/repo", ("ssh", "git", "host", 22, "/abs/repo")),
    ],
)
def test_urls_are_read_in_every_form(url: str, expected: tuple[object, ...]) -> None:
    read = remote.parse(url)
    assert (read.scheme, read.user, read.host, read.port, read.path) == expected
    if read.scheme != "ssh":
        assert remote.parse(read.url) == read


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://u:canary@h/r", "contains credentials"),
        ("https://canary@h/r", "contains credentials"),
        ("ssh://u:canary@h/r", "contains credentials"),
        ("https://h/r?token=canary", "after '\\?' or '#'"),
        ("git://h/r", "not supported"),
        ("file:///r", "not supported"),
        ("ext::sh -c canary", "white space"),
        ("https:///r", "names no host"),
        ("https://h", "names no repository"),
        ("https://h:99999/r", "no URL"),
        ("https://[h/r", "no URL"),
        ("/local/path", "no URL"),
        ("ssh://-oProxyCommand=canary/r", "names no host"),
        ("-oProxyCommand=canary@h:r", "a user or a path"),
        ("h:-r", "a user or a path"),
        ("https://h/r\n", ""),
        ("https://h/r\x00", "control character"),
    ],
)
def test_other_urls_are_refused_without_repeating_a_secret(url: str, words: str) -> None:
    if not words:
        assert remote.parse(url).path == "/r"
        return
    with pytest.raises(StateStoreNotReady, match=words) as caught:
        remote.parse(url)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "data", "words"),
    [
        ({"authMethod": "token"}, BASIC, "basicAuth, ssh, githubApp"),
        ({}, {}, "missing key: password"),
        ({}, {"username": "u", "password": " \n"}, "missing key: password"),
        ({}, {"username": "u"}, "missing key: password"),
        ({}, {"username": "a:b", "password": "p"}, "colon"),
        ({"authMethod": "ssh"}, {}, "does not fit the https URL"),
        ({"url": "git@h:r"}, BASIC, "does not fit the ssh URL"),
        ({"url": "git@h:r", "authMethod": "ssh"}, {}, "missing key: sshPrivateKey"),
        ({"url": "git@h:r", "authMethod": "ssh"}, {"sshPrivateKey": "canary"}, "no private key"),
        ({"url": "http://h/r"}, BASIC, "LANDFALL_ALLOW_PLAIN_HTTP_GIT"),
        ({"branch": "a..b"}, BASIC, "spec.branch"),
        ({"branch": "a\nb"}, BASIC, "spec.branch"),
        ({}, {**BASIC, "ca.crt": "canary"}, "ca.crt"),
        *(({"branch": branch}, BASIC, "not a valid Git branch name") for branch in BRANCHES),
        *(({}, {**BASIC, "password": f"canary{odd}x"}, "password of Secret creds holds a line break") for odd in ODD),
        *(({}, {**BASIC, "username": f"canary{odd}x"}, "username of Secret creds holds a line break") for odd in ODD),
    ],
)
def test_what_cannot_work_is_refused_when_the_writer_is_opened(
    spec: dict[str, Any], data: dict[str, str], words: str
) -> None:
    with pytest.raises(StateStoreNotReady, match=words) as caught:
        open_writer(spec, data)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("written", ["main", "refs/heads/main", " main\n", " refs/heads/main "])
def test_a_branch_is_read_in_every_form_and_is_one_place(written: str) -> None:
    def identity(branch: str) -> str:
        spec = {"url": f" {URL} ", "branch": branch, "authMethod": " basicAuth"}
        return GitStateStore.parse({"kind": "GitStateStore", "metadata": {"name": "s"}, "spec": spec}).identity

    assert identity(written) == identity("main")
    assert open_writer({"branch": written})._branch == "main"
    assert open_writer({"branch": "feature/heads/main"})._branch == "feature/heads/main"


@pytest.mark.parametrize(
    ("url", "data", "user"),
    [
        ("https://github.com/org/repo", {"password": "t"}, "x-access-token"),
        ("https://GitHub.example.com/org/repo", {"username": "", "password": "t"}, "x-access-token"),
        ("https://example.com/github/repo", {"username": " \n", "password": "t"}, "x-access-token"),
        ("https://dev.azure.com/org/project/_git/repo", {"password": "t"}, ""),
        ("https://github.com/org/repo", {"username": "octocat\n", "password": " t\n"}, "octocat"),
    ],
)
def test_a_token_needs_no_user_name(url: str, data: dict[str, str], user: str) -> None:
    """The user names are Kratix's (util/git/http.go at ae170e22, newBasicAuthCreds)."""
    credentials = open_writer({"url": url}, data)._endpoint._basic  # type: ignore[attr-defined]
    assert (credentials.user, credentials.password) == (user, "t")
    assert credentials.header == f"Basic {base64.b64encode(f'{user}:t'.encode()).decode()}"


def test_a_missing_secret_is_named_with_its_reason() -> None:
    spec = {"url": URL, "secretRef": {"name": "creds", "namespace": "platform"}}
    store = GitStateStore.parse({"kind": "GitStateStore", "metadata": {"name": "s"}, "spec": spec})
    with pytest.raises(StateStoreNotReady, match=r"^Secret creds not found in namespace platform$") as caught:
        GitWriter.open(store, None, Settings())
    assert caught.value.reason == "SecretNotFound"


def test_a_writer_shows_no_secret() -> None:
    writer = open_writer({})
    assert BASIC["password"] not in repr(vars(writer)) + repr(vars(writer._endpoint)) + repr(writer._endpoint.redactor)


def test_messages_name_up_to_three_and_count_more() -> None:
    assert commit.message(["a"]) == "Update from: a\n\n- a\n"
    assert commit.message(["a", "b", "b"]) == "Update from: a, b\n\n- a\n- b\n- b\n"
    assert commit.message(list("abcd")).startswith("Update from: 4 Destinations\n\n- a\n- b\n")


@pytest.mark.parametrize(
    ("name", "email", "expected"),
    [
        ("kratix", "", "kratix <>"),
        ("", "", "kratix <>"),
        ("a\nauthor b <c>", "d\0>e", "aauthor b c <de>"),
        (" .Jo. ", "jo@x ", "Jo <jo@x>"),
    ],
)
def test_identities_are_one_line_that_git_reads(name: str, email: str, expected: str) -> None:
    assert commit.identity(GitAuthor(name=name, email=email)) == expected.encode()


@pytest.mark.parametrize(
    ("words", "rule", "race"),
    [
        ("pre-receive hook declined", True, False),
        ("protected branch hook declined", True, False),
        ("push declined due to repository rule violations", True, False),
        ("non-fast-forward", False, True),
        ("fetch first", False, True),
        ("failed to update ref", False, True),
        ("cannot lock ref 'refs/heads/main': is at 1 but expected 2", False, True),
        ("incorrect old value provided", False, True),
        ("unpacker error", False, False),
    ],
)
def test_rules_and_races_are_told_apart(words: str, rule: bool, race: bool) -> None:
    assert (answers.is_rule(words), answers.is_race(words)) == (rule, race)


def test_words_hold_no_secret_in_any_encoding() -> None:
    secret = "p/ä+s w&d"
    redactor = Redactor()
    redactor.add(secret, user="me")
    both = base64.b64encode(f"me:{secret}".encode()).decode()
    for form in (secret, quote(secret, safe=""), both, both.rstrip("="), base64.b64encode(secret.encode()).decode()):
        assert redactor.words(f"a {form} b") == "a *** b"
    assert redactor.words(b"one\r\n\x1b[1mtwo\xff") == "one [1mtwo�"
    assert len(redactor.words("x" * 10_000)) == words.MAX_WORDS + 1


def test_remote_text_is_bounded_and_leaves_progress_out() -> None:
    text = RemoteText()
    text(b"Resolving deltas: 50% (1/2)\rResolving deltas: 100% (2/2), done.\nGH006: no\n")
    assert str(text) == "GH006: no"
    for _ in range(100):
        text(b"x" * 1000)
    assert len(str(text)) <= answers.MAX_REMOTE_BYTES


KEY = base64.b64encode(b"\0\0\0\x0bssh-ed25519" + bytes(36)).decode()


@pytest.mark.parametrize(
    ("line", "url", "known"),
    [
        ("h.example", "git@h.example:r", True),
        ("H.Example", "git@h.example:r", True),
        ("h.example", "ssh://h.example:2222/r", True),
        ("[h.example]:2222", "ssh://h.example:2222/r", True),
        ("[h.example]:2222", "git@h.example:r", False),
        ("a,*.example", "git@h.example:r", True),
        ("*.example,!h.example", "git@h.example:r", False),
        ("h?example", "git@h.example:r", True),
        ("[gh].example", "git@h.example:r", False),
        ("|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg=", "ssh://192.168.1.61/r", True),
        ("|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg=", "ssh://192.168.1.62/r", False),
        ("|1|broken", "git@h.example:r", False),
        ("@cert-authority h.example", "git@h.example:r", False),
    ],
)
def test_known_hosts_are_read_as_openssh_reads_them(line: str, url: str, known: bool) -> None:
    """The hashed line is the example of sshd(8)'s test suite for 192.168.1.61."""
    hosts = KnownHosts(f"# comment\n\nother.test ssh-ed25519 {KEY}\n{line} ssh-ed25519 {KEY} me@here\nbroken\n")
    if known:
        assert len(hosts.of(remote.parse(url))) == 1
    else:
        with pytest.raises(StateStoreNotReady, match="host key"):
            hosts.of(remote.parse(url))


def test_known_hosts_without_any_key_are_refused() -> None:
    with pytest.raises(StateStoreNotReady, match="ssh-keyscan"):
        KnownHosts(f"# nothing\n@revoked * ssh-ed25519 {KEY}\nh ssh-ed25519 ???\n")
