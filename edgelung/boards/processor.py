"""The processor that something ran on, with the instruction sets that decide how it computes with integers."""

from __future__ import annotations

import platform
from pathlib import Path

__all__ = ["describe_processor"]

_CPUINFO = Path("/proc/cpuinfo")
_READ_BYTES = 1 << 16  # the first processor's lines; all are alike on the machines that matter here
# Names as the Linux kernel writes them under "flags" (x86) and "Features" (Arm), from the oldest to the newest.
_INSTRUCTION_SETS = (
    "sse4_1", "avx", "avx2", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "amx_int8",
    "neon", "asimd", "asimddp", "i8mm", "sve",
)  # fmt: skip


def describe_processor(cpuinfo: Path = _CPUINFO) -> str:
    """Architecture and instruction sets in one line: ``x86_64: avx2 avx512f avx512_vnni``, say.

    Args:
        cpuinfo: The kernel's description; where there is none, the line is the architecture alone.
    """
    machine = platform.machine() or "unknown"
    try:
        with cpuinfo.open("rb") as file:
            lines = file.read(_READ_BYTES).decode("ascii", "replace").splitlines()
    except OSError:
        return machine
    named = (line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features")))
    flags = set(next(named, []))
    found = " ".join(name for name in _INSTRUCTION_SETS if name in flags)
    return f"{machine}: {found}" if found else machine
