"""A network on whole slices that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from edgelung.converters.datasets import WholeSlices
from edgelung.converters.training.metrics import PixelCounts

__all__ = ["THRESHOLD", "Validation", "validate"]

THRESHOLD = 0.5


@dataclass(frozen=True)
class Validation:
    """What one validation found.

    Attributes:
        step: Batches trained on before it.
        loss: Mean training loss since the validation before.
        grown: Pixels against masks grown from annotations, on all slices.
        exact: Pixels against exact masks, on those slices that have one; None when none has.
    """

    step: int
    loss: float
    grown: PixelCounts
    exact: PixelCounts | None = None


def validate(
    fabric: Fabric, model: nn.Module, slices: WholeSlices, tick: Callable[[int, int], None] | None = None
) -> tuple[PixelCounts, PixelCounts | None]:
    """Count pixels at a probability of 0.5, each process on its share of the slices.

    Args:
        fabric: Where to compute.
        model: The bare network, on its device; is left in evaluation mode.
        slices: To answer for.
        tick: Called with (slices done, slices in all) of this process.

    Returns:
        Counts of all processes together, against grown and against exact masks.
    """
    model.eval()
    grown = exact = PixelCounts()
    numbers = range(fabric.global_rank, len(slices), fabric.world_size)
    for done, number in enumerate(numbers, start=1):
        sample = slices[number]
        marked = mark(fabric, model, torch.from_numpy(sample.values))
        grown += PixelCounts.of(marked, torch.from_numpy(sample.mask))
        if sample.exact is not None:
            exact += PixelCounts.of(marked, torch.from_numpy(sample.exact))
        if tick is not None:
            tick(done, len(numbers))
    grown, exact = _of_all(fabric, grown), _of_all(fabric, exact)
    return grown, exact if exact.label else None


def mark(fabric: Fabric, model: nn.Module, values: Tensor) -> Tensor:
    """(1, outputs, height, width) bool on the CPU: what the network marks, from (1, slices, height, width) input."""
    with torch.inference_mode(), fabric.autocast():
        found: Tensor = model(fabric.to_device(values)) >= THRESHOLD
    return found.cpu()


def _of_all(fabric: Fabric, counts: PixelCounts) -> PixelCounts:
    own = torch.tensor([counts.hit, counts.missed, counts.invented], dtype=torch.float64, device=fabric.device)
    total = fabric.all_reduce(own, reduce_op="sum")
    hit, missed, invented = (int(value) for value in total)
    return PixelCounts(hit, missed, invented)
