"""BatchNorm as a depthwise 1x1 convolution: exact everywhere, and an operator that every engine has in int8."""

from __future__ import annotations

from torch import fx, nn

from edgelung.converters.passes.affine import Affine
from edgelung.converters.passes.graph import set_weights

__all__ = ["replace_by_convolution"]


def replace_by_convolution(network: fx.GraphModule, node: fx.Node, affine: Affine) -> None:
    """Put a depthwise convolution where a BatchNorm was, under the same name.

    It has no padding of its own, so the next layer pads behind it, as it did behind the BatchNorm.
    """
    count = len(affine.scale)
    conv = nn.Conv2d(count, count, 1, groups=count).eval()
    set_weights(conv, affine.scale.view(-1, 1, 1, 1), affine.shift)
    parent, _, name = str(node.target).rpartition(".")
    setattr(network.get_submodule(parent), name, conv)
