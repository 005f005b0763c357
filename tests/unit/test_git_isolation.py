"""Which items of a batch a server refuses: the pushes that it takes to find them, without a server."""

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import LandfallError, StoreUnavailable, WriteRejected
from shared.writers.git.isolation import SINGLES, Declined, isolate


class Server:
    """A server that refuses pushes by a rule.

    Attributes:
        landed: the items of each push that it took.
        pushes: the items of each push.
    """

    def __init__(self, rule: Callable[[Sequence[str]], str]) -> None:
        self.rule = rule
        self.landed: list[list[str]] = []
        self.pushes: list[list[str]] = []

    def push(self, items: Sequence[str]) -> None:
        self.pushes.append(list(items))
        if words := self.rule(items):
            raise Declined(WriteRejected(words), list(items))
        self.landed.append(list(items))

    def write(self, count: int) -> dict[str, LandfallError]:
        """Push a batch of so many items, and return those that fail; all others have landed, each once."""
        items = [f"i{number}" for number in range(count)]
        found: dict[str, LandfallError] = {}
        try:
            self.push(items)
        except Declined as declined:
            isolate(declined, self.push, found)
        assert sorted([*found, *(item for push in self.landed for item in push)]) == sorted(items)
        return found


def refuses(*bad: int, words: str = "GH013: secret found") -> Callable[[Sequence[str]], str]:
    names = {f"i{number}" for number in bad}
    return lambda items: words if names & set(items) else ""


def bound(count: int) -> float:
    return 2 * math.log2(count) + 8


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50, 1000])
@pytest.mark.parametrize("where", [0.0, 0.3, 0.5, 0.99])
def test_one_bad_item_fails_alone_within_the_bound(count: int, where: float) -> None:
    bad = int(count * where)
    server = Server(refuses(bad))
    assert list(server.write(count)) == [f"i{bad}"]
    assert len(server.pushes) <= math.log2(count) + 4 <= bound(count)
    assert len(server.landed) <= math.log2(count) + 1


@given(st.integers(2, 60), st.sets(st.integers(0, 59), min_size=1, max_size=60))
def test_whatever_is_refused_is_bad_unless_nothing_lands(count: int, some: set[int]) -> None:
    bad = {number for number in some if number < count} or {0}
    server = Server(refuses(*bad))
    found = server.write(count)
    assert {f"i{number}" for number in bad} <= found.keys()
    if server.landed or len(bad) < SINGLES:
        assert len(found) == len(bad)
    assert all(isinstance(error, WriteRejected) for error in found.values())


@pytest.mark.parametrize("count", [2, 4, 50, 500])
@pytest.mark.parametrize("words", ["author not allowed", "commit 0123abc of {0} by nobody", "{0}: no"])
def test_a_rule_about_all_fails_them_all_within_the_bound(count: int, words: str) -> None:
    server = Server(lambda items: words.format(items[0]))
    found = server.write(count)
    assert len(found) == count
    assert {type(error) for error in found.values()} == {WriteRejected}
    assert len(server.pushes) <= bound(count)


def test_a_bound_on_the_size_of_a_push_is_met_with_smaller_pushes() -> None:
    server = Server(lambda items: "too large" if len(items) > 7 else "")
    assert server.write(50) == {}
    assert len(server.pushes) <= bound(50)


def test_what_was_not_pushed_within_the_bound_is_tried_again_later() -> None:
    server = Server(lambda items: "too large" if len(items) > 1 else "")
    found = server.write(200)
    assert len(server.pushes) <= bound(200) + 1
    assert server.landed
    assert {type(error) for error in found.values()} == {StoreUnavailable}


def test_what_ends_the_search_leaves_what_was_found() -> None:
    found: dict[str, LandfallError] = {}

    def push(items: Sequence[str]) -> None:
        if found:
            raise StoreUnavailable("gone")
        if "c" in items:
            raise Declined(WriteRejected("no"), list(items))

    with pytest.raises(StoreUnavailable, match="gone"):
        isolate(Declined(WriteRejected("no"), list("abcdefgh")), push, found)
    assert {item: str(error) for item, error in found.items()} == {"c": "no"}


def test_items_that_others_have_settled_meanwhile_are_left_out() -> None:
    pushes: list[list[str]] = []

    def push(items: Sequence[str]) -> None:
        pushes.append(list(items))
        if "d" in items:
            raise Declined(WriteRejected("no"), ["d"])

    found: dict[str, LandfallError] = {}
    isolate(Declined(WriteRejected("no"), list("dcba")), push, found)
    assert list(found) == ["d"]
    assert pushes == [["d", "c"], ["b", "a"]]
