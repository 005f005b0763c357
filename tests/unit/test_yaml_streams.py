"""Files of YAML joined into one: the documents of the stream are the documents of the files, however they look."""

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared import yaml_streams

LOADERS = [yaml.SafeLoader, yaml.CSafeLoader]
MAP = b"a: 1\n"


def documents(stream: bytes, loader: type = yaml.CSafeLoader) -> list[object]:
    """Return the documents of a stream."""
    return list(yaml.load_all(stream, Loader=loader))


def kratix(files: list[bytes]) -> bytes:
    """Return what Kratix ae170e22 writes (workplacement_controller.go, combineAllWorkloads)."""
    return b"\n---\n".join(files)


def is_right(stream: bytes, expected: list[object], loader: type) -> bool:
    """Whether a stream holds those documents. Parsers do not agree on a mark inside a stream: libyaml skips it."""
    try:
        return documents(stream, loader) == expected
    except yaml.YAMLError:
        return False


ALIKE = {
    "plain": [b"a: 1\n", b"b: 2\n", b"c: 3\n"],
    "no-newline-at-the-end": [b"a: 1", b"b: [2, 3]", b"'c'"],
    "crlf": [b"a: 1\r\n", b"b: |\r\n  x\r\n", b"c: 3\r\n"],
    "comments": [b"a: 1 # one\n# end", b"# begin\nb: 2\n# end\n"],
    "a-marker-inside-a-block-scalar": [b"a: |\n  ---\n  b: 1\n  ...\n", b"c: >\n  ---\n"],
    "ends-with-a-document-end": [b"a: 1\n...\n", b"b: 2\n...", b"c: 3\n"],
    "ends-with-a-marker": [b"a: 1\n---\n", b"b: 2\n---", b"c: 3\n"],
    "begins-with-nothing": [b"", b"b: 2\n"],
    "begins-with-comments-alone": [b"# licence\n", b"b: 2\n"],
    "a-mark-on-the-first": [b"\xef\xbb\xbfa: 1\n", b"b: 2\n"],
    "a-clipped-block-scalar": [b"a: |\n  x\n", b"b: >-\n  y", b"c: 3\n"],
    "a-kept-block-scalar-that-is-not-the-last": [b"a: |+\n  x\n\nb: 1", b"c: 3\n"],
    "a-directive-on-the-first": [b"%YAML 1.1\n---\na: 1\n", b"b: 2\n"],
    "a-scalar-that-begins-with-hyphens": [b"a: 1\n", b"---x\n"],
}
OTHERS = {
    "begins-with-a-marker": [MAP, b"---\nb: 2\n"],
    "begins-with-a-marker-and-crlf": [b"a: 1\r\n", b"---\r\nb: 2\r\n"],
    "begins-with-a-marker-and-content": [MAP, b"--- {b: 2}\n", b"--- |\n  x\n", b"--- c"],
    "begins-with-comments-and-a-marker": [MAP, b"\n# about b\n\n---\nb: 2\n"],
    "a-marker-alone": [MAP, b"---", b"b: 2\n"],
    "begins-with-a-directive": [MAP, b"%YAML 1.1\n---\nb: 2\n"],
    "begins-with-comments-and-a-directive": [MAP, b"# x\n%TAG !e! tag:example.com,2000:\n---\nb: 2\n"],
    "a-mark-on-the-second": [MAP, b"\xef\xbb\xbfb: 2\n"],
    "a-mark-and-a-marker-on-the-second": [MAP, b"\xef\xbb\xbf---\nb: 2\n"],
    "utf-16": [MAP, "b: ä\n".encode("utf-16"), b"c: 3\n"],
    "nothing-in-between": [MAP, b"", b" \n\n", b"b: 2\n"],
    "comments-alone-in-between": [MAP, b"# nothing here", b"b: 2\n"],
    "comments-alone-at-the-end": [b"a: |+\n  x\n", b"# nothing here"],
    "comments-alone-before-a-marker": [MAP, b"# nothing here\n", b"---\nb: 2\n"],
    "nothing-at-all": [b"", b"", b"# x", b"\n"],
    "a-kept-block-scalar-before-blank-lines-and-a-marker": [b"a: |+\n  x\n", b"\n\n---\nb: 2\n"],
    "a-kept-block-scalar": [b"a: |+\n  x\n\n", b"b: 2\n"],
    "a-kept-block-scalar-and-crlf": [b"a: >+\r\n  x\r\n", b"b: 2\r\n"],
    "a-block-scalar-without-a-newline": [b"a: |\n  x", b"b: >\n  y\n  z", b"c: 3\n"],
    "a-kept-block-scalar-without-a-newline": [b"a: |2+ # c\n   x\n   y", b"b: |+4\n      x", b"c: 3\n"],
    "a-block-scalar-of-umlauts-without-a-newline": ["ä: 'ö'\nb: |\n  ü".encode(), b"c: 3\n"],
    "a-header-inside-a-block-scalar": [b"a: |+\n  b: |-\n    x\n", b"c: 3\n"],
    "a-block-scalar-as-the-document": [b"--- |\n x", b"# y\n---\nb: 2\n"],
}


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("files", [*ALIKE.values(), *OTHERS.values()], ids=[*ALIKE, *OTHERS])
def test_the_documents_of_the_stream_are_those_of_the_files(files: list[bytes], loader: type) -> None:
    expected = [document for file in files for document in documents(file, loader)]
    assert documents(yaml_streams.join(files), loader) == expected


