"""Single functions invoked on this machine: as `sam local invoke` does it, and under the runtime interface emulator.

`stage` has the servers and objects that events/ speak of, `situations` what each event leads to; `sam` and `rie` are
two ways to invoke a function, `engine`, `podman` and `base_image` what the first needs.
"""
