"""What a writer says that it would do is what it then does, file by file; saying it changes nothing."""

import random

import pytest

from shared.plan import Edit, Written
from tests.contract.harness import Store, edit, soon

NAMES = ["a/x", "a/y", "a/b/x", "b", "b/x", "c/d/e", "top", "grüße", "a"]


def some_edits(chance: random.Random) -> list[Edit]:
    """Return a batch of edits, of which some want the same paths, or what others stand on."""
    edits = []
    for number in range(chance.randint(1, 4)):
        files = {name: chance.choice([b"one", b"two", b""]) for name in chance.sample(NAMES, chance.randint(0, 3))}
        others = set(NAMES) - files.keys()
        remove = set(chance.sample(sorted(others), chance.randint(0, 2)))
        prune = set(chance.sample(["a", "c", "a/b"], chance.randint(0, 1)))
        keep = (
            set(chance.sample(["a/b"], chance.randint(0, 1))) if not any(f.startswith("a/b") for f in files) else set()
        )
        edits.append(edit(files, id=str(number), remove=remove, prune=prune, keep=keep))
    return edits


@pytest.mark.parametrize("seed", range(12))
async def test_a_preview_is_what_the_write_does(store: Store, seed: int) -> None:
    chance = random.Random(seed)
    there = {
        name: chance.choice([b"one", b"old"])
        for name in ("a/x", "a/b/x", "b/x", "c/d/e", "c/f")
        if chance.random() < 0.7
    }
    if there:
        store.seed(there)
    edits = some_edits(chance)
    async with store.open() as writer:
        preview = await writer.preview(edits, {"c", "a"}, soon())
        assert store.files() == there
        outcomes = await writer.write(edits, soon())
    plan = preview.plan
    expected = {path: content for path, content in there.items() if path not in plan.deletes} | plan.puts
    assert store.files() == expected
    assert plan.refused.keys() == {key for key, outcome in outcomes.items() if not isinstance(outcome, Written)}
    assert preview.replaced == plan.puts.keys() & there.keys()
    assert preview.listed == {
        directory: {path for path in there if path.startswith(f"{directory}/")} for directory in ("a", "c")
    }


async def test_a_preview_of_what_is_there_already_is_empty(store: Store) -> None:
    wanted = edit({"a/x": b"one", "a/y": b"two"}, prune={"a"})
    async with store.open() as writer:
        await writer.write([wanted], soon())
        preview = await writer.preview([wanted], (), soon())
    assert (preview.plan.puts, preview.plan.deletes, preview.replaced) == ({}, set(), frozenset())
