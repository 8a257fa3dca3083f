"""What a dropped channel added on average, moved into the biases of the layers that read it.

A channel behind Conv, ReLU and BatchNorm is its BatchNorm's shift even where the ReLU is 0. Taking the channel out
takes this constant out of every layer that reads it. What is left of the channel without its mean is all that pruning
really loses.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgelung.converters.pruning.channel_groups import ChannelGraph, Consumer, Layer, is_transposed
from edgelung.errors import InputError

__all__ = ["InputStatistics", "drop_inputs", "measure_inputs"]


@dataclass(frozen=True, eq=False)
class InputStatistics:
    """What a layer reads.

    Attributes:
        mean: (in_channels,) float64, over batches and planes.
        variance: Likewise.
    """

    mean: Tensor
    variance: Tensor


def measure_inputs(
    model: nn.Module, names: Iterable[str], inputs: Sequence[Tensor], *, by_statistics: bool = False
) -> dict[str, InputStatistics]:
    """Mean and variance of every input channel of some layers.

    Args:
        model: Left as it is; run in eval mode.
        names: Convolutions and linear layers.
        inputs: Each as the network eats it, in its dtype.
        by_statistics: Every BatchNorm gives its shift everywhere instead of what it computes: that is its mean over
            the data that its statistics were gathered on. Then the inputs' values matter only before the first
            BatchNorm.

    Returns:
        By name of the layer.

    Raises:
        InputError: If the network does not run on an input.
    """
    still = copy.deepcopy(model).eval()
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for name in dict.fromkeys(names):
        layer = still.get_submodule(name)
        axis = -1 if isinstance(layer, nn.Linear) else 1

        def add(_layer: nn.Module, values: tuple[Tensor, ...], name: str = name, axis: int = axis) -> None:
            value = values[0].detach().movedim(axis, 0).flatten(1).double()
            moments = torch.stack([value.sum(dim=1), value.square().sum(dim=1)])
            sums[name] = sums.get(name, 0) + moments
            counts[name] = counts.get(name, 0) + value.shape[1]

        layer.register_forward_pre_hook(add)
    if by_statistics:
        for module in still.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                module.register_forward_hook(_answer_with_shift)
    with torch.inference_mode():
        for value in inputs:
            try:
                still(value)
            except (RuntimeError, TypeError, ValueError) as error:
                text = (str(error).splitlines() or [""])[0]
                problem = f"the network cannot run on an input of shape {tuple(value.shape)}: {text}"
                hint = "inputs have the shape that the spec gives, height and width multiples of the network's stride"
                raise InputError(problem, field="calibration", hint=hint) from error
    moments = {name: total / counts[name] for name, total in sums.items()}
    return {
        name: InputStatistics(mean, (square - mean.square()).clamp(min=0)) for name, (mean, square) in moments.items()
    }


def drop_inputs(
    model: nn.Module, graph: ChannelGraph, consumer: Consumer, dropped: Sequence[int], means: Tensor | None
) -> None:
    """Let a layer no longer read some channels of a group, and add what they added on average.

    ::

        b' = b + sum over taps and dropped channels of W mean

    That is exact where a channel was constant and the window does not reach into zero padding. In a transposed
    convolution with stride each output pixel meets only some of the taps; its bias gets the mean over the pixels'
    phases. A layer without a bias that a BatchNorm follows has it taken from the BatchNorm's running mean; another
    one gets a bias.

    Args:
        model: Changed in place.
        graph: Of the same network, not cut yet.
        consumer: The layer.
        dropped: Channels of the group.
        means: (in_channels,) of the layer; None adds nothing.
    """
    layer: Layer = model.get_submodule(consumer.name)
    indices = torch.tensor(consumer.reads(dropped), dtype=torch.long)
    axis = 0 if is_transposed(layer) else 1
    with torch.no_grad():
        weight: Tensor = layer.weight
        if means is not None and len(indices):
            gone = weight.index_select(axis, indices).double().movedim(axis, 1)
            gone = gone.reshape(*gone.shape[:2], -1).sum(dim=2)
            phases = math.prod(layer.stride) if is_transposed(layer) else 1
            _add_to_output(layer, graph.sole_batchnorm(consumer.name), gone @ means[indices] / phases)
        weight.index_fill_(axis, indices, 0)


def _add_to_output(layer: Layer, norm: _BatchNorm | None, addend: Tensor) -> None:
    weight: Tensor = layer.weight
    addend = addend.to(weight.dtype)
    if layer.bias is not None:
        layer.bias.add_(addend)
    elif norm is not None and norm.running_mean is not None:
        norm.running_mean.sub_(addend)
    else:
        layer.bias = nn.Parameter(addend, requires_grad=weight.requires_grad)


def _answer_with_shift(norm: _BatchNorm, _inputs: object, output: Tensor) -> Tensor:
    shift = torch.zeros(output.shape[1], dtype=output.dtype) if norm.bias is None else norm.bias
    return shift.view(1, -1, *[1] * (output.ndim - 2)).expand_as(output)
