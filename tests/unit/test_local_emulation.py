"""What `make sam-local` and `make rie` are made of: environments, situations, and the words where they cannot work."""

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from infra.local.emulation import podman
from infra.local.emulation.commands import CannotInvoke, InvocationFailed, last_lines, run
from infra.local.emulation.engine import Engine, can_listen, container_engine
from infra.local.emulation.invoking import _chosen, go_through
from infra.local.emulation.lambda_python import emulator, interpreter
from infra.local.emulation.sam import Sam
from infra.local.emulation.situations import SITUATIONS, Situation
from infra.local.emulation.stage import Host, Stage
from infra.local.progress import Progress
from infra.local.template import ROOT, Template

FUNCTIONS = Template.load().functions


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with Stage(tmp_path, Host("127.0.0.1", "host.docker.internal")) as running:
        yield running


def names(environment: dict[str, dict[str, str]]) -> dict[str, list[str]]:
    return {key: sorted(variables) for key, variables in environment.items()}


@pytest.mark.parametrize("id_", FUNCTIONS)
async def test_sam_passes_on_every_variable_that_a_function_needs_here(stage: Stage, id_: str) -> None:
    environment = stage.environment("/var/task/kubeconfig")
    declared = {**FUNCTIONS[id_].environment, **FUNCTIONS[id_].queue_urls}  # SAM drops what is not
    passed_on = {
        name: value
        for name, value in (environment["Parameters"] | environment.get(id_, {})).items()
        if name in declared
    }
    queues = set(FUNCTIONS[id_].queue_urls)
    assert set(passed_on) == queues | {
        "LANDFALL_KUBECONFIG",
        "LANDFALL_ALLOWED_NETWORKS",
        "LANDFALL_SQS_ENDPOINT_URL",
    }
    assert all(passed_on[name].startswith("http://host.docker.internal:") for name in queues)


async def test_the_example_of_an_environment_file_has_all_variables_and_no_others(stage: Stage) -> None:
    example = json.loads((ROOT / "events" / "env.json").read_text())
    assert names(example) == names(stage.environment("/var/task/kubeconfig"))


async def test_what_functions_are_told_leads_to_where_they_see_this_machine(stage: Stage, tmp_path: Path) -> None:
    (store,) = stage.objects("bucketstatestores")
    assert store["spec"]["endpoint"].startswith("host.docker.internal:")
    assert "http://host.docker.internal:" in (tmp_path / "kubeconfig").read_text()
    assert "127.0.0.1" not in (tmp_path / "kubeconfig").read_text()


def test_there_is_one_situation_for_each_function_and_its_event_is_in_events() -> None:
    assert sorted(situation.function for situation in SITUATIONS) == sorted(f.name for f in FUNCTIONS.values())
    for situation in SITUATIONS:
        assert json.loads(situation.path.read_text())
        assert situation.path.parent == ROOT / "events" / situation.function


async def test_messages_are_told_once_even_those_that_stay_because_they_are_delayed(stage: Stage) -> None:
    queue = stage.queues.queues["StatusQueue"]
    verdict = {"reference": {"kind": "Work", "name": "redis"}, "status": "True", "reason": "Fine"}
    reference = {"kind": "Destination", "name": "worker-1"}
    await stage.queues.send("StatusQueue", [json.dumps(verdict)])
    assert Situation("a", Path("a"), None, []).outcome(stage) == ["status queue: Work/redis Ready True Fine"]
    assert queue.messages == []
    await stage.queues.send("StatusQueue", [json.dumps(reference)])
    queue.carry = lambda message, _: ((message, 60.0),)
    await stage.queues.send("StatusQueue", [json.dumps({**reference, "name": "worker-2"})])
    assert len(Situation("a", Path("a"), None, []).outcome(stage)) == 2
    assert Situation("a", Path("a"), None, []).outcome(stage) == []


COMPLAINTS: dict[str, tuple[object, list[str], list[str]]] = {
    "as it should be": ([1], ["a", "b"], []),
    "another answer": (None, ["a", "b"], ["f answered None, not [1]"]),
    "something missing": ([1], ["a"], ["f: this should be there: b"]),
    "something more": ([1], ["a", "b", "c"], ["f: this should not be there: c"]),
}


@pytest.mark.parametrize(("answer", "became", "complaints"), COMPLAINTS.values(), ids=COMPLAINTS)
def test_what_is_not_as_written_down_is_complained_of(answer: object, became: list[str], complaints: list[str]) -> None:
    assert Situation("f", Path("f.json"), [1], ["a", "b"]).complaints(answer, became) == complaints


def test_an_event_of_ones_own_is_not_measured_by_what_another_leads_to(tmp_path: Path) -> None:
    assert [situation.function for situation in _chosen("write-canary", None)] == [
        "on-destination-change",
        "write-canary",
    ]
    *_, last = _chosen("write-canary", tmp_path / "mine.json")
    assert last.path == tmp_path / "mine.json"
    assert last.complaints("anything", ["something"]) == []
    with pytest.raises(CannotInvoke, match="name it, too"):
        _chosen(None, tmp_path / "mine.json")
    with pytest.raises(CannotInvoke, match="no function write-canaries: name one of on-destination-change, "):
        _chosen("write-canaries", None)


