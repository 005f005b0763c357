"""Scheduling by the table: every combination of selector sources, strictMatchLabels, labels, deletion, dry-run."""

import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from shared.errors import InvalidObject
from shared.schedule import (
    DestinationInfo,
    Placed,
    Placement,
    Schedule,
    candidates,
    label_selector,
    schedule,
    selectors,
)
from shared.works import Work, WorkloadGroup

SOURCES = ("resource-workflow", "promise-workflow", "promise")


def destination(name: str, *, strict: bool = False, deleted: bool = False, **labels: str) -> DestinationInfo:
    metadata: dict[str, Any] = {"name": name, "labels": {key.replace("_", "-"): value for key, value in labels.items()}}
    if deleted:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    ref = {"kind": "BucketStateStore", "name": "default"}
    return DestinationInfo.of({"metadata": metadata, "spec": {"stateStoreRef": ref, "strictMatchLabels": strict}})


def group(*selectors_: tuple[str, dict[str, str]], id_: str = "abcdef0123") -> dict[str, Any]:
    return {"id": id_, "destinationSelectors": [{"source": s, "matchLabels": labels} for s, labels in selectors_]}


def work(*groups: dict[str, Any], resource: str = "", **labels: str) -> Work:
    metadata = {"name": "work", "namespace": "team", "labels": labels}
    spec = {"promiseName": "redis", "resourceName": resource, "workloadGroups": list(groups)}
    return Work.parse({"kind": "Work", "metadata": metadata, "spec": spec})


def dry_run(name: str) -> DestinationInfo:
    return replace(destination(name), labels={"kratix.io/dry-run": "true"})


@pytest.mark.parametrize("order", list(itertools.permutations(SOURCES)), ids=" ".join)
def test_selectors_merge_by_the_weight_of_their_source_in_whatever_order_they_stand(order: tuple[str, ...]) -> None:
    found = selectors(
        WorkloadGroup.model_validate(group(*((source, {"env": source, source: "only"}) for source in order)))
    )
    assert found == {"env": "promise", **dict.fromkeys(SOURCES, "only")}


@pytest.mark.parametrize(
    ("present", "env"),
    [
        ((), None),
        (("resource-workflow",), "resource-workflow"),
        (("promise-workflow",), "promise-workflow"),
        (("promise",), "promise"),
        (("resource-workflow", "promise-workflow"), "promise-workflow"),
        (("resource-workflow", "promise"), "promise"),
        (("promise-workflow", "promise"), "promise"),
        (SOURCES, "promise"),
    ],
)
@pytest.mark.parametrize("strict", [False, True], ids=["", "strict"])
@pytest.mark.parametrize("labelled", [False, True], ids=["unlabelled", "labelled"])
@pytest.mark.parametrize("deleted", [False, True], ids=["", "deleted"])
def test_every_combination_of_sources_strictness_labels_and_deletion(
    present: tuple[str, ...], env: str | None, strict: bool, labelled: bool, deleted: bool
) -> None:
    """The expectation is written out from the contract (docs/contract.md#scheduling), not computed by the code."""
    labels = {"env": env or "some"} if labelled else {}
    one = destination("one", strict=strict, deleted=deleted, **labels)
    wanted = WorkloadGroup.model_validate(group(*((source, {"env": source}) for source in present)))
    takes = not deleted and (labelled if env is not None else not (strict and labelled))
    assert [d.name for d in candidates(wanted, [one], dry_run=False)] == (["one"] if takes else [])


def test_all_labels_must_match() -> None:
    wanted = WorkloadGroup.model_validate(group(("promise", {"env": "dev", "zone": "a"})))
    there = [destination("both", env="dev", zone="a"), destination("one", env="dev"), destination("other", env="prod")]
    assert [d.name for d in candidates(wanted, there, dry_run=False)] == ["both"]


def test_dry_run_works_and_dry_run_destinations_keep_to_themselves() -> None:
    there = [destination("real"), dry_run("dry")]
    everything = WorkloadGroup.model_validate(group())
    assert [d.name for d in candidates(everything, there, dry_run=False)] == ["real"]
    assert [d.name for d in candidates(everything, there, dry_run=True)] == ["dry"]
    selective = WorkloadGroup.model_validate(group(("promise", {"env": "dev"})))
    assert [d.name for d in candidates(selective, there, dry_run=True)] == ["dry"]


def test_a_dependency_goes_to_all_candidates_under_kratix_names() -> None:
    found = schedule(
        work(group(("promise", {"env": "dev"}))),
        [],
        [destination("b", env="dev"), destination("a", env="dev"), destination("c")],
    )
    assert [(p.name, p.destination, p.misplaced) for p in found.placements] == [
        ("work.a-abcde", "a", False),
        ("work.b-abcde", "b", False),
    ]
    assert (found.unscheduled, found.misplaced, found.dangling) == ((), (), ())


