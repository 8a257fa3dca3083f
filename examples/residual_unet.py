"""A network of one's own for the whole way, pruning and quantisation-aware training included: a residual U-Net.

    edgelung convert weights.pt --arch residual_unet:build --spec residual_unet.toml --output residual.bundle

Every operator in it has an int8 form on the RK3588: convolutions with any stride, a BatchNorm behind each of them,
ReLU, maximum pooling, bilinear upsampling by 2 without aligned corners, concatenated skips and additions. A block calls
its shortcut before its convolutions, so that the simulator and the compiler agree on which of the two convolutions the
addition is one with (docs/qat.md).
"""

from typing import Literal

import torch
from torch import Tensor, nn


def normalised(channels_in: int, channels_out: int, size: int, stride: int = 1) -> nn.Sequential:
    """A convolution and its BatchNorm, which restructuring folds into it exactly."""
    conv = nn.Conv2d(channels_in, channels_out, size, stride=stride, padding=size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, which is a 1x1 convolution where the width changes."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        same = channels_in == channels_out
        self.shortcut = nn.Identity() if same else normalised(channels_in, channels_out, 1)
        self.first = normalised(channels_in, channels_out, 3)
        self.second = normalised(channels_out, channels_out, 3)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        straight = self.shortcut(x)
        return self.relu(self.second(self.relu(self.first(x))) + straight)


class ResidualUNet(nn.Module):
    """(N, slices, height, width) scaled CT -> (N, 1, height, width) probability; height and width multiples of 4.

    Args:
        slices: Consecutive slices of the input; the output answers for the middle one.
        width: Channels of the first level; the others have twice and four times as many.
        down: What halves the plane: maximum pooling, or a convolution with stride 2.
    """

    def __init__(self, slices: int = 3, width: int = 16, down: Literal["pool", "convolution"] = "pool") -> None:
        super().__init__()
        self.level0 = ResidualBlock(slices, width)
        self.level1 = ResidualBlock(width, 2 * width)
        self.level2 = nn.Sequential(ResidualBlock(2 * width, 4 * width), ResidualBlock(4 * width, 4 * width))
        self.down0, self.down1 = (halve(channels, down) for channels in (width, 2 * width))
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.up1 = ResidualBlock(4 * width + 2 * width, 2 * width)
        self.up0 = ResidualBlock(2 * width + width, width)
        self.last = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        full = self.level0(x)
        half = self.level1(self.down0(full))
        quarter = self.level2(self.down1(half))
        half = self.up1(torch.cat([self.upsample(quarter), half], dim=1))
        full = self.up0(torch.cat([self.upsample(half), full], dim=1))
        return torch.sigmoid(self.last(full))


def halve(channels: int, down: Literal["pool", "convolution"]) -> nn.Module:
    """Half of the height and width."""
    return nn.MaxPool2d(2) if down == "pool" else nn.Sequential(normalised(channels, channels, 3, stride=2), nn.ReLU())


def build() -> nn.Module:
    """The network that residual_unet.toml describes, with fresh weights; edgelung puts the checkpoint's in."""
    return ResidualUNet()


def build_strided() -> nn.Module:
    """The same with convolutions of stride 2 in place of pooling; residual_unet.toml suits it as well."""
    return ResidualUNet(down="convolution")
