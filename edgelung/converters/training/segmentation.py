"""A plain training loop for segmentation networks that give probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

import torch
from monai.losses.dice import DiceLoss
from torch import Tensor, nn

from edgelung.errors import ConversionError

__all__ = ["segmentation_loss", "train_segmentation"]

ENTROPY_WEIGHT = 5.0  # nodule pixels are some percent of a crop: this brings both terms to one size


def segmentation_loss(probability: Tensor, mask: Tensor, recall_weight: float) -> Tensor:
    """Soft Dice of the whole batch plus pixelwise cross-entropy.

    One Dice over the batch (MONAI's ``DiceLoss(batch=True)``), because a Dice of its own for a crop without nodules is
    flat wherever the network is wrong; cross-entropy pulls at every such pixel. The weight multiplies the cross-entropy
    of nodule pixels, so it trades precision for recall.

    Args:
        probability: (batch, slices, height, width) in 0..1.
        mask: The same shape, 0 or 1.
        recall_weight: Weight of nodule pixels, 1 for none.

    Returns:
        A scalar.
    """
    weight = 1 + (recall_weight - 1) * mask
    entropy = nn.functional.binary_cross_entropy(probability, mask, weight=weight)
    dice: Tensor = DiceLoss(batch=True)(probability, mask)
    return dice + ENTROPY_WEIGHT * entropy


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
        ConversionError: When the network stops giving numbers.
    """
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    losses: list[float] = []
    model.train()
    for inputs, masks in islice(batches, steps):
        probability = model(inputs.to(device))
        if not torch.isfinite(probability).all():
            raise ConversionError(
                "training", f"the network gives no numbers at step {len(losses) + 1}", hint="lower the learning rate"
            )
        loss = segmentation_loss(probability, masks.to(device), recall_weight)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if progress is not None:
            progress(len(losses), steps, losses[-1])
    model.eval()
    return losses
