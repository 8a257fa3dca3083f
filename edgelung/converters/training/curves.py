"""Curves and pictures for TensorBoard. Nothing of a patient is in a tag: pictures are numbered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from edgelung.converters.training.validation import Validation

__all__ = ["Curves", "overlay"]

WINDOW_HU = (-1200.0, 400.0)  # the usual lung window


class Curves:
    """Writes curves into a folder.

    Args:
        folder: TensorBoard's.
        step: Step that the training goes on from; what an interrupted run wrote beyond it is hidden.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=step)

    def losses(self, first_step: int, losses: list[float]) -> None:
        """The loss of each step."""
        for step, loss in enumerate(losses, start=first_step):
            self._writer.add_scalar("train/loss", loss, step)

    def validation(self, row: Validation) -> None:
        """Recall, precision, F1 and percentages, against each kind of mask there is."""
        for kind, counts in (("grown masks", row.grown), ("exact masks", row.exact)):
            if counts is None:
                continue
            rates = {"recall": counts.recall, "precision": counts.precision, "F1": counts.f1}
            for name, value in {**rates, **counts.percentages()}.items():
                self._writer.add_scalar(f"validation, {kind}/{name}", value, row.step)

    def picture(self, number: int, pixels: npt.NDArray[np.uint8], step: int) -> None:
        """One slice, as :func:`overlay` paints it."""
        self._writer.add_image(f"validation/slice {number}", pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


def overlay(hu: npt.NDArray[np.float32], marked: Tensor, mask: Tensor) -> npt.NDArray[np.uint8]:
    """A slice with hit pixels green, missed ones red and invented ones orange.

    Args:
        hu: (height, width) Hounsfield units.
        marked: (height, width) bool of the network.
        mask: (height, width) bool of the label.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    low, high = WINDOW_HU
    grey = np.clip((hu - low) / (high - low), 0, 1)[..., np.newaxis] * np.full(3, 255.0)
    found, wanted = marked.numpy(), mask.numpy()
    colors = ((found & wanted, (0, 255, 0)), (~found & wanted, (255, 0, 0)), (found & ~wanted, (255, 140, 0)))
    for place, color in colors:
        grey[place] = 0.5 * grey[place] + 0.5 * np.array(color)
    painted: npt.NDArray[np.uint8] = grey.astype(np.uint8)
    return painted
