"""Backstage finds what is written and takes it for its own: its catalog model, and the Location of docs/agents.md."""

import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
import yaml

from tests.agents.documented import block
from tests.agents.host import Host, World, declare
from tests.servers.nodejs import node, node_folder

pytestmark = pytest.mark.asyncio(loop_scope="module")

COMPONENT = {
    "apiVersion": "backstage.io/v1alpha1",
    "kind": "Component",
    "metadata": {"name": "mine"},
    "spec": {"type": "service", "lifecycle": "production", "owner": "group:default/platform"},
}
LOCATION = {
    "apiVersion": "backstage.io/v1alpha1",
    "kind": "Location",
    "metadata": {"name": "mine"},
    "spec": {"targets": ["./parts/component.yaml"]},
}


@pytest_asyncio.fixture(loop_scope="module")
async def host(tmp_path: Path, world: World) -> AsyncIterator[Host]:
    """The Destination that Backstage reads."""
    yield await declare(world, "git", "Backstage", tmp_path)
    await world.runtime.idle()


def document(obj: dict[str, Any], **metadata: str) -> bytes:
    return yaml.safe_dump({**obj, "metadata": {**obj["metadata"], **metadata}}).encode()


def catalog(host: Host, pattern: str = "") -> dict[str, list[str]]:
    """Return the entities that Backstage finds in the repository through the page's Location, and what it refuses."""
    configured = yaml.safe_load(block("Location", agent="Backstage"))["catalog"]["locations"][0]["target"]
    root, _, documented = configured.partition("/blob/main/")
    assert urlsplit(root).scheme == "https"
    files = {path: content.decode() for path, content in host.repository.tree().items()}
    asked = {"url": f"{root}/blob/main/", "pattern": pattern or documented, "files": files}
    done = subprocess.run(
        [node(), Path(__file__).with_name("catalog.mjs"), node_folder("backstage")],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


async def test_entities_arrive_and_change_and_go(host: Host) -> None:
    host.work("mine", {"mine/catalog-info.yaml": document(LOCATION), "mine/parts/component.yaml": document(COMPONENT)})
    host.work("yours", {"yours/catalog-info.yaml": document(COMPONENT, name="yours")})
    entities = ["component:default/mine", "component:default/yours", "location:default/mine"]
    everything = {"entities": entities, "errors": []}
    await host.world.platform.until(lambda: catalog(host) == everything, "found", seen=lambda: catalog(host))
    assert any(path.startswith(".kratix/") for path in host.tree()), "a state file lies beside them"

    host.work("yours", {"yours/catalog-info.yaml": document(COMPONENT, name="ours")})
    await host.world.platform.until(lambda: "component:default/ours" in catalog(host)["entities"], "changed")
    host.world.platform.delete_object("works", "mine")
    left = {"entities": ["component:default/ours"], "errors": []}
    await host.world.platform.until(lambda: catalog(host) == left, "gone", seen=lambda: catalog(host))


async def test_what_is_no_entity_is_refused_and_named(host: Host) -> None:
    broken = {**COMPONENT, "spec": {"type": "service"}}
    host.work("mine", {"mine/catalog-info.yaml": document(broken), "mine/settings.yaml": b"size: 1\n"})
    path = "destinations/catalog/mine/catalog-info.yaml"
    await host.world.platform.until(
        lambda: any(error.startswith(path) and "lifecycle" in error for error in catalog(host)["errors"]),
        "refused",
        seen=lambda: catalog(host),
    )
    assert len(catalog(host)["errors"]) == 1, "the pattern finds nothing else"
    wide = catalog(host, "destinations/catalog/**/*.yaml")["errors"]
    assert any(error.startswith("destinations/catalog/mine/settings.yaml") for error in wide), "as the page says"
