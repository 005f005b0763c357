"""The Git writer: trees in memory, one commit a batch, one push that loses nobody's work.

`writer` is the asynchronous surface; everything below it is synchronous, because dulwich is, and runs in threads:
`changeset` (plan, push, settle, try again), `isolation` (what a server refuses), `repository` (what is asked of the
server), `branch` (what was seen), `pack` (what was sent), `trees` and `commit` (pure),
`session` (time, sockets, addresses), `smart_http` and `ssh` (the two ways to a server), `github_app` (tokens),
`remote` (the URL) and `answers` (the server's words).
"""

from shared.writers.git.writer import GitWriter

__all__ = ["GitWriter"]
