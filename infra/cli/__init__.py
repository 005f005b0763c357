"""The command `landfall`: what a fleet looks like, what the next write would do, and what to do about a reason.

It reads with the functions' own core (`shared`), and writes nothing to a State Store.
"""
