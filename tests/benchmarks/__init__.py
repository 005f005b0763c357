"""Benchmarks side by side with peers: `make bench`, or `python -m tests.benchmarks --help`."""
