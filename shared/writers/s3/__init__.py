"""The bucket writer: one object a file, as many puts at a time as are allowed, and no write where nothing differs.

`writer` is the surface, and plans; `survey` is what it lists and reads first. Below it: `client` (calls that are tried
again), `put` (puts of our own), `http` (connections, addresses), `endpoint` (spec.endpoint), `errors` (what failed
means) and `words` (the servers' words).
"""

from shared.writers.s3.writer import BucketWriter

__all__ = ["BucketWriter"]
