"""Real servers for the tests: built or installed once, started on loopback, gone when the test run ends.

``python -m tests.servers.build`` gets everything (Go builds into a cache outside the tree, Debian packages); the
starters in the other modules are context managers, and ``fixtures`` offers each of them to pytest once a session.
"""
