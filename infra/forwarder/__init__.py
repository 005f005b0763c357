"""The forwarder that runs in a cluster: it sends AWS references to changed objects, and nothing of their content.

It stands alone: its image holds this package and what infra/locks/requirements-forwarder.txt names, and nothing else of
the repository.
"""
