"""What Destinations and WorkPlacements remember of where they were written."""

from typing import Any

import pytest

from shared.reconcile.locations import (
    DIRECTORIES_ANNOTATION,
    LOCATIONS_ANNOTATION,
    Location,
    left_behind,
    location_annotation,
    old_files,
    recorded,
    recorded_directories,
)
from shared.resources import Destination, parse_state_store


def destination(**spec: Any) -> Destination:
    ref = {"kind": "GitStateStore", "name": "fleet"}
    return Destination.parse({"metadata": {"name": "worker-1"}, "spec": {"stateStoreRef": ref, **spec}})


def at(url: str = "https://git.example.com/fleet.git", branch: str = "main", **spec: Any) -> Location:
    obj = {"kind": "GitStateStore", "metadata": {"name": "fleet"}, "spec": {"url": url, "branch": branch}}
    return Location.of(destination(**spec), parse_state_store(obj))


def remembering(*locations: Location) -> dict[str, Any]:
    return {"metadata": {"annotations": location_annotation(locations)}}


def test_what_is_remembered_is_read_again() -> None:
    locations = (at(), at(path="b"), at(filepath={"mode": "aggregatedYAML", "filename": "all.yaml"}))
    assert recorded(remembering(*locations)) == locations


@pytest.mark.parametrize("url", ["https://me:s3cr3t@git.example.com/fleet", "ssh://me:s3cr3t@git.example.com/fleet"])
def test_a_password_in_a_url_is_not_remembered(url: str) -> None:
    (text,) = location_annotation([at(url)]).values()
    assert "s3cr3t" not in text
    assert "me@git.example.com" in text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "7",
        "[7]",
        '[{"kind": "GitStateStore"}]',
        '[{"kind":"GitStateStore","namespace":"","name":"x","where":[["url",""]],"root":"a"}]',
    ],
)
def test_an_annotation_that_someone_else_wrote_is_none(text: str) -> None:
    assert recorded({"metadata": {"annotations": {LOCATIONS_ANNOTATION: text}}}) is None


@pytest.mark.parametrize("text", ['["../x"]', '["/x"]', '[""]', "7", "{", '[".git/x"]'])
def test_a_directory_that_leads_elsewhere_is_not_taken_from_an_annotation(text: str) -> None:
    assert recorded_directories({"metadata": {"annotations": {DIRECTORIES_ANNOTATION: text}}}) is None


def test_another_spelling_of_the_same_place_is_not_left_behind() -> None:
    obj = remembering(at("https://git.example.com/fleet.git"), at(branch="other"), at(path="elsewhere"))
    assert left_behind(obj, at("https://GIT.example.com/fleet/")) == (at(branch="other"), at(path="elsewhere"))


def test_the_old_name_of_the_one_file_is_an_old_file() -> None:
    def named(filename: str) -> Location:
        return at(filepath={"mode": "aggregatedYAML", "filename": filename})

    obj = remembering(named("old.yaml"), named("new.yaml"))
    assert old_files(obj, named("new.yaml")) == {"worker-1/old.yaml"}
