"""OpenTofu applies what is written in mode none: every command of docs/agents.md, from a Work to what it makes."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.agents.host import SECONDS, Host, World, declare
from tests.servers.golang import go_binary

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

FETCH = {"bucket": "Fetch from a bucket", "git": "Fetch from a Git repository"}


def resource(name: str, target: Path, content: str, after: str = "") -> bytes:
    """Return a resource of the built-in provider that makes a file on this host."""
    depends = f"  depends_on       = [terraform_data.{after}]\n" if after else ""
    return f"""
resource "terraform_data" "{name}" {{
  input            = "{target}/{name}"
  triggers_replace = "{content}"
{depends}
  provisioner "local-exec" {{
    command = "mkdir -p {target} && ls {target} > {target}.before-{name} && printf %s {content} > {target}/{name}"
  }}
}}
""".encode()


@pytest_asyncio.fixture(loop_scope="module", params=["bucket", "git"])
async def host(request: pytest.FixtureRequest, tmp_path: Path, world: World) -> AsyncIterator[Host]:
    """A host with OpenTofu, and the Destination that it applies."""
    folder = tmp_path / "host"
    folder.mkdir()
    yield await declare(world, request.param, "OpenTofu", folder, go_binary("tofu").parent)
    await world.runtime.idle()


def steps(host: Host) -> str:
    """Return both steps of the page."""
    return f"( {host.commands(FETCH[host.kind])} )\n{host.commands('Apply')}"


def made(target: Path) -> dict[str, str]:
    """Return the files that resources have made."""
    return {path.name: path.read_text() for path in target.iterdir()} if target.is_dir() else {}


def state(host: Host) -> set[str]:
    """Return the resources in OpenTofu's state."""
    found = json.loads((host.folder / "state" / "terraform.tfstate").read_text())
    return {one["name"] for one in found["resources"]}


async def test_what_is_written_is_applied_and_changed_and_destroyed(
    host: Host, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    target = tmp_path / "target"
    host.work("network", {"network.tf": resource("network", target, "one"), "README.md": b"of a person\n"})
    created = await host.arrives(steps(host), lambda: made(target) == {"network": "one"}, "created")
    # Another Work's file that refers to it, whose name comes first.
    host.work("cache", {"cache.tf": resource("cache", target, "1", after="network")})
    await host.arrives(steps(host), lambda: made(target) == {"network": "one", "cache": "1"}, "a second Work")
    assert [path for path in host.tree() if path.startswith(".kratix/")], "state files lie in the root module"
    assert (tmp_path / "target.before-cache").read_text() == "network\n", "what it refers to came first"
    assert state(host) == {"network", "cache"}

    host.work("network", {"network.tf": resource("network", target, "two")})
    updated = await host.arrives(steps(host), lambda: made(target).get("network") == "two", "updated")
    planned = host.run(host.commands("How to know that it arrived"))
    assert planned.returncode == 0, planned.stdout + planned.stderr
    host.world.platform.delete_object("works", "cache")
    deleted = await host.arrives(steps(host), lambda: state(host) == {"network"}, "destroyed")
    assert made(target) == {"network": "two", "cache": "1"}, "no provisioner of a deleted block runs, as the page says"
    host.world.platform.delete("destinations", "infrastructure")
    await host.world.platform.until(lambda: not host.tree(), "emptied", SECONDS)
    await host.arrives(steps(host), lambda: state(host) == set(), "the Destination's end, as the page says")
    figures = f"created {created:5.2f} s, updated {updated:5.2f} s, deleted {deleted:5.2f} s"
    record_property("measured", f"OpenTofu, {host.kind:<6} none: from a Work to the target: {figures}")


async def test_a_works_backend_does_not_decide_where_the_state_lies(host: Host, tmp_path: Path) -> None:
    target = tmp_path / "target"
    backend = b'terraform {\n  backend "local" {\n    path = "elsewhere.tfstate"\n  }\n}\n'
    host.work("network", {"network.tf": backend + resource("network", target, "one")})
    await host.arrives(steps(host), lambda: made(target) == {"network": "one"}, "created")
    assert state(host) == {"network"}


async def test_what_opentofu_refuses_changes_nothing_and_names_the_file(host: Host, tmp_path: Path) -> None:
    target = tmp_path / "target"
    host.work("network", {"network.tf": resource("network", target, "one")})
    await host.arrives(steps(host), lambda: made(target) == {"network": "one"}, "created")
    host.work("twice", {"twice.tf": resource("network", target, "two")})
    await host.fails(steps(host), "Duplicate resource")
    assert made(target) == {"network": "one"}
    host.work("twice", {"twice.tf": resource("twice", target, "two")})
    await host.arrives(steps(host), lambda: made(target) == {"network": "one", "twice": "two"}, "mended")
