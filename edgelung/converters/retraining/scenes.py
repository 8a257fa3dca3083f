"""What a network is retrained on: CTs of which some of the truth is known, and what the original says to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgelung.errors import InputError

__all__ = ["Scene"]


@dataclass(frozen=True, eq=False)
class Scene:
    """One CT to retrain on.

    Attributes:
        hu: (depth, height, width) Hounsfield units, axial, depth towards superior.
        mask: (depth, height, width) bool, nodule.
        known: (depth, height, width) bool, where the mask is the truth. Elsewhere nobody marked nodules, and the
            original's answer is all there is.
        firsts: First answered slice of every run that may be trained on, in ascending order.
        teacher: (len(firsts), outputs, height, width) float16 logits of the original to those runs; None where the
            truth is known everywhere and the original is not asked.
    """

    hu: npt.NDArray[Any]
    mask: npt.NDArray[np.bool_]
    known: npt.NDArray[np.bool_]
    firsts: npt.NDArray[np.int64]
    teacher: npt.NDArray[np.float16] | None = None

    def __post_init__(self) -> None:
        if self.mask.shape != self.hu.shape or self.known.shape != self.hu.shape or not len(self.firsts):
            raise InputError("a scene needs masks of its own shape and slices to train on")
