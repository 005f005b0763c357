"""Ansible runs what is written: every command and the playbook of docs/agents.md, from a Work to a file on the host."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.agents.documented import block
from tests.agents.host import ANSIBLE, Host, World, declare

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

RUN = {"bucket": "From a bucket", "git": "From a Git repository"}


@pytest_asyncio.fixture(loop_scope="module", params=["bucket", "git"])
async def host(request: pytest.FixtureRequest, tmp_path: Path, world: World) -> AsyncIterator[Host]:
    """A host with Ansible, and the Destination that it runs."""
    folder = tmp_path / "host"
    folder.mkdir()
    yield await declare(world, request.param, "Ansible", folder, ANSIBLE)
    await world.runtime.idle()


def playbook(directory: Path) -> bytes:
    """Return the page's playbook, for a directory of ours."""
    replace = {"/etc/instances": str(directory)}
    return block("A playbook that prunes", agent="Ansible", replace=replace).encode()


def made(directory: Path) -> dict[str, str]:
    """Return the files that the playbook has made."""
    return {path.name: path.read_text() for path in directory.iterdir()} if directory.is_dir() else {}


async def test_a_playbook_arrives_and_runs_and_follows_updates_and_deletions(
    host: Host, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    directory = tmp_path / "instances"
    commands = host.commands(RUN[host.kind])
    host.work("promise", {"site.yml": playbook(directory)})
    host.work("mine", {"instances/mine.conf": b"size 1\n"})
    created = await host.arrives(commands, lambda: made(directory) == {"mine.conf": "size 1\n"}, "created")
    host.work("yours", {"instances/yours.conf": b"size 9\n"})
    both = {"mine.conf": "size 1\n", "yours.conf": "size 9\n"}
    await host.arrives(commands, lambda: made(directory) == both, "a second request")
    host.work("mine", {"instances/mine.conf": b"size 2\n"})
    updated = await host.arrives(commands, lambda: made(directory)["mine.conf"] == "size 2\n", "updated")
    host.world.platform.delete_object("works", "mine")
    deleted = await host.arrives(commands, lambda: made(directory) == {"yours.conf": "size 9\n"}, "deleted")
    figures = f"created {created:5.2f} s, updated {updated:5.2f} s, deleted {deleted:5.2f} s"
    record_property("measured", f"Ansible, {host.kind:<6} none: from a Work to the host: {figures}")


async def test_without_its_playbook_nothing_changes_on_the_host(host: Host, tmp_path: Path) -> None:
    directory = tmp_path / "instances"
    commands = host.commands(RUN[host.kind])
    host.work("promise", {"site.yml": playbook(directory)})
    host.work("mine", {"instances/mine.conf": b"size 1\n"})
    await host.arrives(commands, lambda: made(directory) == {"mine.conf": "size 1\n"}, "created")
    host.world.platform.delete_object("works", "promise")
    words = {"git": "Could not find a playbook to run", "bucket": "could not be found"}
    await host.fails(commands, words[host.kind])
    assert made(directory) == {"mine.conf": "size 1\n"}
