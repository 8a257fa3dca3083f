"""The lungs of a chest CT, by threshold and connected components."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from edgelung.errors import InputError
from edgelung.runtime.plausibility import check_hounsfield
from edgelung.volume import CtVolume

__all__ = ["axial_view", "segment_lungs"]

AIR_HU = -400.0  # about halfway between parenchyma (-850) and soft tissue (+50)
_SMALLEST_ML = 20.0
_SMALLEST_SHARE = 0.1  # of the largest: a gas-filled stomach is not a lung
_HOLE_MM2 = 400.0  # holes in a slice up to this area are vessels or nodules, larger ones the heart
_SMOOTHING_MM = 0.6  # against noise

_IN_PLANE = np.zeros((3, 3, 3), dtype=bool)
_IN_PLANE[1] = ndimage.generate_binary_structure(2, 1)


def segment_lungs(volume: CtVolume) -> npt.NDArray[np.bool_]:
    """Both lungs with the vessels, nodules and airways inside them, in the voxel order of the volume.

    Air that reaches the border of an axial slice is room or padding, not lung. Of the rest, everything of some size
    counts; trachea and main bronchi are not separated.

    Returns:
        bool array of the shape of ``volume.hu``.

    Raises:
        InputError: When the numbers are not Hounsfield units, or there are no lungs.
    """
    lungs = np.zeros(volume.shape, dtype=np.uint8)
    mask = axial_view(volume, lungs)
    axial = volume.to_axial()
    check_hounsfield(axial)
    mask[...] = _axial_lungs(axial.hu, axial.spacing_mm)
    return lungs.view(bool)


def axial_view(volume: CtVolume, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """A view of an array in the volume's voxel order, as ``volume.to_axial()`` orders it: writing there writes here.

    Raises:
        InputError: When the volume is too oblique for axial slices.
    """
    number = array.view(np.uint8) if array.dtype == bool else array
    try:
        axial = replace(volume, hu=number).to_axial().hu
    except ValueError as error:
        raise InputError(str(error), hint="resample the series to axial slices first") from None
    return axial.view(bool) if array.dtype == bool else axial


def _axial_lungs(hu: npt.NDArray[np.generic], spacing_mm: tuple[float, float, float]) -> npt.NDArray[np.bool_]:
    widths = [_SMOOTHING_MM / size for size in spacing_mm[1:]]
    air = np.empty(hu.shape, dtype=bool)
    for index, plane in enumerate(hu):
        air[index] = ndimage.gaussian_filter(plane.astype(np.float32), widths) < AIR_HU
    labels, count = ndimage.label(air)
    outside = np.zeros(count + 1, dtype=bool)
    outside[0] = True
    for edge in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        outside[np.unique(edge)] = True
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[outside] = 0
    voxel_ml = float(np.prod(spacing_mm)) / 1000.0
    # In a thin slab the lungs hold less than 20 ml; 2 % of what is in view is then enough.
    smallest = min(_SMALLEST_ML / voxel_ml, 0.02 * hu.size)
    keep = sizes >= max(smallest, _SMALLEST_SHARE * sizes.max(), 1)
    if not keep.any():
        raise InputError(
            "no lungs found in the CT",
            hint="give a chest CT in Hounsfield units whose slices show the lungs whole, or a lung mask of your own",
        )
    return _fill_holes(keep[labels], spacing_mm)


def _fill_holes(lungs: npt.NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> npt.NDArray[np.bool_]:
    labels, count = ndimage.label(~lungs, structure=_IN_PLANE)
    areas_mm2 = np.bincount(labels.ravel(), minlength=count + 1) * spacing_mm[1] * spacing_mm[2]
    holes = areas_mm2 < _HOLE_MM2
    holes[0] = False
    for edge in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        holes[np.unique(edge)] = False
    return np.asarray(lungs | holes[labels])
