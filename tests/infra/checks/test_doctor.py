"""`landfall doctor` and `landfall dead-letters` as an operator runs them, on a stack in moto and a real API server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infra.checks.aws import Aws
from tests.infra.checks.world import NAME, World
from tests.integration.console import Console, Run
from tests.integration.platform_team import Platform
from tests.integration.test_first_ready import declare_bucket
from tests.servers.kubernetes import KubernetesApi
from tests.servers.s3 import Minio

pytestmark = pytest.mark.asyncio(loop_scope="module")

POISON = '{"kind": "Destination", "name": "poison"}'


@pytest.fixture
def console(here: World) -> Console:
    return Console(here.eks.api.kubeconfig, here.environment | here.variables)


@pytest.fixture
def platform(here: World) -> Any:
    with Platform.alone(here.eks.api) as team:
        yield team


def results(done: Run) -> dict[str, tuple[str, str]]:
    return {line["what"]: (line["result"], line.get("do", "")) for line in json.loads(done.out)}


async def test_doctor_checks_what_a_kubeconfig_alone_tells(console: Console, platform: Platform, minio: Minio) -> None:
    declare_bucket(platform, minio)
    done = await console.run("doctor", "-o", "json")
    assert {result for result, _ in results(done).values()} == {"ok"}, done
    assert done.status == 0
    assert {"CRDs", "rights of write-canary", "rights of the forwarder", "bucketstatestore/default"} <= results(
        done
    ).keys()
    platform.secret("default", accessKeyID="wrong", secretAccessKey="wrong")
    done = await console.run("doctor", "--forwarder", "none")
    assert done.status == 1
    (failed,) = [line for line in done.out.splitlines() if line.strip().startswith("failed")]
    assert "bucketstatestore/default" in failed
    assert "do: " in done.out.partition(failed)[2].splitlines()[1]


async def test_doctor_finds_missing_crds_and_rights(bare: KubernetesApi) -> None:
    done = await Console(bare.kubeconfig, {}).run("doctor", "-o", "json")
    assert done.status == 1
    found = results(done)
    assert found["CRDs"] == (
        "failed",
        "`kubectl apply -f infra/kubernetes/crds/` (or update Kratix, where its CRDs are installed)",
    )
    assert found["rights of write-canary"] == ("failed", "`kubectl apply -f infra/kubernetes/rbac.yaml`")


async def test_doctor_checks_the_stack_as_make_smoke_does(here: World, console: Console, platform: Platform) -> None:
    del platform
    here.as_aws()
    here.beat()
    found = results(await console.run("doctor", "--stack", NAME, "-o", "json"))
    for what in ("concurrent executions", "heartbeat of the forwarder", "queue canary-dead-letter"):
        assert found[what][0] == "ok", found
    done = await console.run("doctor", "--stack", "none")
    assert (done.status, done.out) == (1, "")
    assert "there is no stack none" in done.err


async def test_dead_letters_are_listed_and_deleted(here: World, console: Console) -> None:
    sqs = here.client("sqs")
    url = sqs.get_queue_url(QueueName=f"{NAME}-canary-dead-letter")["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody=POISON)
    for _ in range(2):  # they are only looked at
        done = await console.run("dead-letters", "list", "--stack", NAME, "-o", "json")
        found = {one["queue"]: one for one in json.loads(done.out)}
        assert found["canary"] == {"queue": "canary", "messages": 1, "some": [json.loads(POISON)]}
        assert found["status"]["messages"] == 0
    refused = await console.run("dead-letters", "delete", "canary", "--stack", NAME, stdin="n\n")
    assert refused.status == 1
    assert (await console.run("dead-letters", "delete", "canary", "--stack", NAME, "--yes")).status == 0
    done = await console.run("dead-letters", "list", "--stack", NAME)
    assert "poison" not in done.out
    wrong = await console.run("dead-letters", "delete", "none", "--stack", NAME, "--yes")
    assert (wrong.status, wrong.out) == (1, "")
    assert "name one of canary, changes, " in wrong.err


async def test_dead_letters_are_moved_back_by_sqs_itself(
    here: World, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    call = Aws.call

    async def answered(self: Aws, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        if operation == "start_message_move_task":  # moto does not know it
            asked.append(parameters)
            return {"TaskHandle": "1"}
        return await call(self, service, operation, **parameters)

    monkeypatch.setattr(Aws, "call", answered)
    done = await console.run("dead-letters", "redrive", "canary", "--stack", NAME)
    assert done.status == 0, done
    assert [one["SourceArn"].rpartition(":")[2] for one in asked] == [f"{NAME}-canary-dead-letter"]
    del here
