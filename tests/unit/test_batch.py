"""Messages about one object, folded into one task (docs/failure-modes.md#32-coalesced-messages)."""

import itertools
from typing import Any

import pytest

from shared.messages import Reference
from shared.reconcile.batch import Task, fold


def about(uid: str = "", generation: int = 0, attempt: int = 0, **more: Any) -> Reference:
    known = {"uid": uid, "generation": generation, "attempt": attempt}
    return Reference(kind="WorkPlacement", namespace="default", name="a", **known, **more)


def task(*references: Reference) -> Task:
    (folded,) = fold({f"m{number}": reference for number, reference in enumerate(references)}).values()
    return folded


def now(uid: str, generation: int) -> dict[str, Any]:
    return {"metadata": {"namespace": "default", "name": "a", "uid": uid, "generation": generation}}


CASES = [
    pytest.param([about("old", 7), about("new", 1)], now("new", 1), 0, id="created again, with a lower generation"),
    pytest.param([about("old", 7)], now("new", 1), None, id="all about the one that is gone"),
    pytest.param([about("new", 1, attempt=3)], now("new", 2), None, id="a retry that a change has overtaken"),
    pytest.param([about("new", 2, attempt=3)], now("new", 2), 3, id="a retry"),
    pytest.param([about(), about("new", 5, attempt=2)], now("new", 6), 0, id="no uid beside an overtaken retry"),
    pytest.param([about("new"), about("new", 5, attempt=2)], now("new", 6), 0, id="no generation beside a retry"),
    pytest.param([about("new", 4), about("new", 5, attempt=2)], now("new", 5), 0, id="an event beside a retry"),
    pytest.param([about("old", 9, attempt=1), about("new", 1)], now("new", 3), 0, id="a retry of the one that is gone"),
    pytest.param([about()], now("new", 3), 0, id="nothing is known of it"),
]


@pytest.mark.parametrize(("references", "obj", "attempt"), CASES)
def test_a_task_is_about_an_object_whatever_the_order_of_its_messages(
    references: list[Reference], obj: dict[str, Any], attempt: int | None
) -> None:
    for order in itertools.permutations(references):
        current = task(*order).current(obj)
        assert (None if current is None else current.attempt) == attempt


def test_a_task_keeps_all_its_message_ids_and_what_its_references_know() -> None:
    folded = task(about("u", 1, hops=3), about("u", 2, place="place-1"), about("v", 1))
    assert folded.origin == {"m0", "m1", "m2"}
    assert [(r.uid, r.generation, r.hops, r.place) for r in folded.references] == [
        ("u", 2, 3, "place-1"),
        ("v", 1, 0, ""),
    ]
