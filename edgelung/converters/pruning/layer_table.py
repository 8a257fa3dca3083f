"""What a cut saves on the NPU, layer by layer: time, only bytes, or neither."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from edgelung.boards.layers import BLOCK_BYTES, Kernel, blocks, channels_per_block, convolution_cycles
from edgelung.converters.pruning.channel_groups import Layer, is_transposed
from edgelung.errors import InputError

__all__ = ["DTYPES", "LayerCost", "LayerCut", "Verdict", "compare_layers", "layer_rows"]

Verdict = Literal["time", "bytes", "neither"]
DTYPES = ("INT8", "FLOAT16")


@dataclass(frozen=True)
class LayerCost:
    """What one convolution costs in one arithmetic.

    Attributes:
        cycles: NPU cycles on one core.
        weight_bytes: Of its weight, without padding and bias.
        output_blocks: 16-byte blocks of the map that it makes, which the layers behind it have to move.
    """

    cycles: int
    weight_bytes: int
    output_blocks: int


@dataclass(frozen=True)
class LayerCut:
    """One convolution before and after pruning.

    Attributes:
        name: In the network.
        channels_in: (before, after).
        channels_out: (before, after).
        costs: By arithmetic, one of ``DTYPES``: (before, after).
    """

    name: str
    channels_in: tuple[int, int]
    channels_out: tuple[int, int]
    costs: dict[str, tuple[LayerCost, LayerCost]]

    def verdict(self, dtype: str) -> Verdict:
        """``time``: fewer NPU cycles, or fewer blocks to move by the layers behind; ``bytes``: only smaller weights."""
        before, after = self.costs[dtype]
        if after.cycles < before.cycles or after.output_blocks < before.output_blocks:
            return "time"
        return "bytes" if after.weight_bytes < before.weight_bytes else "neither"


def compare_layers(before: nn.Module, after: nn.Module, example: Tensor) -> tuple[LayerCut, ...]:
    """The convolutions of two networks that differ only in widths.

    Args:
        before: Left as it is, as is ``after``.
        after: With the same names of layers.
        example: (1, C, height, width) of the size that is compiled; the values do not matter.

    Raises:
        InputError: If a network does not run on the example.

    Returns:
        In the order in which they are computed. A layer that is called twice counts twice in its cycles.
    """
    old, new = _costs(before, example), _costs(after, example)
    return tuple(
        LayerCut(
            name,
            (old[name][0].in_channels, new[name][0].in_channels),
            (old[name][0].out_channels, new[name][0].out_channels),
            {dtype: (old[name][1][dtype], new[name][1][dtype]) for dtype in DTYPES},
        )
        for name in old
    )


def layer_rows(layers: tuple[LayerCut, ...], dtype: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of a text table, the last row with the sums.

    Args:
        layers: Of :func:`compare_layers`.
        dtype: ``INT8`` or ``FLOAT16``.
    """
    header = ("layer", "in", "out", "weight bytes", "output blocks", "NPU kcycles", "saves")
    pairs = [(layer, *layer.costs[dtype]) for layer in layers]
    rows = [
        (layer.name, _arrow(*layer.channels_in), _arrow(*layer.channels_out), *_cells(old, new), layer.verdict(dtype))
        for layer, old, new in pairs
    ]
    return header, [
        *rows,
        ("all", "", "", *_cells(_sum(old for _, old, _ in pairs), _sum(new for _, _, new in pairs)), ""),
    ]


def _sum(costs: Iterable[LayerCost]) -> LayerCost:
    listed = list(costs)
    return LayerCost(
        sum(cost.cycles for cost in listed),
        sum(cost.weight_bytes for cost in listed),
        sum(cost.output_blocks for cost in listed),
    )


def _cells(old: LayerCost, new: LayerCost) -> tuple[str, str, str]:
    return (
        _arrow(old.weight_bytes, new.weight_bytes),
        _arrow(old.output_blocks, new.output_blocks),
        _arrow(old.cycles / 1e3, new.cycles / 1e3),
    )


def _arrow(old: float, new: float) -> str:
    return f"{old:.0f}" if old == new else f"{old:.0f} -> {new:.0f}"


def _costs(model: nn.Module, example: Tensor) -> dict[str, tuple[_ConvNd, dict[str, LayerCost]]]:
    still = copy.deepcopy(model).eval()
    found: dict[str, tuple[_ConvNd, dict[str, LayerCost]]] = {}
    for name, module in still.named_modules():
        if isinstance(module, _ConvNd):

            def note(layer: Layer, _inputs: object, output: Tensor, name: str = name) -> None:
                costs = {dtype: _cost(layer, tuple(output.shape), dtype) for dtype in DTYPES}
                found[name] = (layer, costs)

            module.register_forward_hook(note)
    try:
        with torch.inference_mode():
            still(example)
    except (RuntimeError, TypeError, ValueError) as error:
        text = (str(error).splitlines() or [""])[0]
        problem = f"the network cannot run on a plane of {' x '.join(map(str, example.shape[2:]))}: {text}"
        raise InputError(problem, field="plane", hint="height and width are multiples of its stride") from error
    return found


def _cost(layer: Layer, shape: tuple[int, ...], dtype: str) -> LayerCost:
    stride = math.prod(layer.stride) ** (1 / len(layer.stride))
    kernel = Kernel(
        tuple(layer.kernel_size),
        layer.in_channels,
        layer.out_channels,
        layer.groups,
        1 / stride if is_transposed(layer) else stride,
    )
    weight_bytes = layer.weight.numel() * BLOCK_BYTES // channels_per_block(dtype)
    return LayerCost(convolution_cycles(kernel, shape[2:], dtype), weight_bytes, blocks(shape, dtype))
