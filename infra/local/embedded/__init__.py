"""The servers that the demo needs where a machine has none: a Kubernetes API, an S3 server and a Git server."""
