"""What a retrained network is to make small: its distance from the original, and from the truth where it is known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgelung.converters.training.loop import Batch
from edgelung.converters.training.losses import segmentation_loss

__all__ = ["DistillationLoss", "LabelLoss"]

# In units of the temperature: nodules that are known get at least the one, what is known to be none at most the other.
NODULE, NO_NODULE = 1.5, -0.7
RETRAINED_RECALL_WEIGHT = 2.0  # the published 8 marks too much (docs/training.md); what is recovered knows nodules
UNSURE = -1.0  # above this a pixel is nodule, or might become it


@dataclass(frozen=True, eq=False)
class DistillationLoss:
    """Cross-entropy with the original's softened answer to the same crop, corrected where the truth is known.

    After Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network" (2015), with sigmoids.
    The mean over all pixels plus the mean over those that the original, the truth or the network itself take for
    nodule, or almost: they are few.

    Attributes:
        original: Gives logits; on the device of the batches.
        temperature: Both logits are divided by it.
    """

    original: nn.Module
    temperature: float

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """A scalar, 0 where the network says what it should."""
        inputs, mask, known = batch
        with torch.no_grad():
            wanted = self.original(inputs).float() / self.temperature
        logits = model(inputs).float() / self.temperature
        truth = torch.where(mask > 0, wanted.clamp_min(NODULE), wanted.clamp_max(NO_NODULE))
        wanted = torch.where(known > 0, truth, wanted)
        share = torch.sigmoid(wanted)
        entropy = nn.functional.binary_cross_entropy_with_logits(wanted, share, reduction="none")
        distance = nn.functional.binary_cross_entropy_with_logits(logits, share, reduction="none") - entropy
        salient = ((wanted > UNSURE) | (logits.detach() > UNSURE)).float()
        loss: Tensor = distance.mean() + (distance * salient).sum() / (salient.sum() + 1)
        return loss


@dataclass(frozen=True)
class LabelLoss:
    """The training loss, for data with labels: see ``SegmentationLoss``.

    Attributes:
        entropy_weight: Of the cross-entropy that keeps precision; see docs/training.md.
    """

    entropy_weight: float = 5.0

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """A scalar."""
        inputs, mask, _ = batch
        logits = model(inputs).float()
        entropy = nn.functional.binary_cross_entropy_with_logits(logits, mask)
        return segmentation_loss(torch.sigmoid(logits), mask, RETRAINED_RECALL_WEIGHT) + self.entropy_weight * entropy
