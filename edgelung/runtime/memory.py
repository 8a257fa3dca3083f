"""How much memory this process holds."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["resident_mib"]


def resident_mib() -> float:
    """Resident set of this process now, in MiB, as Linux counts it (proc(5), /proc/pid/statm)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
