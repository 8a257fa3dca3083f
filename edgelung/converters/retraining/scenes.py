"""What a network is retrained on: CTs of which some of the truth is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgelung.errors import InputError

__all__ = ["Points", "Scene"]

Points = npt.NDArray[np.int64]


def _nowhere() -> Points:
    return np.empty((0, 3), np.int64)


@dataclass(frozen=True, eq=False)
class Scene:
    """One CT to retrain on.

    Attributes:
        hu: (depth, height, width) Hounsfield units, axial, depth towards superior.
        mask: (depth, height, width) bool, nodule.
        known: (depth, height, width) bool, where the mask is the truth. Elsewhere nobody marked nodules, and the
            original's answer is all there is.
        firsts: First answered slice of every run that may be trained on, in ascending order.
        marked: (n, 3) some of the pixels that the original marks: index in ``firsts``, row, column.
    """

    hu: npt.NDArray[Any]
    mask: npt.NDArray[np.bool_]
    known: npt.NDArray[np.bool_]
    firsts: npt.NDArray[np.int64]
    marked: Points = field(default_factory=_nowhere)

    def __post_init__(self) -> None:
        if self.mask.shape != self.hu.shape or self.known.shape != self.hu.shape or not len(self.firsts):
            raise InputError("a scene needs masks of its own shape and slices to train on")
