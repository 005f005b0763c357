"""The forwarder that runs in a cluster: it sends AWS references to changed objects, and nothing of their content.

It stands alone: its image holds this package and requirements-forwarder.txt, and nothing else of the repository.
"""
