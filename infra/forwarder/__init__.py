"""The forwarder that runs in a cluster: tells AWS which objects changed, and nothing of what is in them.

It stands alone: its image holds this package and requirements-forwarder.txt, and nothing else of the repository.
"""
