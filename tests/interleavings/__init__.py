"""The real use cases under a deterministic scheduler, on in-memory servers with the real ones' semantics.

`machine` is the scheduler: virtual time, an event loop, and steps, which are calls that wait to be carried out. `seams`
puts the servers below the real code: `kubernetes_api`, `sqs`, `s3` and `git_remote`. `world` has the objects and the
functions, `scenarios` what users do, `running` one schedule, `explore` all schedules of a scenario, `fuzz` random ones,
`oracle` what must be true afterwards, and `known` what is not true yet.
"""
