"""State files of mode none: what Kratix writes is read, and nothing else costs more than a glance."""

import tracemalloc

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shared import state_files
from shared.errors import InvalidObject

# Each: as Go's YAML, Kratix or a person writes it, and the files that it names.
READ = {
    "kratix": (b"files:\n- dev/a.yaml\n- dev/b/c.yaml\n", ["dev/a.yaml", "dev/b/c.yaml"]),
    "indented": (b"files:\n    - a\n    - b\n", ["a", "b"]),
    "quoted": (b'files:\n- "123"\n- \'it\'\'s\'\n- "a: b"\n- "\\u00e4"\n', ["123", "it's", "a: b", "ä"]),
    "flow": (b"files: [a, 'b']\n", ["a", "b"]),
    "json": (b'{"files": ["a", "b"]}', ["a", "b"]),
    "no-files": (b"files: []\n", []),
    "null-files": (b"files: null\n", []),
    "files-without-value": (b"files:\n", []),
    "empty": (b"", []),
    "null": (b"null\n", []),
    "a-comment-alone": (b"# nothing\n", []),
    "marked": (b"---\nfiles:\n- a\n...\n", ["a"]),
    "numbers-as-they-stand": (b"files:\n- 0123\n- yes\n", ["0123", "yes"]),
    "folded-by-a-narrow-emitter": (b'files:\n- "a very\n  long name"\n', ["a very long name"]),
    "as-a-local-config": (
        (
            b"apiVersion: kratix.io/v1\nkind: StateFile\nmetadata:\n  name: x\n  annotations:\n"
            b'    config.kubernetes.io/local-config: "true"\nfiles:\n- a\n'
        ),
        ["a"],
    ),
    "as-we-write-it": (b"# text\napiVersion: v1\nkind: List\nitems: []\nfiles:\n- a\n", ["a"]),
    "among-others": (b"more: {a: [1, {b: c}]}\nfiles:\n- a\nlast: [x]\n", ["a"]),
    "another-key-of-that-name": (b"more:\n  files:\n  - x\nfiles:\n- a\n", ["a"]),
}


@pytest.mark.parametrize(("content", "files"), READ.values(), ids=READ)
def test_what_a_state_file_may_look_like(content: bytes, files: list[str]) -> None:
    assert state_files.read(content, "it") == files


BROKEN = {
    "a-number": (b"files: 7", "not a list of paths"),
    "a-map": (b"files: {a: b}", "not a list of paths"),
    "a-list-in-the-list": (b"files: [[a]]", "not a list of paths"),
    "a-map-in-the-list": (b"files:\n- a: b\n", "not a list of paths"),
    "a-list": (b"- a", "not a map"),
    "a-text": (b"a", "not a map"),
    "no-yaml": (b"[", "not a map"),
    "cut-off": (b"files: [a, ", "not YAML"),
    "control-characters": (b"\x00\x01", "not YAML"),
    "no-unicode": (b"files: [\xff]", "not YAML"),
    "two-documents": (b"files: [a]\n---\nfiles: [b]\n", "second document"),
    "an-alias": (b"x: &x [a]\nfiles: *x\n", "anchor"),
    "a-tag": (b"files:\n- !!binary aGk=\n", "tag"),
    "a-python-object": (b"files:\n- !!python/object/apply:os.system [id]\n", "tag"),
    "a-list-as-a-key": (b"? [a]\n: b\n", "key is not text"),
    "deep": (b"x: " + b"[" * 100_000, "too much"),
    "deep-files": (b"files: " + b"[" * 100_000, "not a list of paths"),
    "wide-beside": (b"x: [" + b"[]," * 1_000_000 + b"]", "too much"),
    "wide": (b"files: [" + b"[]," * 1_000_000 + b"]", "not a list of paths"),
    "a-laugh": (
        b"a: &a [x,x]\n" + b"".join(b"%c: &%c [*%c,*%c]\n" % (98 + n, 98 + n, 97 + n, 97 + n) for n in range(9)),
        "anchor",
    ),
    "endless": (b"files:\n" + b"- a\n" * 200_001, "over 200000 files"),
}


@pytest.mark.parametrize(("content", "why"), BROKEN.values(), ids=BROKEN)
def test_anything_else_is_refused_with_the_reason_and_little_memory(content: bytes, why: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InvalidObject, match=why) as caught:
            state_files.read(content, "the file")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith("the file is not a valid state file")
    assert str(caught.value).endswith("delete it, and it will be written again")
    assert peak < 32 * 2**20


def test_twenty_thousand_files_are_written_and_read_back() -> None:
    files = [f"dev/{number % 50}/{number:06}.yaml" for number in range(20_000)]
    content = state_files.write(files)
    assert content.endswith(yaml.safe_dump({"files": files}, default_flow_style=False, width=2**16).encode())
    assert state_files.read(content, "it") == files


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12), max_size=5))
def test_every_name_comes_back_as_it_went(files: list[str]) -> None:
    content = state_files.write(files)
    assert yaml.safe_load(content) == {"apiVersion": "v1", "kind": "List", "items": [], "files": files}
    assert state_files.read(content, "it") == files
