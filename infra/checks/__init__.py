"""Checks of a deployment from outside: what AWS and the cluster answer, and what to do where that is wrong.

Each check is an async function of its own that reads and changes nothing. `CHECKS` (in `checks`) lists them.
"""