async def test_a_function_that_fails_ends_the_row_with_its_words(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    invoked = []

    async def invoke(function: str, _: Path) -> Any:
        invoked.append(function)
        raise InvocationFailed("these words")

    assert await go_through(SITUATIONS, stage, invoke, Progress()) == ["these words"]
    assert invoked == ["OnDestinationChangeFunction"]


async def test_a_python_of_another_version_is_refused_with_what_is_wanted(tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho 3.9 /usr/bin/python3.9\n")
    other.chmod(0o755)
    with pytest.raises(CannotInvoke, match=r"run on Python 3\.13, and .*python is 3\.9"):
        await interpreter(str(other))
    with pytest.raises(CannotInvoke, match=r"nothing is none"):
        await interpreter("/nonexistent/nothing")


def test_without_sam_the_emulator_is_missed_with_the_command_that_brings_it(tmp_path: Path) -> None:
    with pytest.raises(CannotInvoke, match="run make setup"):
        emulator(tmp_path / "bin" / "sam")


async def test_podman_is_for_root_alone_and_others_are_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(CannotInvoke, match="start Docker, run this as root, or use make rie"):
        await podman.install(lambda *_: None)


async def test_where_there_is_no_apt_the_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotInvoke, match="install what Debian calls podman and runc, or start Docker"):
        await podman.install(lambda *_: None)


@pytest.mark.parametrize(
    ("address", "ours"), [("127.0.0.1", True), ("203.0.113.1", False), ("", False), ("no address", False)]
)
def test_only_this_machines_addresses_can_be_listened_on(address: str, ours: bool) -> None:
    assert can_listen(address) is ours


def docker(folder: Path, script: str) -> None:
    """Put a `docker` on a path: no engine runs where tests do, and what we ask of one has to be seen."""
    command = folder / "docker"
    command.write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\n{script}\n')
    command.chmod(0o755)


async def test_a_docker_engine_that_answers_is_used_and_sam_pulls_the_image(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    docker(tmp_path, 'case "$1" in version) echo 28.5.1 ;; network) echo "127.0.0.1 fd00::1 " ;; esac')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.defpath}")
    said: list[tuple[str, str]] = []
    async with container_engine(lambda *words: said.append(words)) as engine:
        assert engine.command == "docker"
        image = await engine.base_image(Path("/nonexistent/python"), lambda *words: said.append(words))
        assert image is None
        assert await engine.host(image) == Host("127.0.0.1", "127.0.0.1", "127.0.0.1/32")
    assert said[0] == ("Container engine", "Docker 28.5.1")
    asked = [line.split()[0] for line in (tmp_path / "asked").read_text().splitlines()]
    assert asked == ["version", "network"]


@pytest.mark.parametrize("gateway", ["203.0.113.1", ""])
async def test_where_dockers_gateway_is_not_ours_functions_get_its_name_for_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gateway: str
) -> None:
    docker(tmp_path, f"echo {gateway}")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.defpath}")
    assert await Engine("docker", os.environ, "Docker").host(None) == Host("127.0.0.1", "host.docker.internal")


async def test_the_container_that_is_asked_for_its_gateway_does_not_stay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    docker(tmp_path, 'case "$1" in run) echo 4711 ;; inspect) echo 127.0.0.1 ;; esac')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.defpath}")
    assert await Engine("docker", os.environ, "it").host("an-image") == Host("127.0.0.1", "127.0.0.1", "127.0.0.1/32")
    assert "rm --force 4711" in (tmp_path / "asked").read_text()


async def test_an_engine_that_runs_no_container_is_told_with_its_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    docker(tmp_path, "echo no cgroups >&2; exit 125")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.defpath}")
    with pytest.raises(CannotInvoke, match="Docker 28 cannot run a container:\nno cgroups"):
        await Engine("docker", os.environ, "Docker 28").host("an-image")


def fake_sam(folder: Path, script: str) -> Sam:
    command = folder / "sam-command"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    return Sam(command, ROOT / ".landfall" / "sam", Engine("podman", os.environ, "podman"), "localhost/an-image:3.13")


ANSWERS = {
    "an error": 'echo \'{"errorType": "LandfallError", "errorMessage": "why"}\'',
    "no answer": "echo trouble >&2; exit 1",
    "an answer of a command that failed": "echo null; exit 1",
}


@pytest.mark.parametrize("script", ANSWERS.values(), ids=ANSWERS)
async def test_what_is_no_good_answer_fails_the_invocation(tmp_path: Path, script: str) -> None:
    with pytest.raises(InvocationFailed, match="WriteCanaryFunction"):
        await fake_sam(tmp_path, script).invoke("WriteCanaryFunction", ROOT / "events" / "env.json")


async def test_an_answer_comes_from_standard_output_alone(tmp_path: Path) -> None:
    sam = fake_sam(tmp_path, "echo START >&2; echo '{\"batchItemFailures\": []}'")
    assert await sam.invoke("WriteCanaryFunction", ROOT / "events" / "env.json") == {"batchItemFailures": []}


def test_a_stand_in_is_named_to_sam_and_the_real_image_is_for_sam_to_pull(tmp_path: Path) -> None:
    event = ROOT / "events" / "env.json"
    stand_in = ["--skip-pull-image", "--invoke-image", "localhost/an-image:3.13"]
    assert fake_sam(tmp_path, "").arguments("F", event)[-3:] == stand_in
    real = Sam(tmp_path, ROOT / ".landfall" / "sam", Engine("docker", os.environ, "Docker"), None)
    assert real.arguments("F", event)[:4] == ["local", "invoke", "F", "--event"]
    assert not {"--invoke-image", "--skip-pull-image"} & set(real.arguments("F", event))


def test_long_lines_of_a_log_are_cut_and_early_ones_left_out() -> None:
    told = last_lines([*(str(number) for number in range(100)), "x" * 5000]).splitlines()
    assert told[0] == "71"
    assert len(told[-1]) == 1001


async def test_a_command_gets_the_environment_it_is_given_and_no_input() -> None:
    done = await run("/bin/sh", "-c", 'cat; echo "$ONE"; echo why >&2; exit 3', environment={"ONE": "1"})
    assert (done.status, done.out, done.err) == (3, "1\n", "why\n")
