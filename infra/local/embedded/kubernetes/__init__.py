"""A small Kubernetes API in memory, for machines without a cluster.

Why not kmock's emulator: it sets no uid, generation or resourceVersion, its watches begin anew whatever version they
are asked to begin at, and lists, watches, patches and updates would all have had to be replaced through private
methods. What is left of it then is parsing of paths. This one has what our functions and forwarder rely on, and what
`kubectl get`, `describe`, `apply --validate=false`, `edit`, `delete` and `wait` ask for. It is no proof of anything:
behaviour is proved on a real kube-apiserver (tests/integration).
"""
