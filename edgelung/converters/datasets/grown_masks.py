"""Nodule masks where only centres and diameters are known, as in LUNA16.

The rule is that of chapter 13 of Stevens, Antiga and Viehmann, "Deep Learning with PyTorch" (Manning, 2020), which the
public LUNA16 checkpoints were trained with: from the annotated centre a box grows along each axis in turn, for as long
as the tissue on both sides is denser than a threshold; within the box everything denser is nodule. A box that leaves
the lung on both sides (at the mediastinum, say) would not stop, so here it also ends at the annotated diameter.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from edgelung.converters.datasets.luna16 import Annotation
from edgelung.volume import CtVolume

__all__ = ["THRESHOLD_HU", "grow_masks", "grow_points"]

THRESHOLD_HU = -700.0  # lung is about -850, ground glass from -650 on


def grow_masks(
    volume: CtVolume, nodules: Iterable[Annotation], threshold_hu: float = THRESHOLD_HU
) -> npt.NDArray[np.bool_]:
    """The mask of all annotated nodules.

    Args:
        volume: The CT, in any orientation.
        nodules: Their centres and diameters; one whose centre is outside of the volume is left out.
        threshold_hu: Tissue denser than this is nodule.

    Returns:
        Bool array in the volume's shape.
    """
    mask = np.zeros(volume.shape, dtype=bool)
    for nodule in nodules:
        mask[tuple(grow_points(volume, nodule, threshold_hu).T)] = True
    return mask


def grow_points(volume: CtVolume, nodule: Annotation, threshold_hu: float = THRESHOLD_HU) -> npt.NDArray[np.int64]:
    """The voxels of one annotated nodule.

    Args:
        volume: The CT, in any orientation.
        nodule: Its centre and diameter.
        threshold_hu: Tissue denser than this is nodule.

    Returns:
        (n, 3) voxel indices; none when the centre is outside of the volume.
    """
    nearest = np.rint(volume.lps_mm_to_index(nodule.center_lps_mm))
    if ((nearest < 0) | (nearest >= volume.shape)).any():
        return np.empty((0, 3), dtype=np.int64)
    index = nearest.astype(int)
    box = tuple(_span(volume, index, axis, nodule.diameter_mm, threshold_hu) for axis in range(3))
    points: npt.NDArray[np.int64] = np.argwhere(volume.hu[box] > threshold_hu) + [span.start for span in box]
    return points


def _span(volume: CtVolume, index: npt.NDArray[np.int64], axis: int, diameter_mm: float, threshold_hu: float) -> slice:
    """The box along one axis: the voxels around the centre up to the first pair that is not dense on both sides."""
    others = tuple(int(place) for place in np.delete(index, axis))
    line = np.moveaxis(volume.hu, axis, -1)[others]
    middle, size = int(index[axis]), len(line)
    most = max(1, round(diameter_mm / volume.spacing_mm[axis]))
    reach = 0
    while (
        reach < most
        and middle - reach - 1 >= 0
        and middle + reach + 1 < size
        and min(line[middle - reach - 1], line[middle + reach + 1]) > threshold_hu
    ):
        reach += 1
    return slice(middle - reach, middle + reach + 1)
