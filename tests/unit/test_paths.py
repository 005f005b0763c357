"""Where documents go, and which paths are refused (docs/contract.md#paths, #refusals)."""

from __future__ import annotations

import posixpath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import paths
from shared.errors import InvalidObject, InvalidPath
from shared.resources import Destination, parse_state_store

# Each: the path as written, and as it is stored.
TAKEN = {
    "plain": ("a/b.yaml", "a/b.yaml"),
    "dot-parts": ("./a/./b.yaml", "a/b.yaml"),
    "doubled-slashes": ("a//b.yaml", "a/b.yaml"),
    "dots-in-names": ("a..b/.c/...", "a..b/.c/..."),
    "git-in-names": ("a.git/.gitignore/git", "a.git/.gitignore/git"),
    "spaces": (" a /b c", " a /b c"),
    "255-bytes": ("ü" * 127 + "x", "ü" * 127 + "x"),
    "1024-bytes": ("/".join(["x" * 127] * 7 + ["x" * 128]), "/".join(["x" * 127] * 7 + ["x" * 128])),
}
# Each: the path as written, and what the refusal says.
REFUSED = {
    "empty": ("", "names no file"),
    "dot": (".", "names no file"),
    "directory": ("a/", "names no file"),
    "absolute": ("/a", "absolute"),
    "dot-dot": ("../a", r"'\.\.'"),
    "dot-dot-inside": ("a/../b", r"'\.\.'"),
    "dot-dot-at-the-end": ("a/..", r"'\.\.'"),
    "git": (".git/config", "Git's own"),
    "git-upper": ("a/.GIT", "Git's own"),
    "git-trailing-dot": ("a/.git./x", "Git's own"),
    "git-trailing-space": (".git /x", "Git's own"),
    "git-short-name": ("git~1/x", "Git's own"),
    "git-short-name-upper": ("GIT~1/x", "Git's own"),
    "nul": ("a\0b", "control character"),
    "newline": ("a\nb", "control character"),
    "delete": ("a\x7fb", "control character"),
    "backslash": ("a\\b", "backslash"),
    "256-bytes": ("ü" * 128, "255 bytes"),
    "1025-bytes": ("/".join(["x" * 127] * 6 + ["x" * 128] * 2), "1024 bytes"),
    "surrogate": ("a\ud800", "Unicode"),
}


@pytest.mark.parametrize(("written", "stored"), TAKEN.values(), ids=TAKEN)
def test_a_path_is_stored_cleaned(written: str, stored: str) -> None:
    assert paths.check(written) == stored


@pytest.mark.parametrize(("written", "words"), REFUSED.values(), ids=REFUSED)
def test_a_bad_path_is_refused_with_the_fields_name_and_the_reason(written: str, words: str) -> None:
    with pytest.raises(InvalidPath, match=words) as caught:
        paths.check(written, "spec.workloads[0].filepath")
    assert str(caught.value).startswith("spec.workloads[0].filepath")


@pytest.mark.parametrize("root", ["", "/", ".", "./", "//"])
def test_every_spelling_of_the_root_is_the_root(root: str) -> None:
    assert paths.check_directory(root, "spec.path") == ""


@pytest.mark.parametrize(
    ("written", "stored"), [("/a/b/", "a/b"), ("a", "a"), ("./a//b", "a/b")], ids=["slashes", "plain", "dots"]
)
def test_a_directory_is_joined_and_cleaned(written: str, stored: str) -> None:
    assert paths.check_directory(written, "spec.path") == stored


@pytest.mark.parametrize(
    ("path", "directory", "within"),
    [
        pytest.param("a/b", "a", True, id="inside"),
        pytest.param("a/b/c", "a", True, id="deep-inside"),
        pytest.param("a", "a", True, id="itself"),
        pytest.param("ab", "a", False, id="same-beginning"),
        pytest.param("worker-10/x", "worker-1", False, id="worker-10-of-worker-1"),
        pytest.param("a", "a/b", False, id="outside"),
        pytest.param("anything", "", True, id="the-root-holds-everything"),
    ],
)
def test_within_counts_whole_parts(path: str, directory: str, within: bool) -> None:
    assert paths.is_within(path, directory) is within


def test_parents_come_from_the_outermost_in() -> None:
    assert list(paths.parents("a/b/c")) == ["a", "a/b"]
    assert list(paths.parents("a")) == []


def _destination(mode: str = "nestedByMetadata", filename: str = "aggregated.yaml", **more: Any) -> Destination:
    metadata = {"name": "worker-1", **({"namespace": more.pop("namespace")} if "namespace" in more else {})}
    spec = {"stateStoreRef": {"name": "s", "kind": "BucketStateStore"}, **more}
    return Destination.parse({"metadata": metadata, "spec": {**spec, "filepath": {"mode": mode, "filename": filename}}})