def test_what_no_destination_takes_is_unscheduled_and_the_other_groups_are_not() -> None:
    two = work(group(("promise", {"env": "mars"}), id_="mars"), group(id_="all"))
    found = schedule(two, [], [destination("a")])
    assert found.unscheduled == ("mars",)
    assert [p.group.id for p in found.placements] == ["all"]


def test_a_dependency_that_matches_no_longer_stays_misplaced_and_new_candidates_get_it() -> None:
    placed = [Placed("work.a-abcde", "abcdef0123", "a"), Placed("work.gone-abcde", "abcdef0123", "gone")]
    found = schedule(
        work(group(("promise", {"env": "dev"}))), placed, [destination("a", env="prod"), destination("b", env="dev")]
    )
    assert {(p.destination, p.misplaced) for p in found.placements} == {("a", True), ("b", False), ("gone", True)}
    assert found.misplaced == ("abcdef0123",)


def test_a_placement_that_matches_again_is_misplaced_no_more() -> None:
    placed = [Placed("work.a-abcde", "abcdef0123", "a")]
    found = schedule(work(group(("promise", {"env": "dev"}))), placed, [destination("a", env="dev")])
    assert found.placements == (Placement("work.a-abcde", found.placements[0].group, "a", misplaced=False),)


@pytest.mark.parametrize(
    ("there", "misplaced"),
    [
        pytest.param([destination("a", env="dev"), destination("b", env="dev")], False, id="still matches"),
        pytest.param([destination("a", env="prod"), destination("b", env="dev")], True, id="relabelled"),
        pytest.param(
            [destination("a", env="dev", deleted=True), destination("b", env="dev")], True, id="being deleted"
        ),
        pytest.param([destination("b", env="dev")], True, id="gone"),
    ],
)
def test_a_resource_request_stays_where_it_is(there: list[DestinationInfo], misplaced: bool) -> None:
    placed = [Placed("old-name", "abcdef0123", "a")]
    found = schedule(work(group(("promise", {"env": "dev"})), resource="mine"), placed, there)
    assert [(p.name, p.destination, p.misplaced) for p in found.placements] == [("old-name", "a", misplaced)]


def at(*names: str, leaving: str = "") -> list[Placed]:
    return [Placed(f"work.{name}-abcde", "abcdef0123", name, leaving=name == leaving) for name in names]


@pytest.mark.parametrize("order", list(itertools.permutations("abc")), ids="".join)
def test_a_resource_request_that_two_runs_brought_to_several_destinations_ends_at_one(order: tuple[str, ...]) -> None:
    """Every run keeps the same one, whatever comes beside it, and takes back none that it has kept."""
    request = work(group(("promise", {"env": "dev"})), resource="mine")
    there = [destination(name, env="dev") for name in "abc"]
    kept = schedule(request, [], there).placements[0].destination
    found = schedule(request, at(*order), [*there, destination("new", env="dev")])
    assert [(p.name, p.misplaced) for p in found.placements] == [(f"work.{kept}-abcde", False)]
    assert found.dangling == tuple(f"work.{name}-abcde" for name in "abc" if name != kept)
    assert (found.unscheduled, found.misplaced) == ((), ())
    assert schedule(request, at(kept), there).dangling == ()


def test_of_several_places_of_a_resource_request_one_that_it_is_leaving_is_not_kept() -> None:
    """A person has deleted one of two: were that one kept, both would go."""
    request = work(group(), resource="mine")
    for leaving, stays in ("ab", "ba"):
        found = schedule(request, at("a", "b", leaving=leaving), [destination("a"), destination("b")])
        assert [p.destination for p in found.placements] == [stays]
    alone = schedule(request, at("a", leaving="a"), [destination("a"), destination("b")])
    assert ([p.destination for p in alone.placements], alone.dangling) == (["a"], ())


@pytest.mark.parametrize(
    ("resource", "there", "expected"),
    [
        pytest.param(
            "mine", [destination("a", env="dev"), destination("b")], {"a": False, "b": True}, id="one matches"
        ),
        pytest.param("mine", [destination("a"), destination("b")], {"a": True, "b": True}, id="none matches"),
        pytest.param(
            "mine", [destination("a", env="dev"), dry_run("b")], {"a": False, "b": True}, id="one is for dry-run"
        ),
        pytest.param(
            "", [destination("a", env="dev"), destination("b", env="dev")], {"a": False, "b": False}, id="a dependency"
        ),
    ],
)
def test_only_a_second_match_of_a_resource_request_is_too_much(
    resource: str, there: list[DestinationInfo], expected: dict[str, bool]
) -> None:
    found = schedule(work(group(("promise", {"env": "dev"})), resource=resource), at("a", "b"), there)
    assert {p.destination: p.misplaced for p in found.placements} == expected
    assert found.dangling == ()


def test_a_placement_whose_group_is_gone_dangles() -> None:
    placed = [Placed("work.a-old00", "old00", "a")]
    assert schedule(work(group()), placed, [destination("a")]).dangling == ("work.a-old00",)


def named(name: str) -> Work:
    return Work.parse(
        {
            "kind": "Work",
            "metadata": {"name": name, "namespace": "team"},
            "spec": {"resourceName": "r", "workloadGroups": [group()]},
        }
    )


