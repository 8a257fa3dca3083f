"""Weights of a pruned network by least squares: every layer is to give what it gave before, from what is left to it.

A pruned layer reads fewer channels, and those that stay correlate with those that went. Layer by layer from the input
on, with everything before it as it is in the pruned network, the weights and biases are solved for that make its
outputs those of the same channels of the original (He, Zhang and Sun, ICCV 2017, eq. 4). That is a linear problem, so
there is no learning rate and nothing to diverge. Outputs that a ReLU makes 0 only have to stay below 0 (Zhang et al.,
2016, section 3.2): they are solved for again with what they came out as.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgelung.converters.passes.graph import is_relu, sole_user, trace
from edgelung.converters.pruning.linear_form import (
    Convolution,
    as_matrix,
    called_once,
    places_as_index,
    read_rows,
    sample_places,
    set_matrix,
)
from edgelung.errors import ConversionError

__all__ = ["LayerFit", "reconstruct"]

RIDGE = 1e-4  # of the mean square of each input, pulling to the weights that were there
ROUNDS = 3  # of the solution behind a ReLU; the third changes the error by less than 0.03 (docs/pruning.md)


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
    layers = called_once(pruned, inputs[0])
    rectified = _rectified(pruned, inputs[0])
    generator = torch.Generator().manual_seed(seed)
    places = [sample_places(original, value, samples, generator) for value in inputs]
    wanted = _outputs(original, [name for name, _ in layers], kept, inputs, places)
    fits = []
    for done, (name, layer) in enumerate(layers, 1):
        entered = (_enter(pruned, layer, value) for value in inputs)
        rows = torch.cat([read_rows(layer, read, place) for read, place in zip(entered, places, strict=True)])
        fits.append(_fit(layer, name, rows.double(), torch.cat(wanted[name]).double(), name in rectified))
        if tick is not None:
            tick(done, len(layers))
    return tuple(fits)


def _fit(layer: Convolution, name: str, rows: Tensor, wanted: Tensor, rectified: bool) -> LayerFit:
    """Ridge regression around the weights that are there."""
    start = as_matrix(layer).double()
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
    set_matrix(layer, best)
    return fit


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
        index = places_as_index(current[0], output.shape[-2:])
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


def _rectified(model: nn.Module, example: Tensor) -> set[str]:
    """Layers that only a ReLU reads; none in a network that cannot be followed."""
    try:
        network = trace(model, example)
    except ConversionError:  # only a refinement is lost
        return set()
    calls = [node for node in network.graph.nodes if node.op == "call_module"]
    return {str(node.target) for node in calls if is_relu(network, sole_user(node))}