def _root(store_path: str, **more: Any) -> str:
    spec = {"path": store_path, "endpoint": "e", "bucketName": "b"}
    store = parse_state_store({"kind": "BucketStateStore", "metadata": {"name": "s"}, "spec": spec})
    return paths.destination_root(store, _destination(**more))


@pytest.mark.parametrize(
    ("store_path", "more", "root"),
    [
        pytest.param("", {}, "worker-1", id="defaults-to-the-name"),
        pytest.param("destinations", {}, "destinations/worker-1", id="in-the-stores-path"),
        pytest.param("destinations", {"path": "dev"}, "destinations/dev", id="own-path"),
        pytest.param("destinations", {"path": "/dev/"}, "destinations/dev", id="own-path-with-slashes"),
        pytest.param("destinations", {"path": "/"}, "destinations", id="the-stores-path-itself"),
        pytest.param("", {"path": "/"}, "", id="the-stores-root"),
        pytest.param("/", {"path": "/"}, "", id="the-stores-root-spelt-with-slashes"),
        pytest.param(
            "destinations", {"path": "dev", "namespace": "default"}, "destinations/dev/default", id="namespaced"
        ),
    ],
)
def test_the_root_of_a_destination(store_path: str, more: dict[str, Any], root: str) -> None:
    assert _root(store_path, **more) == root


@pytest.mark.parametrize(
    ("store_path", "path", "words"),
    [("..", "a", r"spec\.path of BucketStateStore/s"), ("a", "../b", r"^spec\.path '\.\./b'"), ("a", ".git", "Git's")],
    ids=["of-the-store", "of-the-destination", "git"],
)
def test_a_root_that_escapes_is_refused_with_the_object_it_stands_in(store_path: str, path: str, words: str) -> None:
    with pytest.raises(InvalidPath, match=words):
        _root(store_path, path=path)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (
            "nestedByMetadata",
            ("r/dependencies/kratix-canary-namespace.yaml", "r/resources/kratix-canary-configmap.yaml"),
        ),
        ("none", ("r/kratix-canary-namespace.yaml", "r/kratix-canary-configmap.yaml")),
        ("aggregatedYAML", ("r/kratix-canary-namespace.yaml", "r/kratix-canary-configmap.yaml")),
    ],
)
def test_canary_documents_lie_where_kratix_puts_them(mode: str, expected: tuple[str, str]) -> None:
    assert paths.canary_paths("r", _destination(mode)) == expected
    assert paths.canary_paths("", _destination(mode)) == tuple(path.removeprefix("r/") for path in expected)


@pytest.mark.parametrize(
    "filename", ["../x", "", "/x", "kratix-canary-namespace.yaml", "./kratix-canary-configmap.yaml"]
)
def test_a_bad_filename_is_refused_only_where_it_is_used(filename: str) -> None:
    with pytest.raises(InvalidObject, match=r"spec\.filepath\.filename"):
        paths.check_filename(_destination("aggregatedYAML", filename))
    paths.check_filename(_destination("none", filename))


parts = st.sampled_from(["..", ".", "", ".git", ".Git ", "git~1", "a", "b.yaml", "...", "a\\b", "\0", "ü", "x" * 256])
written = st.lists(parts | st.text(max_size=4), max_size=6).map("/".join) | st.text(max_size=30)


@given(written)
def test_a_checked_path_never_leaves_its_directory_and_checking_it_again_changes_nothing(path: str) -> None:
    try:
        stored = paths.check(path)
    except InvalidPath:
        return
    assert paths.check(stored) == stored
    assert posixpath.normpath(posixpath.join("/store/own", stored)) == f"/store/own/{stored}"
    names = stored.split("/")
    assert not {"", ".", ".."} & set(names)
    assert not {".git", "git~1"} & {name.lower().rstrip(". ") for name in names}
    assert all(len(name.encode()) <= 255 for name in names)
    assert not [char for char in stored if ord(char) < 32 or ord(char) == 127 or char == "\\"]


@given(written)
def test_a_checked_directory_never_leaves_the_store(path: str) -> None:
    try:
        stored = paths.check_directory(path, "spec.path")
    except InvalidPath:
        return
    assert paths.check_directory(stored, "spec.path") == stored
    assert not stored.startswith("/")
    assert ".." not in stored.split("/")
    assert paths.is_within(f"{stored}/x".lstrip("/"), stored)


@given(st.text(max_size=8), st.text(max_size=8))
def test_within_is_what_the_file_system_says(one: str, other: str) -> None:
    try:
        path, directory = paths.check(one), paths.check_directory(other, "directory")
    except InvalidPath:
        return
    common = posixpath.commonpath([f"/{path}", f"/{directory}"])
    assert paths.is_within(path, directory) is (common == f"/{directory}".rstrip("/") or not directory)
