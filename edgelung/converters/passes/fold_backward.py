"""BatchNorm behind a convolution: folded backwards into its weights, exactly and with any padding."""

from __future__ import annotations

import torch
from torch import fx, nn

from edgelung.converters.passes.affine import Affine
from edgelung.converters.passes.graph import is_relu, layer, remove, set_weights, sole_user, unshared

__all__ = ["fold_backward", "move_scale_back"]


def fold_backward(network: fx.GraphModule, node: fx.Node, affine: Affine) -> bool:
    """Fold a BatchNorm into the convolution, plain or transposed, whose output it alone uses.

    ``scale * (W x + b) + shift = (scale W) x + (scale b + shift)``

    Returns:
        Whether it was; the network is untouched otherwise.
    """
    conv = _own_convolution(network, node.all_input_nodes[0])
    if conv is None:
        return False
    _scale_outputs(conv, affine)
    remove(network, node)
    return True


def move_scale_back(network: fx.GraphModule, node: fx.Node, affine: Affine) -> Affine:
    """Move the size of a BatchNorm's scale through the ReLU before it into the convolution before that.

    ``scale * relu(x) = sign(scale) * relu(|scale| x)``; the sign cannot pass. The channels of the ReLU then have
    about unit spread, as the BatchNorm meant them to: one step size suits all of them when they are quantised.

    Returns:
        What is left for the BatchNorm to do: factors of 1, 0 and -1 and its shift; ``affine`` itself where another
        node uses the convolution or the ReLU too, or the layers before are others.
    """
    relu = node.all_input_nodes[0]
    if not is_relu(network, relu) or sole_user(relu) is not node:
        return affine
    conv = _own_convolution(network, relu.all_input_nodes[0])
    if conv is None:
        return affine
    _scale_outputs(conv, Affine(affine.scale.abs(), torch.zeros_like(affine.shift)))
    return Affine(affine.scale.sign(), affine.shift)


def _own_convolution(network: fx.GraphModule, node: fx.Node) -> nn.Conv2d | nn.ConvTranspose2d | None:
    conv = layer(network, node)
    if not isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d)) or sole_user(node) is None or not unshared(network, node):
        return None
    return conv


def _scale_outputs(conv: nn.Conv2d | nn.ConvTranspose2d, affine: Affine) -> None:
    weight = conv.weight.detach().double()
    scale = affine.scale
    if conv.transposed:  # (in, out / groups, height, width): the factors of a group belong to its rows
        rows = scale.view(conv.groups, 1, -1, 1, 1)
        scaled = (weight.view(conv.groups, -1, *weight.shape[1:]) * rows).view_as(weight)
    else:
        scaled = weight * scale.view(-1, 1, 1, 1)
    bias = torch.zeros_like(scale) if conv.bias is None else conv.bias.detach().double()
    set_weights(conv, scaled, bias * scale + affine.shift)
