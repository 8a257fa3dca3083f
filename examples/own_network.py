"""A network of one's own for edgelung: a small residual U-Net that sees five slices.

    edgelung convert weights.pt --arch own_network:build --spec own_network.toml --output own.bundle

What edgelung asks of it: a factory without arguments, one float32 tensor in, one out, a forward pass without choices
that depend on the data, and operators that the board has (convolutions, ReLU, bilinear upsampling, concatenation).
"""

import torch
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut. BatchNorm right after a convolution folds into it."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.convolutions(x) + self.shortcut(x))


class ResidualUNet(nn.Module):
    """(N, slices, height, width) scaled CT -> (N, 1, height, width) logit; height and width multiples of 4."""

    def __init__(self, slices: int = 5, width: int = 16) -> None:
        super().__init__()
        self.level0 = ResidualBlock(slices, width)
        self.level1 = ResidualBlock(width, 2 * width)
        self.level2 = ResidualBlock(2 * width, 4 * width)
        self.up1 = ResidualBlock(4 * width + 2 * width, 2 * width)
        self.up0 = ResidualBlock(2 * width + width, width)
        self.pool = nn.MaxPool2d(2)
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.last = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        full = self.level0(x)
        half = self.level1(self.pool(full))
        quarter = self.level2(self.pool(half))
        half = self.up1(torch.cat([self.upsample(quarter), half], dim=1))
        full = self.up0(torch.cat([self.upsample(half), full], dim=1))
        return self.last(full)


def build() -> nn.Module:
    """The network that own_network.toml describes, with fresh weights; edgelung puts the checkpoint's in."""
    return ResidualUNet()
