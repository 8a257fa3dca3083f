"""A plain training loop for segmentation networks that give probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

import torch
from torch import Tensor, nn

from edgelung.errors import ConversionError

__all__ = ["segmentation_loss", "train_segmentation"]


def soft_dice_loss(probability: Tensor, mask: Tensor) -> Tensor:
    """One minus the soft Dice coefficient of each sample (Milletari et al., V-Net, 3DV 2016, with +1 smoothing).

    Args:
        probability: (batch, ...) in 0..1.
        mask: The same shape, 0 or 1.

    Returns:
        (batch,) losses in 0..1.
    """
    axes = tuple(range(1, probability.ndim))
    overlap = (probability * mask).sum(axes)
    return 1 - (2 * overlap + 1) / (probability.sum(axes) + mask.sum(axes) + 1)


def segmentation_loss(probability: Tensor, mask: Tensor, recall_weight: float) -> Tensor:
    """Soft Dice, plus ``recall_weight`` times the same where only the mask's own pixels count.

    The second term sees missed pixels alone, so its weight trades precision for recall.
    """
    missed = soft_dice_loss(probability * mask, mask)
    return (soft_dice_loss(probability, mask) + recall_weight * missed).mean()


def train_segmentation(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    steps: int,
    learning_rate: float = 1e-3,
    recall_weight: float = 2.0,
    progress: Callable[[int, int, float], None] | None = None,
) -> list[float]:
    """Train in place with Adam and a one-cycle learning rate.

    Args:
        model: Gives probabilities; is left in evaluation mode.
        batches: (inputs, masks), at least ``steps`` of them.
        steps: Batches to train on.
        learning_rate: Its peak.
        recall_weight: See :func:`segmentation_loss`.
        progress: Called with (steps done, steps in all, loss).

    Returns:
        The loss of every step.

    Raises:
        ConversionError: When the loss stops being a number.
    """
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    losses: list[float] = []
    model.train()
    for inputs, masks in islice(batches, steps):
        loss = segmentation_loss(model(inputs.to(device)), masks.to(device), recall_weight)
        if not torch.isfinite(loss):
            raise ConversionError("training", f"the loss is {loss.item()} at step {len(losses)}", hint="lower the rate")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if progress is not None:
            progress(len(losses), steps, losses[-1])
    model.eval()
    return losses
