"""The bytes of documents, and the edits that bring them into a State Store."""

from typing import Any, Final

import yaml

from shared import paths
from shared.plan import Edit
from shared.resources import Destination, StateStore


def to_yaml(document: dict[str, Any]) -> bytes:
    """Return a document's YAML: keys sorted, two spaces of indent, a newline at the end."""
    return yaml.safe_dump(document, sort_keys=True, indent=2, default_flow_style=False, width=2**16).encode()


# Kratix marshals typed Kubernetes objects, which is where `spec: {}` and `status: {}` come from (spec section 2).
CANARY_NAMESPACE: Final = to_yaml(
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kratix-worker-system"}, "spec": {}, "status": {}}
)
CANARY_CONFIGMAP: Final = to_yaml(
    {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "kratix-info", "namespace": "kratix-worker-system"},
        "data": {"canary": "this confirms your infrastructure is reading from Kratix state stores"},
    }
)


def canary_edit(edit_id: str, destination: Destination, store: StateStore) -> Edit:
    """Return what a Destination's State Store is to hold: its canary documents, or none of them.

    Raises:
        InvalidObject: a path of the Destination or of its State Store is refused.
    """
    root = paths.destination_root(store, destination)
    paths.check_filename(destination)
    namespace, config_map = paths.canary_paths(root, destination)
    if destination.spec.init_workloads.enabled:
        return Edit(edit_id, destination.name, root, files={namespace: CANARY_NAMESPACE, config_map: CANARY_CONFIGMAP})
    return Edit(edit_id, destination.name, root, remove=frozenset({namespace, config_map}))


def cleanup_edit(edit_id: str, destination: Destination, store: StateStore, others: list[str]) -> Edit:
    """Return the deletion of everything below a Destination's path (spec section 5).

    Args:
        edit_id: the caller's name for it.
        destination: that is being deleted.
        store: its State Store.
        others: the directories of all other Destinations of the same place; those inside, and itself, are kept.

    Raises:
        InvalidObject: a path of the Destination or of its State Store is refused.
    """
    root = paths.destination_root(store, destination)
    inside = frozenset(other for other in others if paths.is_within(other, root))
    return Edit(edit_id, destination.name, root, prune=frozenset({root}), keep=inside)
