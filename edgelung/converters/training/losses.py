"""What segmentation networks are trained to make small."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from monai.losses.dice import DiceLoss
from torch import Tensor, nn

from edgelung.converters.training.loop import Batch

__all__ = ["SegmentationLoss", "segmentation_loss"]

RECALL_WEIGHT = 8.0  # as published: nodule pixels that are missed cost more than pixels marked by mistake
# One Dice of the whole batch: that of a crop without nodules is flat wherever the network is wrong.
_dice = DiceLoss(batch=True, smooth_nr=1.0, smooth_dr=1.0)


def segmentation_loss(probability: Tensor, mask: Tensor, recall_weight: float = RECALL_WEIGHT) -> Tensor:
    """``dice(p, y) + recall_weight * dice(p * y, y)`` with soft Dice losses.

    Args:
        probability: (batch, outputs, height, width) in 0..1.
        mask: The same shape, 0 or 1.
        recall_weight: Lower it to punish false positives more.

    Returns:
        A scalar in 0..1 + recall_weight.
    """
    overlap: Tensor = _dice(probability, mask)
    recall: Tensor = _dice(probability * mask, mask)
    return overlap + recall_weight * recall


@dataclass(frozen=True)
class SegmentationLoss:
    """:func:`segmentation_loss` of a network that gives probabilities, for the loop.

    Attributes:
        recall_weight: As there.
        entropy_weight: Of pixelwise cross-entropy that is added: for networks that know nothing yet, see
            docs/training.md.
    """

    recall_weight: float = RECALL_WEIGHT
    entropy_weight: float = 0.0

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """A scalar, of (inputs, masks)."""
        inputs, mask = batch
        # Squares of 300 x 300 ones do not add up in float16.
        probability = model(inputs).to(torch.float32)
        loss = segmentation_loss(probability, mask, self.recall_weight)
        if self.entropy_weight:
            loss = loss + self.entropy_weight * _cross_entropy(probability, mask)
        return loss


def _cross_entropy(probability: Tensor, mask: Tensor) -> Tensor:
    """Mean over pixels; NaN gives NaN, where torch's own raises a RuntimeError."""
    likelihood = 1 - (probability - mask).abs()
    return -likelihood.clamp_min(torch.finfo(likelihood.dtype).eps).log().mean()
