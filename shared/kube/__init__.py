"""The Kubernetes API: the only user of kubernetes_asyncio."""

from shared.kube.access import prime
from shared.kube.cluster import Cluster, Clusters, Key, key_of, uid_of
from shared.kube.connection import Object, together

__all__ = ["Cluster", "Clusters", "Key", "Object", "key_of", "prime", "together", "uid_of"]
