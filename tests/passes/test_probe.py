"""The middle of a slab that a network is proven on: as small as wanted, as large as the network asks for."""

import pytest
import torch
from torch import nn

from edgelung.converters.passes.probe import find_probe, middle_of, plane_of


class Positions(nn.Module):
    def __init__(self, plane):
        super().__init__()
        self.conv, self.where = nn.Conv2d(1, 1, 3, padding=1), nn.Parameter(torch.rand(1, 1, *plane))

    def forward(self, x):
        return self.conv(x) + self.where


class Stride(nn.Module):
    def __init__(self, stride):
        super().__init__()
        self.pool, self.up = nn.MaxPool2d(stride), nn.Upsample(scale_factor=stride)

    def forward(self, x):
        return x + self.up(self.pool(x))


class Whole(nn.Module):
    def forward(self, x):
        return torch.sin(9 * x * x.mean(dim=(2, 3), keepdim=True))


class ByShape(nn.Module):
    def forward(self, x):
        return x if x.shape[-1] > 64 else -x


def slab(height=96, width=128):
    torch.manual_seed(0)
    return torch.rand(1, 1, height, width) + torch.linspace(0, 1, width)


@pytest.mark.parametrize(
    ("network", "align_px", "plane"),
    [
        (nn.Conv2d(1, 1, 3, padding=1), 4, (32, 32)),
        (Stride(5), 5, (35, 35)),
        (Stride(7), 7, (35, 35)),
        (nn.Conv2d(1, 1, 61, padding=30), 4, (64, 64)),
        (Positions((96, 128)), 4, (96, 128)),
        (Whole(), 4, (96, 128)),
        (ByShape(), 4, (96, 128)),
        (nn.AdaptiveAvgPool2d(16), 4, (96, 128)),
    ],
)
def test_the_plane_is_as_small_as_the_network_permits(network, align_px, plane):
    whole = slab(105, 140) if align_px in (5, 7) else slab()
    assert find_probe(network, whole, align_px, 32).shape[-2:] == plane


def test_a_middle_starts_where_the_stride_does():
    whole = torch.arange(40.0).expand(1, 1, 40, 40)
    assert plane_of((40, 40), 5, 12) == (15, 15) and plane_of((40, 10), 5, 12) == (15, 10)
    assert middle_of(whole, (15, 15), 5)[0, 0, 0, 0] == 10
