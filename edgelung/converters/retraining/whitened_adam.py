"""Adam in coordinates in which what each convolution reads is white, so that a few minutes of training go far.

A convolution is a matrix M of weights over rows r of what its windows read (``pruning/linear_form.py``). Where channels
correlate, have other sizes, or a mean that is not 0, the loss is steep along few directions of M and flat along the
others, and one rate does not suit both. With C the mean of r r^T over calibration inputs and P = C^-1/2, the
coordinates V = P^-1 M see the rows P r, which are white (Desjardins et al., "Natural neural networks", NeurIPS 2015,
section 2.2). The network is the same; only the steps are others. docs/retraining.md has what that brings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgelung.converters.pruning.linear_form import (
    Convolution,
    as_matrix,
    called_once,
    gradient_as_matrix,
    read_rows,
    sample_places,
    set_matrix,
)

__all__ = ["WhitenedAdam", "read_moments"]

SAMPLES = 3000  # places of each input
LARGEST = 2304  # taps (3x3 of 256 channels) up to which a matrix of moments is worth its time
RIDGE = 0.01  # of a tap's own mean square: directions in which next to nothing is read are not blown up
QUIET = 0.01  # of all taps' root mean square: what was never read (a ReLU that is 0 everywhere) is not blown up either
LEAST_SIZE = 0.05  # of a tensor, for its rate: one that starts at 0 has to move


def read_moments(
    network: nn.Module, inputs: Sequence[Tensor], *, seed: int = 0, samples: int = SAMPLES
) -> dict[str, Tensor]:
    """Second moments of what the convolutions of a network read.

    Args:
        network: In eval mode.
        inputs: (1, C, height, width) float32 each, on the network's device.
        seed: Of the choice of places.
        samples: Places of each input, half of them where the network answers most.

    Returns:
        By layer, the mean of r r^T, (taps, taps) float64; without layers that are called twice, have groups or overlap
        (``has_linear_form``), or have too many taps.
    """
    layers = dict(called_once(network, inputs[0]))
    generator = torch.Generator().manual_seed(seed)
    sums: dict[str, Tensor] = {}
    places: list[Tensor] = []

    def add(name: str, layer: Convolution, entered: Tensor) -> None:
        if len(as_matrix(layer)) <= LARGEST:
            rows = read_rows(layer, entered.cpu(), places[-1]).double()
            sums[name] = sums.get(name, 0) + rows.T @ rows / (samples * len(inputs))

    for value in inputs:
        places.append(sample_places(network, value, samples, generator))
        hooks = [
            layer.register_forward_pre_hook(lambda own, values, name=name: add(name, own, values[0]))
            for name, layer in layers.items()
        ]
        try:
            with torch.no_grad():
                network(value)
        finally:
            for hook in hooks:
                hook.remove()
    return sums


class WhitenedAdam(torch.optim.Adam):
    """Adam over the whitened coordinates of convolutions, and over all other parameters as they are.

    Each coordinate matrix and each other parameter has a rate of its own, a share of its root mean square, because
    weights of one network differ in size by a factor of thousands (docs/retraining.md).

    Args:
        network: What is trained; its weights are rewritten at every step.
        moments: From :func:`read_moments`.
        rate: Share of a tensor's own size that a step is at most.

    Raises:
        ValueError: When nothing requires a gradient.
    """

    def __init__(self, network: nn.Module, moments: Mapping[str, Tensor], rate: float) -> None:
        self._whitened: list[tuple[Convolution, Tensor, nn.Parameter]] = []
        for name, moment in moments.items():
            layer = network.get_submodule(name)
            if isinstance(layer, Convolution) and all(part.requires_grad for part in layer.parameters()):
                basis = _whitening(moment)
                start = torch.linalg.solve(basis, as_matrix(layer).cpu().double())
                self._whitened.append((layer, basis.to(layer.weight), nn.Parameter(start.to(layer.weight))))
        taken = {id(part) for layer, _, _ in self._whitened for part in layer.parameters()}
        rest = [part for part in network.parameters() if part.requires_grad and id(part) not in taken]
        trained = [coordinates for _, _, coordinates in self._whitened] + rest
        super().__init__([{"params": [part], "lr": rate * _size(part)} for part in trained])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; gradients are taken from the layers, and weights written back to them."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for layer, basis, coordinates in self._whitened:
            gradient = gradient_as_matrix(layer)
            coordinates.grad = None if gradient is None else basis.T @ gradient
        super().step()
        for layer, basis, coordinates in self._whitened:
            set_matrix(layer, basis @ coordinates)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of the layers too."""
        super().zero_grad(set_to_none)
        for layer, _, _ in self._whitened:
            layer.zero_grad(set_to_none)


def _whitening(moment: Tensor) -> Tensor:
    """C^-1/2 of what is read in units of each tap's root mean square, symmetric in those units."""
    size = moment.diagonal().sqrt()
    size = size.clamp_min(QUIET * float(size.square().mean().sqrt()))
    values, vectors = torch.linalg.eigh(moment / size[:, None] / size[None, :])
    root: Tensor = vectors / (values.clamp_min(0) + RIDGE).sqrt() @ vectors.T
    return root / size[:, None]


def _size(tensor: Tensor) -> float:
    return max(float(tensor.detach().square().mean().sqrt()), LEAST_SIZE)
