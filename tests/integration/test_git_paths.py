"""Which paths are refused, compared with Git itself: core.protectHFS and core.protectNTFS as on macOS and Windows."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared import paths
from shared.errors import InvalidPath
from tests.servers.repository import run_git

BLOB = "587be6b4c3f93f93c489c0111bba5596147a26cb"  # of `x` and a line end
# Each: a part of a path, and whether Git refuses it.
PARTS = {
    ".git": True,
    ".GiT": True,
    "git~1": True,
    "GIT~1": True,
    ".git.": True,
    ".git ": True,
    ".git . . .": True,
    "git~1. .": True,
    ".git:x": True,
    ".git::$INDEX_ALLOCATION": True,
    ".git . :x": True,
    "git~1:x:y": True,
    ".g\u200cit": True,
    "\ufeff.git": True,
    ".git\u200d": True,
    ".\u202e\u206fG\u200fIT": True,
    "git": False,
    "git~2": False,
    "git~10": False,
    "git~1x": False,
    ".gitx": False,
    ".git~1": False,
    "x.git": False,
    ".git-x": False,
    ".git,": False,
    " .git": False,
    ".gi": False,
    "a:.git": False,
    "a:b": False,
    ".g\u200bit": False,
    ".g\u0131t": False,
    ".g\u0130t": False,
    ".git\u200c:x": False,
    ".g\u200cit.": False,
    "git\u200c~1": False,
    "\uff0egit": False,
    ".gitmodules": False,
    ".gitattributes": False,
    ".gitignore": False,
    ".mailmap": False,
    "gi7eba~1": False,
    "...": False,
    "con": False,
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paths")
    run_git("init", "--quiet", cwd=folder)
    for setting in ("core.protectHFS", "core.protectNTFS"):
        run_git("config", setting, "true", cwd=folder)
    assert run_git("hash-object", "-w", "--stdin", cwd=folder, stdin=b"x\n").stdout.decode().strip() == BLOB
    return folder


def git_takes(repository: Path, path: str) -> bool:
    """Whether Git takes a path into its index."""
    entry = f"100644,{BLOB},{path}"
    done = run_git("update-index", "--add", "--replace", "--cacheinfo", entry, cwd=repository, check=False)
    assert done.returncode == 0 or b"Invalid path" in done.stderr, done.stderr
    return done.returncode == 0


def we_take(path: str) -> bool:
    try:
        paths.check(path)
    except InvalidPath as error:
        assert "Git's own" in str(error)
        return False
    return True


@pytest.mark.parametrize(("part", "refused"), PARTS.items(), ids=map(ascii, PARTS))
@pytest.mark.parametrize("form", ["{}", "{}/x", "a/{}", "a/{}/x"])
def test_gits_own_names_are_refused_wherever_they_stand(repository: Path, part: str, refused: bool, form: str) -> None:
    path = form.format(part)
    assert we_take(path) is not refused
    assert git_takes(repository, path) is not refused


near = st.lists(
    st.sampled_from([".", "g", "G", "i", "I", "t", "T", ".git", "git~1", "~", "1", "2", " ", ":", "x", "\u0131"])
    | st.sampled_from(["\u200b", "\u200c", "\u200f", "\u2010", "\u202a", "\u202e", "\u202f", "\u2069", "\u206a"])
    | st.sampled_from(["\u206f", "\u2070", "\ufeff", "\ufffe", "\u212a", "\U0001f600"]),
    min_size=1,
    max_size=7,
).map("".join)
parts = (near | st.text(max_size=5)).filter(
    lambda part: (
        part.strip(".") != ""
        and not any(
            ord(char) < 32 or ord(char) == 127 or char in "/\\" or 0xD800 <= ord(char) < 0xE000 for char in part
        )
    )
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.lists(parts, min_size=1, max_size=3).map("/".join))
def test_whatever_else_is_right_git_refuses_exactly_what_we_refuse(repository: Path, path: str) -> None:
    assert we_take(path) is git_takes(repository, path), ascii(path)
