"""The nodule-segmentation U-Net that the public LUNA16 checkpoints were trained with, for any channel table.

Consecutive axial slices are the channels of a plain 2-D U-Net (Ronneberger et al., MICCAI 2015) behind a BatchNorm that
normalises Hounsfield units, so the network takes clipped HU as they are. Module names, and with them the keys of a
state_dict, are those of the public checkpoints. The widths of all convolutions are data, because a pruned network
cannot be rebuilt from its name alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgelung.errors import InputError

__all__ = ["UNetLuna", "UNetWidths"]

STATE_HINT = "give a state_dict of unet-luna, or describe your own network with --arch and --spec"


@dataclass(frozen=True)
class UNetWidths:
    """Output channels of every convolution: what a pruned network needs to be built again.

    Attributes:
        in_slices: Slices that the network sees.
        down: For each level from the full resolution down: (first, second) convolution of its block. The second one's
            output is what skips to the other side.
        up: For each level from the coarsest up: (up-convolution, first, second convolution of its block).
        out_slices: Slices that the network answers for.

    Raises:
        ValueError: If a width is below 1 or there is not one ``up`` for each ``down`` but the last.
    """

    in_slices: int
    down: tuple[tuple[int, int], ...]
    up: tuple[tuple[int, int, int], ...]
    out_slices: int = 1

    def __post_init__(self) -> None:
        if not self.down or len(self.up) != len(self.down) - 1:
            raise ValueError(f"{len(self.down)} levels down need {len(self.down) - 1} up, got {len(self.up)}")
        widths = (self.in_slices, self.out_slices, *(w for block in (*self.down, *self.up) for w in block))
        if min(widths) < 1:
            raise ValueError(f"every width must be at least 1, got {self}")

    @classmethod
    def standard(cls, in_slices: int = 7, depth: int = 3, wf: int = 4) -> UNetWidths:
        """The table before pruning: ``2 ** (wf + level)`` channels everywhere on a level.

        Args:
            in_slices: Slices that the network sees.
            depth: Number of resolutions.
            wf: Exponent of the width at full resolution.
        """
        widths = [2 ** (wf + level) for level in range(depth)]
        return cls(in_slices, tuple((w, w) for w in widths), tuple((w, w, w) for w in reversed(widths[:-1])))

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> UNetWidths:
        """The table of the network that ``state`` belongs to, read from its shapes.

        Args:
            state: Keys and tensors of a unet-luna, pruned or not. ``num_batches_tracked`` counters may be absent.

        Raises:
            InputError: Naming the first key that is missing, foreign, or does not fit its neighbours.
        """
        depth = _count_blocks(state, "unet.down_path")
        down = [_block_widths(state, f"unet.down_path.{i}") for i in range(depth)]
        up = [
            (_shape(state, f"unet.up_path.{i}.up.weight", 4)[1], *_block_widths(state, f"unet.up_path.{i}.conv_block"))
            for i in range(depth - 1)
        ]
        in_slices = _shape(state, "unet.down_path.0.block.0.weight", 4)[1]
        out_slices = _shape(state, "unet.last.weight", 4)[0]
        try:
            widths = cls(in_slices, tuple(down), tuple(up), out_slices)
        except ValueError as error:
            raise InputError(str(error), field="unet", hint=STATE_HINT) from None
        _check_shapes(state, widths)
        return widths

    @property
    def stride(self) -> int:
        """Height and width of the input must be multiples of this, in pixels."""
        return 1 << (len(self.down) - 1)

    @property
    def receptive_radius(self) -> int:
        """An output pixel sees no input pixel further away than this along height or width."""
        return max(_seen_distance(pixel, len(self.down)) for pixel in range(self.stride))


class UNetLuna(nn.Module):
    """BatchNorm over the slices, U-Net, sigmoid.

    Args:
        widths: Channel table; the default has 118,271 parameters.

    Shapes:
        (N, in_slices, height, width) float32 clipped HU -> (N, out_slices, height, width) float32 probability in 0..1.
        Height and width are multiples of ``widths.stride``.
    """

    def __init__(self, widths: UNetWidths | None = None) -> None:
        super().__init__()
        self.widths = widths or UNetWidths.standard()
        self.input_batchnorm = nn.BatchNorm2d(self.widths.in_slices)
        self.unet = _UNet(self.widths)
        self.sigmoid = nn.Sigmoid()

    def forward(self, slices: Tensor) -> Tensor:
        """Probability that each pixel of the answered slices is nodule."""
        probability: Tensor = self.sigmoid(self.unet(self.input_batchnorm(slices)))
        return probability


class _ConvBlock(nn.Module):
    """Twice: 3x3 convolution, ReLU, BatchNorm. The normalisation after the ReLU is the checkpoints' order."""

    def __init__(self, in_channels: int, first: int, second: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(in_channels, first, 3, padding=1),
            nn.ReLU(),
            nn.BatchNorm2d(first),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(),
            nn.BatchNorm2d(second),
        )

    def forward(self, x: Tensor) -> Tensor:
        convolved: Tensor = self.block(x)
        return convolved


