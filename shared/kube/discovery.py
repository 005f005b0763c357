"""Discovery: whether a cluster serves a kind at all."""

from http import HTTPStatus
from typing import Final

from shared.deadline import Deadline
from shared.errors import KubernetesError
from shared.kube.answers import Kind, NotFound, NotKubernetes
from shared.kube.connection import Connection

_GROUPS: Final[Kind] = ("v1", "APIGroupList")
_RESOURCES: Final[Kind] = ("v1", "APIResourceList")


async def serves(
    connection: Connection, prefix: str, plural: str, deadline: Deadline, *, namespaced: bool | None = None
) -> bool:
    """Return whether the API server serves a kind.

    A path of a kind that is not installed, or has another scope, is answered with the plain text "404 page not found",
    which any proxy might say. Discovery, which every authenticated identity may read (ClusterRole system:discovery),
    proves it.

    Args:
        connection: to the cluster.
        prefix: `/apis/<group>/<version>` of the kind, or `/api/v1`.
        plural: name of the kind.
        deadline: of the calls.
        namespaced: whether the kind is served with namespaces; None where either will do.

    Raises:
        KubernetesError: discovery could not be had, or the kind is served in other versions alone.
    """
    _, top, group, *version = prefix.split("/")
    if top == "api":
        return True
    groups = await connection.call("GET", "/apis", deadline, kinds=(_GROUPS,))
    found = next((g for g in groups.get("groups") or () if g.get("name") == group), None)
    served = [str(v.get("version")) for v in (found or {}).get("versions") or ()]
    having = []
    for name in served:
        listed = await connection.call("GET", f"/apis/{group}/{name}", deadline, kinds=(_RESOURCES,))
        resources = [r for r in listed.get("resources") or () if r.get("name") == plural]
        if any(namespaced in {None, r.get("namespaced")} for r in resources):
            having.append(name)
    if having and not set(version) & set(having):
        words = f"the cluster serves {plural}.{group} in version {', '.join(having)}, and {version[0]} is needed"
        raise KubernetesError(f"{words}: serve that version in the CustomResourceDefinition")
    return bool(having)


async def scopes(connection: Connection, prefix: str, deadline: Deadline) -> dict[str, bool]:
    """Return the kinds that the API server serves below a prefix: by plural name, whether they have namespaces.

    Raises:
        KubernetesError: it could not be asked.
    """
    try:
        listed = await connection.call("GET", prefix, deadline, kinds=(_RESOURCES,))
    except NotFound:
        return {}
    except NotKubernetes as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        return {}
    return {str(r.get("name")): bool(r.get("namespaced")) for r in listed.get("resources") or ()}
