"""Where one more channel costs nothing, because the target works on blocks of channels anyway."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgelung.converters.passes.reach import Reach

__all__ = ["RK3588_FP16", "RK3588_INT8", "ChannelRoom"]


@dataclass(frozen=True)
class ChannelRoom:
    """Blocks of channels of a target.

    Attributes:
        memory: Tensors are padded to a multiple of so many channels; pooling and concatenation move all of them.
        compute: A convolution takes as long for any number of channels within a multiple of this.
    """

    memory: int
    compute: int

    def __post_init__(self) -> None:
        if self.memory < 1 or self.compute < 1:
            raise ValueError(f"blocks have at least one channel, got {self}")

    def has_room(self, reach: Reach) -> bool:
        """Whether the channels of a BatchNorm can be one more for nothing.

        Between two convolutions only the compute blocks count: a 3x3 convolution of few channels takes longer to
        compute than to load. Where pooling or concatenation is on the way, the memory blocks count, for every tensor.
        """
        block = self.compute if len(reach.growth) == 1 else self.memory
        return all(
            math.ceil((width + more) / block) == math.ceil(width / block) for width, more in reach.growth.values()
        )


# Channel blocks of the compiler's tables and of its cycle formula (docs/restructuring.md). Convolutions of both
# precisions read inputs in blocks of 32; the smaller block of the outputs decides.
RK3588_INT8 = ChannelRoom(memory=16, compute=32)
RK3588_FP16 = ChannelRoom(memory=8, compute=16)