class _UpBlock(nn.Module):
    """Doubles the plane, puts the skip's channels behind its own, and convolves both."""

    def __init__(self, in_channels: int, skip_channels: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        raised, first, second = widths
        self.up = nn.ConvTranspose2d(in_channels, raised, 2, stride=2)
        self.conv_block = _ConvBlock(raised + skip_channels, first, second)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        merged: Tensor = self.conv_block(torch.cat([self.up(x), skip], dim=1))
        return merged


class _UNet(nn.Module):
    def __init__(self, widths: UNetWidths) -> None:
        super().__init__()
        self.down_path = nn.ModuleList()
        channels = widths.in_slices
        for first, second in widths.down:
            self.down_path.append(_ConvBlock(channels, first, second))
            channels = second
        self.pool = nn.AvgPool2d(2)
        self.up_path = nn.ModuleList()
        for level, up_widths in zip(reversed(range(len(widths.up))), widths.up, strict=True):
            self.up_path.append(_UpBlock(channels, widths.down[level][1], up_widths))
            channels = up_widths[2]
        self.last = nn.Conv2d(channels, widths.out_slices, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level, block in enumerate(self.down_path):
            x = block(x if level == 0 else self.pool(x))
            skips.append(x)
        for level, block in enumerate(self.up_path):
            x = block(x, skips[-level - 2])
        logits: Tensor = self.last(x)
        return logits


def _seen_distance(pixel: int, depth: int) -> int:
    """Distance to the furthest input pixel that an output pixel sees: each block reaches 2, on every resolution."""
    low, high = pixel - 2, pixel + 2
    for _ in range(depth - 1):  # an up-convolution reads one pixel for two
        low, high = low // 2 - 2, high // 2 + 2
    for _ in range(depth - 1):  # pooling reads two pixels for one
        low, high = 2 * low - 2, 2 * high + 1 + 2
    return max(pixel - low, high - pixel)


def _count_blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    count = 0
    while f"{prefix}.{count}.block.0.weight" in state:
        count += 1
    if not count:
        raise InputError("is missing", field=f"{prefix}.0.block.0.weight", hint=STATE_HINT)
    return count


def _block_widths(state: Mapping[str, Tensor], prefix: str) -> tuple[int, int]:
    first = _shape(state, f"{prefix}.block.0.weight", 4)[0]
    return first, _shape(state, f"{prefix}.block.3.weight", 4)[0]


def _shape(state: Mapping[str, Tensor], key: str, rank: int) -> tuple[int, ...]:
    if key not in state:
        raise InputError("is missing", field=key, hint=STATE_HINT)
    shape = tuple(state[key].shape)
    if len(shape) != rank:
        raise InputError(f"has the shape {shape} where {rank} axes belong", field=key, hint=STATE_HINT)
    return shape


def _check_shapes(state: Mapping[str, Tensor], widths: UNetWidths) -> None:
    with torch.device("meta"):
        wanted = UNetLuna(widths).state_dict()
    for key, tensor in wanted.items():
        if key not in state and key.endswith(".num_batches_tracked"):
            continue
        shape = _shape(state, key, tensor.ndim)
        if shape != tuple(tensor.shape):
            problem = f"has the shape {shape}, its neighbours ask for {tuple(tensor.shape)}"
            raise InputError(problem, field=key, hint=STATE_HINT)
    foreign = [key for key in state if key not in wanted]
    if foreign:
        raise InputError("does not belong to unet-luna", field=foreign[0], hint=STATE_HINT)
