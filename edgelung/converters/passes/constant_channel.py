"""A constant channel beside the channels of a BatchNorm: it carries the shift to where zero padding ends."""

from __future__ import annotations

import math

import torch
from torch import fx, nn

from edgelung.converters.passes.affine import Affine, affine_of
from edgelung.converters.passes.fold_forward import absorb
from edgelung.converters.passes.graph import is_relu, layer, remove, set_weights, sole_user, unshared
from edgelung.converters.passes.reach import Reach

__all__ = ["add_constant", "constant_for", "constant_source"]


def constant_source(network: fx.GraphModule, node: fx.Node, reach: Reach) -> fx.Node | None:
    """The convolution that can make the constant for a BatchNorm; None where there is none.

    It must be the BatchNorm's own, with at most a ReLU between them, and no convolution on the way may have groups.
    """
    source = node.all_input_nodes[0]
    if is_relu(network, source):
        if sole_user(source) is not node:
            return None
        node, source = source, source.all_input_nodes[0]
    conv = layer(network, source)
    if not isinstance(conv, nn.Conv2d) or conv.groups != 1 or not unshared(network, source):
        return None
    if sole_user(source) is not node or any(absorber.conv.groups != 1 for absorber in reach.absorbers):
        return None
    return source


def constant_for(bn: nn.BatchNorm2d) -> float:
    """The constant for a BatchNorm: a power of two about as large as its channels get once their scale has moved back.

    Any constant is exact in floating point. In int8 one step size serves a whole tensor, so that a 1 among values up
    to 20 would be off by some percent, and its weights would dwarf the others. By its own statistics a channel of the
    BatchNorm reaches ``|scale| * mean + 3 |gamma|``, three standard deviations above its mean.
    """
    if bn.running_mean is None:
        raise ValueError("a BatchNorm without running statistics has no fixed range")
    gamma = torch.ones_like(bn.running_mean) if bn.weight is None else bn.weight.detach()
    highest = float((affine_of(bn).scale.abs() * bn.running_mean + 3 * gamma.abs()).max())
    return 2.0 ** round(math.log2(highest)) if highest > 0 else 1.0


def add_constant(
    network: fx.GraphModule, node: fx.Node, affine: Affine, reach: Reach, source: fx.Node, constant: float
) -> None:
    """Fold a BatchNorm forward, exactly up to the border.

    ``source`` gets one more output channel with weights 0 and the constant as bias. ReLU, average pooling and
    concatenation leave it as it is; zero padding makes it 0, as it makes the input of the original network 0.
    """
    conv = layer(network, source)
    if not isinstance(conv, nn.Conv2d):
        raise TypeError(f"{source.name} is no convolution")
    weight = conv.weight.detach().double()
    bias = weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().double()
    set_weights(conv, torch.cat([weight, torch.zeros_like(weight[:1])]), torch.cat([bias, bias.new_tensor([constant])]))
    for absorber in reach.absorbers:
        absorb(absorber, affine, constant=constant)
    remove(network, node)
