"""Scans of a LUNA16 folder, read and labelled for training."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from edgelung.calibration import read_ct, segment_lungs
from edgelung.converters.datasets.grown_masks import grow_points
from edgelung.converters.datasets.luna16 import Annotation, LunaScan
from edgelung.converters.datasets.luna16_lists import Point
from edgelung.errors import InputError
from edgelung.runtime import read_series
from edgelung.volume import CtVolume

__all__ = ["LabelledScan", "Outcome", "label_scan"]

LUNG_POINTS = 200  # negatives of a scan without look-alikes
NODULE_POINTS = 100  # of each nodule, or one of 30 mm would be drawn a thousand times as often as one of 3 mm


class Outcome(IntEnum):
    """What became of an annotated nodule: labelled whole, labelled as far as the scan reaches, or without a voxel."""

    LABELLED = 0
    CUT = 1
    OUTSIDE = 2  # its centre is outside of the volume
    EMPTY = 3  # nothing at its centre is denser than the threshold


@dataclass(frozen=True, eq=False)
class LabelledScan:
    """One scan to train on.

    Attributes:
        hu: (depth, height, width) Hounsfield units, axial, depth towards superior.
        mask: (depth, height, width) bool, nodule or not.
        positives: (n, 3) voxel indices in nodules to take crops around.
        negatives: (n, 3) voxel indices elsewhere to take crops around, such as vessels.
        exact: (depth, height, width) bool, the mask a phantom has beyond LUNA16; None where nobody knows it. Nothing
            is trained on it.
        outcomes: (nodules,) int8, an :class:`Outcome` for each annotated nodule; None when nobody annotated.
        strays: Indices of the look-alikes that lie outside of the volume; None likewise.
    """

    hu: npt.NDArray[Any]
    mask: npt.NDArray[np.bool_]
    positives: npt.NDArray[np.int64]
    negatives: npt.NDArray[np.int64]
    exact: npt.NDArray[np.bool_] | None = None
    outcomes: npt.NDArray[np.int8] | None = None
    strays: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.mask.shape != self.hu.shape or len(self.negatives) == 0:
            raise InputError("a labelled scan needs a mask of its own shape and points for negative crops")
        if self.exact is not None and self.exact.shape != self.hu.shape:
            raise InputError("the exact mask of a scan has its shape")


def label_scan(scan: LunaScan, *, seed: int = 0) -> LabelledScan:
    """Read a scan and grow the masks of its nodules.

    Positive crops go around voxels of grown masks, of each nodule as many. Half of the negative crops go around
    look-alikes, or around voxels of the lungs when the lists have none; the other half anywhere, since a network that
    never saw a rib answers for whole slices. None of these points lies within a grown mask. A nodule that no voxel
    answers is background here; ``outcomes`` tells of it, and :class:`edgelung.converters.datasets.LabelCounts` keeps
    its scan out of training.

    Args:
        scan: One of :func:`edgelung.converters.datasets.read_luna16`.
        seed: Of the voxels of nodules and lungs.

    Raises:
        InputError: If the scan cannot be read, is no axial series or not in Hounsfield units, or holds nothing to crop
            around.
    """
    volume = read_ct(scan.path)
    random = np.random.default_rng(seed)
    mask = np.zeros(volume.shape, dtype=bool)
    positives = [np.empty((0, 3), dtype=np.int64)]
    outcomes = np.empty(len(scan.nodules), dtype=np.int8)
    for number, nodule in enumerate(scan.nodules):
        points = grow_points(volume, nodule)
        outcomes[number] = _outcome(volume, nodule, len(points))
        mask[tuple(points.T)] = True
        if len(points):
            positives.append(points[random.integers(len(points), size=NODULE_POINTS)])
    negatives, strays = _inside(volume, scan.look_alikes_lps_mm)
    negatives = negatives[~mask[tuple(negatives.T)]]
    if not len(negatives):
        lungs = np.argwhere(segment_lungs(volume) & ~mask)
        negatives = random.permutation(lungs)[:LUNG_POINTS]
    if not len(negatives):
        raise InputError("holds no lung to train on", source=scan.path)
    anywhere = random.integers(0, volume.shape, size=(len(negatives), 3))
    negatives = np.concatenate([negatives, anywhere[~mask[tuple(anywhere.T)]]])
    points = np.concatenate(positives)
    return LabelledScan(volume.hu, mask, points, negatives, _exact_mask(scan), outcomes, strays)


def _outcome(volume: CtVolume, nodule: Annotation, voxels: int) -> Outcome:
    index = volume.lps_mm_to_index(nodule.center_lps_mm)
    nearest, last = np.rint(index), np.asarray(volume.shape) - 1
    if ((nearest < 0) | (nearest > last)).any():
        return Outcome.OUTSIDE
    if not voxels:
        return Outcome.EMPTY
    radius = nodule.diameter_mm / 2 / np.asarray(volume.spacing_mm)
    beyond = (index - radius < -0.5) | (index + radius > last + 0.5)
    return Outcome.CUT if beyond.any() else Outcome.LABELLED


def _exact_mask(scan: LunaScan) -> npt.NDArray[np.bool_] | None:
    if scan.exact_mask is None:
        return None
    mask: npt.NDArray[np.bool_] = read_series(scan.exact_mask).to_axial().hu > 0
    return mask


def _inside(volume: CtVolume, points_lps_mm: tuple[Point, ...]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(n, 3) voxel indices of those points that lie in the volume, and which of the points do not."""
    points = np.asarray(points_lps_mm, dtype=np.float64).reshape(-1, 3)
    nearest = np.rint(volume.lps_mm_to_index(points))
    inside = ((nearest >= 0) & (nearest < volume.shape)).all(axis=1)
    return nearest[inside].astype(np.int64), np.flatnonzero(~inside)
