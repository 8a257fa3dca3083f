"""Weights of a pruned network by least squares: every layer is to give what it gave before, from what is left to it.

A pruned layer reads fewer channels, and those that stay correlate with those that went. Layer by layer from the input
on, with everything before it as it is in the pruned network, the weights and biases are solved for that make its
outputs those of the same channels of the original (He, Zhang and Sun, ICCV 2017, eq. 4). That is a linear problem, so
there is no learning rate and nothing to diverge. Outputs that a ReLU makes 0 only have to stay below 0 (Zhang et al.,
2016, section 3.2): they are solved for again with what they came out as.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from edgelung.converters.passes.graph import is_relu, sole_user
from edgelung.errors import ConversionError

__all__ = ["LayerFit", "reconstruct"]

RIDGE = 1e-4  # of the mean square of each input, pulling to the weights that were there
ROUNDS = 3  # of the solution behind a ReLU; the third changes the error by less than 0.03 (docs/pruning.md)
SALIENT = 0.5  # share of the pixels taken from where the original answers most
TOP = 0.02  # which are these: the share of a plane with the highest answers
_Convolution = (nn.Conv2d, nn.ConvTranspose2d)


@dataclass(frozen=True)
class LayerFit:
    """How near a layer comes to the original's.

    Attributes:
        name: Of the layer.
        before: Squared error of its outputs over their variance, as it was cut; behind a ReLU, if there is one.
        after: The same with the new weights.
    """

    name: str
    before: float
    after: float


def reconstruct(
    original: nn.Module,
    pruned: nn.Module,
    kept: Mapping[str, Sequence[int]],
    inputs: Sequence[Tensor],
    *,
    seed: int = 0,
    samples: int = 6000,
    tick: Callable[[int, int], None] | None = None,
) -> tuple[LayerFit, ...]:
    """Solve for the weights of every convolution of a pruned network, in place, in the order in which they compute.

    Convolutions in groups and transposed ones whose windows overlap are left as they are.

    Args:
        original: In eval mode, in float32.
        pruned: The same with fewer channels, in eval mode.
        kept: By layer, the indices of its output channels that stayed.
        inputs: (1, C, height, width) float32 each, in the unit of the network.
        seed: Of the choice of pixels.
        samples: Pixels of each input that the error is summed over, half of them where the original answers most.
        tick: Called with (layers done, layers in all).

    Raises:
        ConversionError: If there are no inputs, or an output is not finite.
    """
    if not inputs:
        raise ConversionError("reconstruct", "there are no inputs to fit the weights to")
    names = [name for name, module in _called(pruned, inputs[0]) if _solvable(module)]
    rectified = _rectified(pruned)
    generator = torch.Generator().manual_seed(seed)
    places = [_places(original, value, samples, generator) for value in inputs]
    wanted = _outputs(original, names, kept, inputs, places)
    fits = []
    for done, name in enumerate(names, 1):
        layer = pruned.get_submodule(name)
        if not isinstance(layer, _Convolution):
            raise TypeError(f"{name} is no convolution")
        rows = torch.cat([_rows(pruned, layer, value, place) for value, place in zip(inputs, places, strict=True)])
        fits.append(_fit(layer, name, rows.double(), torch.cat(wanted[name]).double(), name in rectified))
        if tick is not None:
            tick(done, len(names))
    return tuple(fits)


def _fit(layer: nn.Conv2d | nn.ConvTranspose2d, name: str, rows: Tensor, wanted: Tensor, rectified: bool) -> LayerFit:
    """Ridge regression around the weights that are there."""
    start = _as_matrix(layer)
    scale = rows.square().mean(0).sqrt().clamp_min(1e-6)
    scaled = rows / scale
    gram = scaled.T @ scaled / len(scaled) + RIDGE * torch.eye(len(scale), dtype=scaled.dtype)
    factor = torch.linalg.cholesky(gram)
    passed: Callable[[Tensor], Tensor] = (lambda value: value.clamp_min(0)) if rectified else (lambda value: value)
    spread = (passed(wanted) - passed(wanted).mean(0)).square().sum().clamp_min(1e-12)

    def error(solution: Tensor) -> float:
        return float((passed(rows @ solution) - passed(wanted)).square().sum() / spread)

    target, best = wanted, start
    for _ in range(ROUNDS if rectified else 1):
        residual = target - rows @ start
        solution = start + torch.cholesky_solve(scaled.T @ residual / len(scaled), factor) / scale[:, None]
        if error(solution) < error(best):
            best = solution
        target = torch.where(wanted < 0, (rows @ solution).clamp_max(0), wanted)
    fit = LayerFit(name, error(start), error(best))
    if not bool(torch.isfinite(best).all()):
        raise ConversionError("reconstruct", f"{name} cannot be fitted: its inputs or outputs are not finite")
    _set_matrix(layer, best)
    return fit


def _rows(network: nn.Module, layer: nn.Conv2d | nn.ConvTranspose2d, value: Tensor, place: Tensor) -> Tensor:
    """(samples, taps + 1) what each sampled output of a layer is the weighted sum of, and a 1 for the bias."""
    entered = _enter(network, layer, value)
    if isinstance(layer, nn.Conv2d):
        taps = nn.functional.unfold(entered, layer.kernel_size, layer.dilation, _pads(layer), layer.stride)[0]
        height, width = _plane(layer, entered)
        chosen = taps[:, _index(place, height, width)].T
    else:
        rows, columns = layer.stride[0], layer.stride[1]
        height, width = entered.shape[-2] * rows, entered.shape[-1] * columns
        index = _index(place, height, width)
        y, x = index // width, index % width
        phase = (y % rows) * columns + x % columns
        read = entered[0][:, y // rows, x // columns]
        chosen = torch.cat([read * (phase == number) for number in range(rows * columns)]).T
    return torch.cat([chosen, chosen.new_ones(len(chosen), 1)], dim=1)


def _as_matrix(layer: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    weight = layer.weight.detach().double()
    if isinstance(layer, nn.ConvTranspose2d):  # (in, out, rows, columns): one row of the matrix per phase and input
        weight = weight.permute(1, 2, 3, 0)
    bias = torch.zeros(len(weight)).double() if layer.bias is None else layer.bias.detach().double()
    return torch.cat([weight.flatten(1), bias[:, None]], dim=1).T


def _set_matrix(layer: nn.Conv2d | nn.ConvTranspose2d, matrix: Tensor) -> None:
    weight = matrix[:-1].T
    if isinstance(layer, nn.ConvTranspose2d):
        ins, outs, rows, columns = layer.weight.shape
        weight = weight.reshape(outs, rows, columns, ins).permute(3, 0, 1, 2)
    with torch.no_grad():
        layer.weight.copy_(weight.reshape(layer.weight.shape))
        if layer.bias is not None:
            layer.bias.copy_(matrix[-1])


def _outputs(
    model: nn.Module,
    names: Sequence[str],
    kept: Mapping[str, Sequence[int]],
    inputs: Sequence[Tensor],
    places: Sequence[Tensor],
) -> dict[str, list[Tensor]]:
    """By layer, for each input, (samples, channels kept) outputs of the original."""
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    current = [places[0]]

    def keep(name: str, output: Tensor) -> None:
        height, width = output.shape[-2:]
        index = _index(current[0], height, width)
        found[name].append(output[0].flatten(1)[list(kept[name])][:, index].T.clone())

    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _m, _i, output, name=name: keep(name, output))
        for name in names
    ]
    try:
        with torch.no_grad():
            for value, current[0] in zip(inputs, places, strict=True):
                model(value)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _places(model: nn.Module, value: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """(samples, 2) rows and columns as shares of the plane."""
    with torch.no_grad():
        answer = model(value)[0].amax(0)
    height, width = answer.shape
    top = answer.flatten().topk(max(int(TOP * answer.numel()), 1)).indices
    salient = top[torch.randint(len(top), (int(SALIENT * samples),), generator=generator)]
    anywhere = torch.randint(height * width, (samples - len(salient),), generator=generator)
    index = torch.cat([salient, anywhere])
    middle = torch.stack([index // width, index % width], dim=1).double() + 0.5
    return middle / torch.tensor([height, width], dtype=torch.float64)


def _index(place: Tensor, height: int, width: int) -> Tensor:
    return (place[:, 0] * height).long() * width + (place[:, 1] * width).long()


class _ReachedError(Exception):
    pass


def _enter(network: nn.Module, layer: nn.Module, value: Tensor) -> Tensor:
    """What a layer reads; nothing behind it is computed."""
    read: list[Tensor] = []

    def stop(_layer: nn.Module, values: tuple[Tensor, ...]) -> None:
        read.append(values[0])
        raise _ReachedError

    hook = layer.register_forward_pre_hook(stop)
    try:
        with torch.no_grad():
            network(value)
    except _ReachedError:
        pass
    finally:
        hook.remove()
    return read[0]


def _called(network: nn.Module, value: Tensor) -> list[tuple[str, nn.Module]]:
    """Convolutions in the order in which they compute, those called once."""
    order: list[str] = []
    named = [(name, module) for name, module in network.named_modules() if isinstance(module, _Convolution)]
    hooks = [module.register_forward_hook(lambda _m, _i, _o, name=name: order.append(name)) for name, module in named]
    try:
        with torch.no_grad():
            network(value)
    finally:
        for hook in hooks:
            hook.remove()
    layers = dict(named)
    return [(name, layers[name]) for name in order if order.count(name) == 1]


def _solvable(module: nn.Module) -> bool:
    if isinstance(module, nn.ConvTranspose2d):
        apart = module.kernel_size == module.stride and not any((*module.padding, *module.output_padding))
        return module.groups == 1 and apart and module.dilation == (1, 1)
    return isinstance(module, nn.Conv2d) and module.groups == 1 and module.padding_mode == "zeros"


def _pads(layer: nn.Conv2d) -> tuple[int, ...]:
    if layer.padding == "same":
        return tuple(
            dilation * (size - 1) // 2 for dilation, size in zip(layer.dilation, layer.kernel_size, strict=True)
        )
    return (0, 0) if isinstance(layer.padding, str) else tuple(layer.padding)


def _plane(layer: nn.Conv2d, entered: Tensor) -> tuple[int, int]:
    sizes = [
        (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
        for size, pad, dilation, kernel, stride in zip(
            entered.shape[-2:], _pads(layer), layer.dilation, layer.kernel_size, layer.stride, strict=True
        )
    ]
    return sizes[0], sizes[1]


def _rectified(model: nn.Module) -> set[str]:
    """Layers that only a ReLU reads; none in a network that cannot be followed."""
    try:
        network = fx.symbolic_trace(copy.deepcopy(model).eval())
    except Exception:  # whatever the user's forward raises when it is handed proxies: only a refinement is lost
        return set()
    calls = [node for node in network.graph.nodes if node.op == "call_module"]
    return {str(node.target) for node in calls if is_relu(network, sole_user(node))}
