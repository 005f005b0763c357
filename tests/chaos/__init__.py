"""The chaos run: seeded operations and faults on real servers, and an independent model of what must be true after."""