def test_resource_requests_spread_evenly_and_the_choice_is_repeatable() -> None:
    there = [destination(f"d{number}") for number in range(5)]
    choice = {f"w{n}": schedule(named(f"w{n}"), [], there).placements[0].destination for n in range(1000)}
    again = {f"w{n}": schedule(named(f"w{n}"), [], there[::-1]).placements[0].destination for n in range(1000)}
    assert choice == again
    assert all(150 < count < 250 for count in Counter(choice.values()).values())
    without = [d for d in there if d.name != "d3"]
    for name, chosen in choice.items():
        if chosen != "d3":
            assert schedule(named(name), [], without).placements[0].destination == chosen


def refusals(found: Schedule) -> dict[str, str]:
    return {refusal.group: refusal.why for refusal in found.refused}


def test_what_is_there_for_a_group_that_cannot_be_read_stays_and_the_others_are_placed() -> None:
    broken = {"id": "broken", "destinationSelectors": "none"}
    placed = [Placed("work.a-broke", "broken", "a"), Placed("work.a-old00", "old00", "a")]
    found = schedule(work(broken, group()), placed, [destination("a")])
    assert [p.name for p in found.placements] == ["work.a-abcde"]
    assert found.dangling == ("work.a-old00",)
    assert "spec.workloadGroups[0]: destinationSelectors" in refusals(found)["broken"]
    nameless = schedule(work({"directory": "."}, group()), placed, [destination("a")])
    assert nameless.dangling == (), "whose they are is not known"
    assert "id is required" in refusals(nameless)[""]


def test_who_has_a_name_keeps_it_and_one_that_goes_holds_it_until_it_is_gone() -> None:
    two = work(group(id_="abcde-one"), group(id_="abcde-two"))
    there = [destination("a"), destination("b")]
    found = schedule(two, [Placed("work.a-abcde", "abcde-two", "a")], there)
    assert {(p.name, p.group.id) for p in found.placements} == {
        ("work.a-abcde", "abcde-two"),
        ("work.b-abcde", "abcde-one"),
    }
    assert refusals(found).keys() == {"abcde-one", "abcde-two"}
    assert "'abcde-two' at Destination 'a'" in refusals(found)["abcde-one"]
    going = schedule(work(group(id_="abcde-two")), [Placed("work.a-abcde", "abcde-old", "a")], [destination("a")])
    assert (going.placements, going.dangling) == ((), ("work.a-abcde",))
    assert "'abcde-old'" in refusals(going)["abcde-two"]


@pytest.mark.parametrize("length", [63, 64])
def test_a_name_that_no_label_holds_is_no_candidate_and_a_work_of_such_a_name_is_refused(length: int) -> None:
    found = schedule(work(group()), [], [destination("a" * length)])
    assert len(found.placements) == (length == 63)
    one = named("w" * length)
    if length == 63:
        assert len(schedule(one, [], [destination("a")]).placements) == 1
    else:
        with pytest.raises(InvalidObject, match="over 63 characters"):
            schedule(one, [], [destination("a")])


def test_a_name_over_253_characters_is_refused_and_those_beside_it_are_not() -> None:
    long = Work.parse(
        {
            "metadata": {"name": "w" * 60, "namespace": "team"},
            "spec": {"workloadGroups": [group(id_="abcde"), group(id_="ABCDE"), group(id_="abcd-f")]},
        }
    )
    found = schedule(long, [], [destination("a")])
    assert [p.group.id for p in found.placements] == ["abcde"]
    assert refusals(found).keys() == {"ABCDE", "abcd-f"}


@pytest.mark.parametrize("resource", ["", "mine"])
def test_what_was_never_written_at_a_destination_that_does_not_exist_goes(resource: str) -> None:
    placed = [Placed("work.gone-abcde", "abcdef0123", "gone", unwritten_at_none=True)]
    found = schedule(work(group(), resource=resource), placed, [destination("a")])
    assert found.dangling == ("work.gone-abcde",)
    assert [(p.destination, p.misplaced) for p in found.placements] == [("a", False)]
    assert found.misplaced == ()


@pytest.mark.parametrize(
    ("wanted", "selector"),
    [
        ({}, ""),
        ({"zone": "a", "env": "dev"}, "env=dev,zone=a"),
        ({"example.com/tier": ""}, "example.com/tier="),
        ({"env": "dev,zone=a"}, None),
        ({"env": "a b"}, None),
        ({"env": "a" * 64}, None),
        ({"env in (a)": "a"}, None),
        ({"!env": ""}, None),
        ({"Example.com/tier": "a"}, None),
        ({"a/b/c": "a"}, None),
        ({"": "a"}, None),
        ({"e" * 63: "a"}, f"{'e' * 63}=a"),
        ({"e" * 64: "a"}, None),
    ],
    ids=str,
)
def test_labels_become_a_selector_or_nothing_can_have_them(wanted: dict[str, str], selector: str | None) -> None:
    assert label_selector(wanted) == selector
