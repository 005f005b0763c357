"""The most memory that a process has had."""

import re
from pathlib import Path


def peak_mebibytes() -> int:
    """Return this process's own peak, in MiB.

    Linux keeps `ru_maxrss` across exec, so a small process that a large one has started would count as large.
    """
    found = re.search(r"^VmHWM:\s+([0-9]+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found, "this system does not tell a process's peak"
    return int(found[1]) // 1024
