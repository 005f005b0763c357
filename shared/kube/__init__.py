"""The Kubernetes API: the only user of kubernetes_asyncio."""

from shared.kube.answers import Object
from shared.kube.cluster import Cluster
from shared.kube.clusters import Clusters
from shared.kube.connection import each, together
from shared.kube.kinds import Key, key_of, selectors, uid_of

__all__ = ["Cluster", "Clusters", "Key", "Object", "each", "key_of", "selectors", "together", "uid_of"]
