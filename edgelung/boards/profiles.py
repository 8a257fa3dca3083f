"""One constant per board."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType

from edgelung.boards.npu import RK3588_NPU, RK3588S_NPU, NpuModel
from edgelung.errors import InputError

__all__ = ["BOARDS", "BoardProfile", "get_board"]


@dataclass(frozen=True)
class BoardProfile:
    """A target of a conversion.

    Attributes:
        name: What the user types.
        summary: One line for lists.
        platform: SoC family whose compiled models it runs; None without an NPU.
        soc_compatible: How its device tree names the SoC (`/proc/device-tree/compatible`).
        npu_cores: Cores that can run separate contexts.
        npu: For latency estimates; None without an NPU.
    """

    name: str
    summary: str
    platform: str | None
    soc_compatible: tuple[str, ...] = ()
    npu_cores: int = 0
    npu: NpuModel | None = field(default=None, hash=False, repr=False)


ONNXRUNTIME = BoardProfile("onnxruntime", "any CPU that onnxruntime runs on", platform=None)

# RK3588 and RK3588S share compiled models: the vendor toolkit knows only the target rk3588. Three NPU cores:
# Rockchip RK3588 datasheet, section 1.2 (neural process unit).
RK3588 = BoardProfile(
    "rk3588",
    "Rockchip RK3588, 3 NPU cores",
    platform="rk3588",
    soc_compatible=("rockchip,rk3588",),
    npu_cores=3,
    npu=RK3588_NPU,
)
RK3588S = BoardProfile(
    "rk3588s",
    "Rockchip RK3588S, 3 NPU cores",
    platform="rk3588",
    soc_compatible=("rockchip,rk3588s",),
    npu_cores=3,
    npu=RK3588S_NPU,
)

BOARDS = MappingProxyType({board.name: board for board in (ONNXRUNTIME, RK3588, RK3588S)})


def get_board(name: str) -> BoardProfile:
    """The board of that name.

    Raises:
        InputError: Naming the known boards.
    """
    try:
        return BOARDS[name]
    except KeyError:
        raise InputError(f"unknown target {name!r}", hint=f"known targets: {', '.join(BOARDS)}") from None
