"""Scans of a LUNA16 folder, read and labelled for training."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgelung.calibration import segment_lungs
from edgelung.converters.datasets.crops import LabelledScan
from edgelung.converters.datasets.grown_masks import grow_masks
from edgelung.converters.datasets.luna16 import LunaScan, Point
from edgelung.errors import InputError
from edgelung.runtime import read_series
from edgelung.volume import CtVolume

__all__ = ["label_scan"]

LUNG_POINTS = 200  # negatives of a scan without look-alikes


def label_scan(scan: LunaScan, *, seed: int = 0) -> LabelledScan:
    """Read a scan and grow the masks of its nodules.

    Negative crops go around look-alikes, and around voxels of the lungs when the lists have none. A look-alike within
    a grown mask is left out.

    Args:
        scan: One of :func:`edgelung.converters.datasets.read_luna16`.
        seed: Of the voxels of the lungs.

    Raises:
        InputError: If the scan cannot be read or is no axial series, or holds nothing to crop around.
    """
    try:
        volume = read_series(scan.path).to_axial()
    except ValueError as error:
        raise InputError(str(error), source=scan.path, field="direction") from None
    mask = grow_masks(volume, scan.nodules)
    negatives = _inside(volume, scan.look_alikes_lps_mm)
    negatives = negatives[~mask[tuple(negatives.T)]]
    if not len(negatives):
        lungs = np.argwhere(segment_lungs(volume) & ~mask)
        negatives = np.random.default_rng(seed).permutation(lungs)[:LUNG_POINTS]
    if not len(negatives):
        raise InputError("holds no lung to train on", source=scan.path)
    return LabelledScan(volume.hu, mask, np.argwhere(mask), negatives)


def _inside(volume: CtVolume, points_lps_mm: tuple[Point, ...]) -> npt.NDArray[np.int64]:
    """(n, 3) voxel indices of those points that lie in the volume."""
    points = np.asarray(points_lps_mm, dtype=np.float64).reshape(-1, 3)
    index = np.rint(volume.lps_mm_to_index(points)).astype(np.int64)
    return index[((index >= 0) & (index < volume.shape)).all(axis=1)]
