"""Messages about one object, folded into one task (docs/failure-modes.md#32-coalesced-messages)."""

import itertools
from typing import Any

import pytest

from shared.messages import Reference, packed
from shared.reconcile.batch import Task, fold
from shared.reconcile.by_place import _bounded, _send_again, retries
from shared.settings import Settings


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


def named(count: int, **changes: object) -> list[Reference]:
    made = (Reference(kind="Destination", name=f"worker-{number}", place="place-1") for number in range(count))
    return [reference.model_copy(update=changes) for reference in made]


def test_one_message_means_some_hundred_objects_and_is_a_task_for_each() -> None:
    references = [*named(600), *named(3, attempt=2), *named(1, uid="one")]
    messages = list(packed(references))
    assert [1 + len(message.names) for message in messages] == [1, 250, 250, 100, 3]
    assert [each for message in messages for each in message.each()] == [references[-1], *references[:-1]]
    tasks = fold({str(at): Reference.decode(message.encode()) for at, message in enumerate(messages[1:4])})
    assert {key for _, key in tasks} == {("", f"worker-{number}") for number in range(600)}
    assert {task.origin for task in tasks.values()} == {frozenset(str(at)) for at in range(3)}


def test_one_of_many_is_meant_as_it_is_now_also_by_a_retry() -> None:
    (part,) = packed(named(2, attempt=3))
    task = fold({"m": part})["Destination", ("", "worker-1")]
    now = task.current({"metadata": {"name": "worker-1", "uid": "new", "generation": 7}})
    assert now is not None
    assert now.attempt == 3


def test_more_than_a_thousand_objects_of_a_place_wait_in_the_queue_in_few_messages() -> None:
    tasks = fold({"m": next(packed(named(250))), "n": Reference(kind="BucketStateStore", name="s")})
    some, rest = _bounded(tasks, "place-1", "canary")
    assert (some, rest) == (tasks, [])
    many = fold({str(at): message for at, message in enumerate(packed(named(2600)))})
    some, rest = _bounded(many, "place-1", "canary")
    assert len(some) == 1000
    later = [item.message for item in rest]
    assert len(later) == 7
    names = {each.name for message in later if isinstance(message, Reference) for each in message.each()}
    assert names | {name for _, (_, name) in some} == {f"worker-{number}" for number in range(2600)}
    assert {message.place for message in later if isinstance(message, Reference)} == {"place-1"}


def test_what_many_objects_wait_for_and_what_is_tried_again_is_few_messages() -> None:
    tasks = fold({"m": next(packed(named(200)))})
    failures, waiting = _send_again("canary", "place-1", tasks, max_hops=5)
    assert failures == {}
    (item,) = waiting
    assert isinstance(item.message, Reference)
    assert (item.message.hops, len(item.message.names), item.delay >= 1) == (1, 199, True)
    settings = Settings(retry_delays_seconds=(5, 7))
    failed = [(reference, frozenset({"m"})) for reference in named(200, attempt=1)]
    (again,) = retries("canary", failed, settings)
    assert isinstance(again.message, Reference)
    assert (again.message.attempt, len(again.message.names), again.delay) == (2, 199, 7)
    assert list(retries("canary", [(named(1, attempt=2)[0], frozenset())], settings)) == [], "the chain ends"
