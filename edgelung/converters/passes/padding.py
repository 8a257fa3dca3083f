"""What stands in the way of folding a BatchNorm forward is changed, for a network that is trained afterwards.

A BatchNorm behind a ReLU is folded into the convolution after it, but where that convolution pads with zeros, the
folded network pads what comes *before* the BatchNorm, and there a zero means the shift: the two differ in a ring at the
border. A transposed convolution adds another multiple of the shift to each phase of its outputs, and a bias can only
add the same to all. So here convolutions pad with the shift, and transposed ones add the mean over the phases. From
there folding is exact, and ``border="shifts"`` is proven against this network.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx, nn

from edgelung.converters.passes.graph import channels, concatenated, layer

__all__ = ["pad_with_shifts"]


def pad_with_shifts(network: fx.GraphModule, norms: tuple[str, ...]) -> None:
    """Let every convolution behind one of the BatchNorms treat its shift as a bias will; in place.

    What a plain convolution computes in the interior stays. Parameters and buffers are those of the layers that were
    there, under the same names and under further ones, so that training the network trains them.

    Args:
        network: A traced network; the BatchNorms keep running statistics.
        norms: BatchNorms whose shifts arrive as they are, through pooling and concatenation, as
            ``Restructured.interior`` lists them.
    """
    joins = {
        node: [channels(network, part) or 0 for part in concatenated(node) or ()] for node in network.graph.nodes
    }  # while all layers are those that they were
    shifts: dict[fx.Node, fx.Node] = {}
    for node in list(network.graph.nodes):
        module, sources = layer(network, node), node.all_input_nodes
        parts = concatenated(node)
        if str(node.target) in norms and isinstance(module, nn.BatchNorm2d):
            shifts[node] = _insert(network, node, "shift", _Shift(module), ())
        elif parts is not None and any(part in shifts for part in parts):
            known = tuple(shifts[part] for part in parts if part in shifts)
            joined = _Join(
                tuple(None if part in shifts else width for part, width in zip(parts, joins[node], strict=True))
            )
            shifts[node] = _insert(network, node, "shift", joined, known)
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and sources[0] in shifts:
            if module.padding_mode == "zeros":
                padded = _insert(network, node, "shifted", _Shifted(module), (sources[0], shifts[sources[0]]))
                node.replace_all_uses_with(padded)
                network.graph.erase_node(node)
        elif isinstance(module, _CARRYING) and sources[0] in shifts:
            shifts[node] = shifts[sources[0]]
    network.graph.lint()
    network.recompile()


_CARRYING = (nn.AvgPool2d, nn.MaxPool2d, nn.Upsample, nn.Identity, nn.Dropout, nn.Dropout2d)


class _Shift(nn.Module):
    """What a BatchNorm makes of a zero: ``beta - gamma * mean / sqrt(var + eps)``, by its running statistics."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self) -> Tensor:
        mean, var = self.norm.running_mean, self.norm.running_var
        if mean is None or var is None:
            raise ValueError("a BatchNorm without running statistics has no fixed shift")
        scale = torch.rsqrt(var + self.norm.eps)
        if self.norm.weight is not None:
            scale = scale * self.norm.weight
        shift = -scale * mean
        return shift if self.norm.bias is None else shift + self.norm.bias


class _Join(nn.Module):
    """Shifts of concatenated channels; zeros for a number where nothing is shifted."""

    def __init__(self, widths: tuple[int | None, ...]) -> None:
        super().__init__()
        self.widths = widths

    def forward(self, *shifts: Tensor) -> Tensor:
        rest = list(shifts)
        return torch.cat([rest.pop(0) if width is None else shifts[0].new_zeros(width) for width in self.widths])


class _Shifted(nn.Module):
    """A convolution of ``x - shift``, padded with zeros, and what it makes of ``shift``, as a bias."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        conv = self.conv
        taps = conv.weight.sum(dim=(2, 3)).view(conv.groups, -1, conv.weight.shape[1])
        parts = shift.view(conv.groups, -1)
        if isinstance(conv, nn.ConvTranspose2d):
            added = torch.einsum("gio,gi->go", taps, parts) / math.prod(conv.stride)
        else:
            added = torch.einsum("goi,gi->go", taps, parts)
        convolved: Tensor = conv(x - shift.view(1, -1, 1, 1)) + added.reshape(1, -1, 1, 1)
        return convolved


def _insert(
    network: fx.GraphModule, after: fx.Node, suffix: str, module: nn.Module, args: tuple[fx.Node, ...]
) -> fx.Node:
    name = f"{after.name}_{suffix}"
    network.add_submodule(name, module)
    with network.graph.inserting_after(after):
        return network.graph.call_module(name, args)
