"""Which board this is, from the device tree that the kernel shows."""

from __future__ import annotations

from pathlib import Path

from edgelung.boards.profiles import BOARDS, ONNXRUNTIME, BoardProfile

__all__ = ["detect_board"]

_DEVICE_TREE = Path("/proc/device-tree/compatible")


def detect_board(device_tree: Path = _DEVICE_TREE) -> BoardProfile:
    """The board this process runs on; the plain CPU when the device tree names none that is known.

    Args:
        device_tree: The kernel's list of compatible names, NUL-separated (Devicetree Specification v0.4, 2.3.1).
    """
    try:
        names = device_tree.read_bytes().decode("ascii", "replace").split("\0")
    except OSError:
        return ONNXRUNTIME  # no device tree: not an Arm board
    by_name = {name: board for board in BOARDS.values() for name in board.soc_compatible}
    # The list goes from the most specific name to the most general one.
    return next((by_name[name] for name in names if name in by_name), ONNXRUNTIME)
