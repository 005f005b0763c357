"""The use cases, one module a function: they order and parallelise what the layers below compute and talk to."""
