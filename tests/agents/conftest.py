"""Agents at work: a platform cluster with Landfall beside it, and a target of its own that an agent reconciles.

An agent takes minutes to build. The tests of one that is not built are left out, and the summary says so;
`make agents` builds all of them.
"""

from collections.abc import Iterator

import pytest

from tests.agents.delivery import Stores
from tests.agents.host import ANSIBLE, world  # noqa: F401 -- a fixture
from tests.integration.conftest import runtime  # noqa: F401 -- the same flow
from tests.integration.platform_team import Platform
from tests.integration.test_first_ready import declare_repository
from tests.servers.flux import PROGRAMS, flux
from tests.servers.git import GitServer
from tests.servers.golang import GO_AGENTS
from tests.servers.kubernetes import KubernetesApi, kubernetes_api
from tests.servers.nodejs import node, node_folder
from tests.servers.s3 import Versitygw

# By test module, the files that its agent needs.
NEEDED = {
    "test_ansible": {"ansible-core": ANSIBLE / "ansible-playbook"},
    "test_backstage": {"Node.js": node(), "backstage": node_folder("backstage") / "package.json"},
    "test_flux": {name: GO_AGENTS[name].binary for name in PROGRAMS},
    "test_opentofu": {"tofu": GO_AGENTS["tofu"].binary},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the tests of agents that this machine does not have."""
    for item in items:
        needed = NEEDED.get(item.path.stem, {})
        missing = [name for name, binary in needed.items() if not binary.is_file()]
        if missing:
            item.add_marker(pytest.mark.skip(f"no {', no '.join(missing)}; to build and run: make agents"))


@pytest.fixture
def stores(platform: Platform, versitygw: Versitygw, git_server: GitServer) -> Stores:
    """A State Store `default` of each kind."""
    bucket, repository = versitygw.create_bucket(), git_server.create_repository()
    root, secret = versitygw.root, {"name": "default"}
    platform.secret("default", accessKeyID=root.access_key, secretAccessKey=root.secret_key)
    where = {"path": "destinations", "endpoint": versitygw.endpoint, "insecure": True, "bucketName": bucket}
    platform.bucket_store("default", **where, secretRef=secret)
    declare_repository(platform, git_server, repository)
    return Stores(platform, versitygw, bucket, git_server, repository)


@pytest.fixture(scope="module")
def flux_target() -> Iterator[KubernetesApi]:
    """A target cluster with Flux."""
    with kubernetes_api() as api, flux(api):
        yield api