@pytest.mark.parametrize("files", ALIKE.values(), ids=ALIKE)
def test_where_kratix_joins_rightly_the_bytes_are_kratix_own(files: list[bytes]) -> None:
    assert yaml_streams.join(files) == kratix(files)


@pytest.mark.parametrize("files", OTHERS.values(), ids=OTHERS)
def test_where_they_are_not_kratix_changes_the_documents(files: list[bytes]) -> None:
    expected = [document for file in files for document in documents(file)]
    assert not all(is_right(kratix(files), expected, loader) for loader in LOADERS)


@pytest.mark.parametrize("file", [b"", b"---\nb: 2", b"\xef\xbb\xbfx: |+\n y", "ä".encode("utf-16"), b"\xff"])
def test_one_file_alone_is_left_as_it_is(file: bytes) -> None:
    assert yaml_streams.join([file]) == file


@pytest.mark.parametrize("broken", [b"a: {{ .Values.x }}\n", b"a: [", b"\xff\xfe\xff", b"a: |\n\t\xff"])
def test_what_is_no_yaml_is_joined_as_kratix_joins_it(broken: bytes) -> None:
    files = [broken, b"b: 2\n", broken]
    if not broken.startswith(b"\xff\xfe"):
        assert yaml_streams.join(files) == kratix(files)
    assert yaml_streams.join(files).count(broken) == 2


def test_a_document_that_a_parser_would_take_long_for_is_not_parsed() -> None:
    hostile = b"a: |\n" + b"  [" * 1_000 + b"\nb: " + b"[" * 1_000_000
    assert yaml_streams.join([hostile, MAP]) == kratix([hostile, MAP])


TEXT = st.sampled_from(["x", "---", "...", "# c", "", "%YAML", "ä: |", " ", "- y"])
BREAK = st.sampled_from(["\n", "\r\n"])


@st.composite
def values(draw: st.DrawFn) -> str:
    """Return a value in one of YAML's styles, as it stands after a key."""
    style = draw(st.sampled_from(["plain", "flow", "block", "quoted", "map"]))
    if style == "block":
        indent = draw(st.sampled_from(["", "2"]))
        chomp = draw(st.sampled_from(["", "+", "-"]))
        lines = [f"  {line}" if line.strip() else "" for line in draw(st.lists(TEXT, min_size=1, max_size=4))]
        return f"{draw(st.sampled_from('|>'))}{indent}{chomp}\n" + "\n".join(["  first", *lines])
    plain = {"plain": "one two", "flow": "[1, {a: b}]", "quoted": '"a\\n---\\n"', "map": "\n  x: 1\n  y:\n    - 2"}
    return plain[style]


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Return a file of YAML: any number of documents, with everything that may stand around them."""
    aside = st.lists(st.sampled_from(["", "# c", "  # c", "\t"]), max_size=2)
    lines: list[str] = []
    for number in range(draw(st.integers(0, 3))):
        explicit = number > 0
        if draw(st.booleans()):
            if number and draw(st.booleans()):
                lines.append("...")
            lines += [line for line in draw(aside) if line != "\t"]
            if (not lines or lines[-1] == "...") and draw(st.booleans()):
                lines.append("%YAML 1.1")
            explicit = True
        if explicit:
            lines.append(draw(st.sampled_from(["---", "--- # c", "---\t"])))
        lines.append(f"k{number}: {draw(values())}")
    lines += draw(st.sampled_from([[], ["..."], ["---"], ["# c"], [""], ["", ""]]))
    text = draw(BREAK).join("\n".join(lines).split("\n")) + draw(st.sampled_from(["", "\n", "\r\n", "\n\n"]))
    mark = draw(st.sampled_from(["", "", "\ufeff"]))
    return (mark + text).encode()


@example([b"a: 1", b"---\n"])
@example([b"a: |+\n  x\n", b"\n---\nb: 2"])
@given(st.lists(streams(), min_size=1, max_size=5))
@settings(max_examples=200, deadline=None)
def test_any_files_keep_their_documents(files: list[bytes]) -> None:
    try:
        expected = [document for file in files for document in documents(file)]
    except yaml.YAMLError:
        return
    joined = yaml_streams.join(files)
    assert documents(joined) == expected
    same = all(is_right(kratix(files), expected, loader) for loader in LOADERS)
    if same and len(files) > 1 and all(documents(file) for file in files):
        assert joined == kratix(files)
