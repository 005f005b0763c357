"""The local runtime: forwarder, queues and Lambda on one machine, with the handlers of `functions/` as they are.

`python -m infra.local demo` and `python -m infra.local run` for people; `infra.local.runtime.LocalRuntime` for tests
and benchmarks.
"""
