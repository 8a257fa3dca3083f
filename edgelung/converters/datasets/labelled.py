"""Scans of a LUNA16 folder, read and labelled for training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgelung.calibration import segment_lungs
from edgelung.converters.datasets.grown_masks import grow_points
from edgelung.converters.datasets.luna16 import LunaScan, Point
from edgelung.errors import InputError
from edgelung.runtime import read_series
from edgelung.volume import CtVolume

__all__ = ["LabelledScan", "label_scan"]

LUNG_POINTS = 200  # negatives of a scan without look-alikes
NODULE_POINTS = 100  # of each nodule, or one of 30 mm would be drawn a thousand times as often as one of 3 mm


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
    """

    hu: npt.NDArray[Any]
    mask: npt.NDArray[np.bool_]
    positives: npt.NDArray[np.int64]
    negatives: npt.NDArray[np.int64]
    exact: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if self.mask.shape != self.hu.shape or len(self.negatives) == 0:
            raise InputError("a labelled scan needs a mask of its own shape and points for negative crops")
        if self.exact is not None and self.exact.shape != self.hu.shape:
            raise InputError("the exact mask of a scan has its shape")


def label_scan(scan: LunaScan, *, seed: int = 0) -> LabelledScan:
    """Read a scan and grow the masks of its nodules.

    Positive crops go around voxels of grown masks, of each nodule as many. Half of the negative crops go around
    look-alikes, or around voxels of the lungs when the lists have none; the other half anywhere, since a network that
    never saw a rib answers for whole slices. None of these points lies within a grown mask.

    Args:
        scan: One of :func:`edgelung.converters.datasets.read_luna16`.
        seed: Of the voxels of nodules and lungs.

    Raises:
        InputError: If the scan cannot be read or is no axial series, or holds nothing to crop around.
    """
    volume = _read_axial(scan)
    random = np.random.default_rng(seed)
    mask = np.zeros(volume.shape, dtype=bool)
    positives = [np.empty((0, 3), dtype=np.int64)]
    for nodule in scan.nodules:
        points = grow_points(volume, nodule)
        mask[tuple(points.T)] = True
        if len(points):
            positives.append(points[random.integers(len(points), size=NODULE_POINTS)])
    negatives = _inside(volume, scan.look_alikes_lps_mm)
    negatives = negatives[~mask[tuple(negatives.T)]]
    if not len(negatives):
        lungs = np.argwhere(segment_lungs(volume) & ~mask)
        negatives = random.permutation(lungs)[:LUNG_POINTS]
    if not len(negatives):
        raise InputError("holds no lung to train on", source=scan.path)
    anywhere = random.integers(0, volume.shape, size=(len(negatives), 3))
    negatives = np.concatenate([negatives, anywhere[~mask[tuple(anywhere.T)]]])
    return LabelledScan(volume.hu, mask, np.concatenate(positives), negatives, _exact_mask(scan))


def _read_axial(scan: LunaScan) -> CtVolume:
    try:
        return read_series(scan.path).to_axial()
    except ValueError as error:
        raise InputError(str(error), source=scan.path, field="direction") from None


def _exact_mask(scan: LunaScan) -> npt.NDArray[np.bool_] | None:
    if scan.exact_mask is None:
        return None
    mask: npt.NDArray[np.bool_] = read_series(scan.exact_mask).to_axial().hu > 0
    return mask


def _inside(volume: CtVolume, points_lps_mm: tuple[Point, ...]) -> npt.NDArray[np.int64]:
    """(n, 3) voxel indices of those points that lie in the volume."""
    points = np.asarray(points_lps_mm, dtype=np.float64).reshape(-1, 3)
    index = np.rint(volume.lps_mm_to_index(points)).astype(np.int64)
    return index[((index >= 0) & (index < volume.shape)).all(axis=1)]
