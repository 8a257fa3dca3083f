"""A convolution as a matrix: each output is a weighted sum of what its window reads, and of a 1 for the bias."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

__all__ = [
    "Convolution",
    "as_matrix",
    "called_once",
    "gradient_as_matrix",
    "has_linear_form",
    "places_as_index",
    "read_rows",
    "sample_places",
    "set_matrix",
]

SALIENT = 0.5  # share of the places taken from where a network answers most
TOP = 0.02  # which are these: the share of a plane with the highest answers

Convolution = nn.Conv2d | nn.ConvTranspose2d


def has_linear_form(module: nn.Module) -> bool:
    """Whether the functions here apply: a convolution without groups; a transposed one with windows that lie apart."""
    if isinstance(module, nn.ConvTranspose2d):
        apart = module.kernel_size == module.stride and not any((*module.padding, *module.output_padding))
        return module.groups == 1 and apart and module.dilation == (1, 1)
    return isinstance(module, nn.Conv2d) and module.groups == 1 and module.padding_mode == "zeros"


def called_once(network: nn.Module, value: Tensor) -> list[tuple[str, Convolution]]:
    """Convolutions of linear form that a network calls once, in the order in which they compute."""
    order: list[str] = []
    layers = {name: module for name, module in network.named_modules() if isinstance(module, Convolution)}
    hooks = [
        module.register_forward_hook(lambda _m, _i, _o, name=name: order.append(name))
        for name, module in layers.items()
    ]
    try:
        with torch.no_grad():
            network(value)
    finally:
        for hook in hooks:
            hook.remove()
    return [(name, layers[name]) for name in order if order.count(name) == 1 and has_linear_form(layers[name])]


def as_matrix(layer: Convolution) -> Tensor:
    """A copy of the weights, (taps, outputs), and a last row with the biases if there are any.

    Taps are counted as (input channel, row, column); those of a transposed convolution as (row, column, input
    channel), since each output pixel reads one input pixel with the weights of its phase.
    """
    return _joined(layer, layer.weight.detach(), None if layer.bias is None else layer.bias.detach()).clone()


def gradient_as_matrix(layer: Convolution) -> Tensor | None:
    """The gradients in the form of :func:`as_matrix`; None when there are none yet."""
    if layer.weight.grad is None:
        return None
    return _joined(layer, layer.weight.grad, None if layer.bias is None else layer.bias.grad)


def set_matrix(layer: Convolution, matrix: Tensor) -> None:
    """Give a convolution the weights, and the biases, of a matrix as :func:`as_matrix` makes them."""
    weight = (matrix if layer.bias is None else matrix[:-1]).T
    if isinstance(layer, nn.ConvTranspose2d):
        ins, outs, rows, columns = layer.weight.shape
        weight = weight.reshape(outs, rows, columns, ins).permute(3, 0, 1, 2)
    with torch.no_grad():
        layer.weight.copy_(weight.reshape(layer.weight.shape))
        if layer.bias is not None:
            layer.bias.copy_(matrix[-1])


def read_rows(layer: Convolution, entered: Tensor, places: Tensor) -> Tensor:
    """What the outputs at some places are weighted sums of.

    Args:
        layer: Of linear form.
        entered: (1, channels, height, width) what it reads.
        places: (samples, 2) rows and columns of its output, as shares of the plane.

    Returns:
        (samples, taps) in the dtype of ``entered``, and a last column of ones if the layer has biases: times
        :func:`as_matrix` it is the output there.
    """
    if isinstance(layer, nn.ConvTranspose2d):
        rows, columns = layer.stride[0], layer.stride[1]
        y, x = _coordinates(places, entered.shape[-2] * rows, entered.shape[-1] * columns)
        phase = (y % rows) * columns + x % columns
        read = entered[0][:, y // rows, x // columns]
        taps = torch.cat([read * (phase == number) for number in range(rows * columns)]).T
    else:
        taps = _window_rows(layer, entered, places)
    return taps if layer.bias is None else torch.cat([taps, taps.new_ones(len(taps), 1)], dim=1)


def sample_places(
    network: Callable[[Tensor], Tensor], value: Tensor, samples: int, generator: torch.Generator
) -> Tensor:
    """(samples, 2) rows and columns as shares of the plane, half of them where a network answers most."""
    with torch.no_grad():
        answer = network(value)[0].amax(0)
    height, width = answer.shape
    top = answer.flatten().topk(max(int(TOP * answer.numel()), 1)).indices
    salient = top[torch.randint(len(top), (int(SALIENT * samples),), generator=generator)]
    anywhere = torch.randint(height * width, (samples - len(salient),), generator=generator)
    index = torch.cat([salient, anywhere])
    middle = torch.stack([index // width, index % width], dim=1).double() + 0.5
    return middle / torch.tensor([height, width], dtype=torch.float64)


def places_as_index(places: Tensor, plane: Sequence[int]) -> Tensor:
    """(samples,) index into a flattened plane of (height, width)."""
    y, x = _coordinates(places, *plane)
    return y * plane[1] + x


def _coordinates(places: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    return (places[:, 0] * height).long(), (places[:, 1] * width).long()


def _window_rows(layer: nn.Conv2d, entered: Tensor, places: Tensor) -> Tensor:
    (up, down), (left, right) = _pads(layer)
    padded = nn.functional.pad(entered, (left, right, up, down))[0]
    spans = [step * (size - 1) for step, size in zip(layer.dilation, layer.kernel_size, strict=True)]
    height, width = (
        (size - span - 1) // stride + 1
        for size, span, stride in zip(padded.shape[-2:], spans, layer.stride, strict=True)
    )
    y, x = _coordinates(places, height, width)
    taps = [
        padded[:, y * layer.stride[0] + row * layer.dilation[0], x * layer.stride[1] + column * layer.dilation[1]]
        for row in range(layer.kernel_size[0])
        for column in range(layer.kernel_size[1])
    ]
    return torch.stack(taps, dim=1).flatten(0, 1).T


def _pads(layer: nn.Conv2d) -> list[tuple[int, int]]:
    """(before, after) along rows and along columns."""
    if layer.padding == "valid":
        return [(0, 0), (0, 0)]
    if isinstance(layer.padding, str):  # "same": what is odd goes behind, as in torch
        totals = [step * (size - 1) for step, size in zip(layer.dilation, layer.kernel_size, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(pad, pad) for pad in layer.padding]


def _joined(layer: Convolution, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(layer, nn.ConvTranspose2d):  # (in, out, rows, columns)
        weight = weight.permute(1, 2, 3, 0)
    matrix = weight.flatten(1)
    return (matrix if bias is None else torch.cat([matrix, bias[:, None]], dim=1)).T
