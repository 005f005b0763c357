"""Landfall beside a real, unchanged Kratix: State Stores are handed over and back while changes go on (make takeover).

Kratix's manager is a process that KRATIX_BIN names, so these tests are a target of their own, and fail without it.
"""
