"""Pictures of a phantom that one can look at."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from edgelung.calibration.nodules import Nodule
from edgelung.calibration.phantom import Phantom

__all__ = ["montage", "to_grey"]

Grey = npt.NDArray[np.uint8]
WINDOW_HU = (-1350.0, 150.0)  # the usual lung window: level -600, width 1500
_VIEW_HEIGHT, _TILE, _TILE_MM, _TILES = 384, 144, 48.0, 16
_OUTLINE = (255, 176, 0)


def to_grey(hu: npt.NDArray[np.generic]) -> Grey:
    """HU through the lung window."""
    low, high = WINDOW_HU
    return np.asarray(np.clip((hu.astype(np.float32) - low) * (255.0 / (high - low)), 0, 255), dtype=np.uint8)


def montage(phantom: Phantom) -> Grey:
    """An axial, a coronal and a sagittal view, and below them each nodule with and without its outline.

    Views show the patient from the feet, from the front and from the left, in true proportions. The axial view goes
    through the largest nodule.

    Returns:
        uint8 (height, width, 3).
    """
    hu, spacing = phantom.volume.hu, phantom.volume.spacing_mm
    depth, height, width = hu.shape
    largest = max(phantom.nodules, key=lambda nodule: nodule.diameter_mm, default=None)
    level = depth // 2 if largest is None else _voxel(phantom, largest)[0]
    scale = _VIEW_HEIGHT / max(height * spacing[1], depth * spacing[0])
    axial = _resized(hu[level], (spacing[1], spacing[2]), scale)
    coronal = _resized(hu[::-1, height // 2], (spacing[0], spacing[2]), scale)
    sagittal = _resized(hu[::-1, :, min(width - 1, int(0.3 * width))], (spacing[0], spacing[1]), scale)
    views = _row([np.repeat(to_grey(view)[..., None], 3, axis=2) for view in (axial, coronal, sagittal)])
    tiles = [_tile(phantom, nodule) for nodule in phantom.nodules[:_TILES]]
    rows = [views]
    per_row = max(1, views.shape[1] // (_TILE + 4))
    for first in range(0, len(tiles), per_row):
        rows.append(_row(tiles[first : first + per_row]))
    across = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 4), (0, across - row.shape[1]), (0, 0))) for row in rows])


def _tile(phantom: Phantom, nodule: Nodule) -> Grey:
    """The nodule's middle slice, plain above and outlined below."""
    spacing = phantom.volume.spacing_mm
    depth, row, column = _voxel(phantom, nodule)
    size_mm = max(_TILE_MM, 1.6 * nodule.diameter_mm)
    steps = ((np.arange(_TILE) + 0.5) / _TILE - 0.5) * size_mm
    place = np.meshgrid(row + steps / spacing[1], column + steps / spacing[2], indexing="ij")
    plane = phantom.volume.hu[depth].astype(np.float32)
    plain = to_grey(ndimage.map_coordinates(plane, place, order=1, mode="constant", cval=-1350.0))
    inside = ndimage.map_coordinates(phantom.mask[depth].astype(np.uint8), place, order=0) > 0
    outlined = np.repeat(plain[..., None], 3, axis=2)
    outlined[ndimage.binary_dilation(inside) & ~inside] = _OUTLINE
    return np.concatenate([np.repeat(plain[..., None], 3, axis=2), outlined])


def _voxel(phantom: Phantom, nodule: Nodule) -> tuple[int, int, int]:
    index = np.rint(phantom.volume.lps_mm_to_index(nodule.center_lps_mm)).astype(int)
    depth, row, column = np.clip(index, 0, np.array(phantom.volume.shape) - 1)
    return int(depth), int(row), int(column)


def _resized(
    plane: npt.NDArray[np.int16], spacing_mm: tuple[float, float], pixels_per_mm: float
) -> npt.NDArray[np.float32]:
    """A plane in true proportions."""
    target = np.maximum(np.rint(np.array(plane.shape) * spacing_mm * pixels_per_mm).astype(int), 1)
    sampled = plane.astype(np.float32)
    blur = np.maximum(np.array(plane.shape) / target - 1.0, 0.0) * 0.5  # a decimated plane needs a filter
    sampled = ndimage.gaussian_filter(sampled, blur)
    axes = [(np.arange(count) + 0.5) * size / count - 0.5 for count, size in zip(target, plane.shape, strict=True)]
    return np.asarray(
        ndimage.map_coordinates(sampled, np.meshgrid(*axes, indexing="ij"), order=1, mode="nearest"), dtype=np.float32
    )


def _row(pictures: list[Grey]) -> Grey:
    tallest = max(picture.shape[0] for picture in pictures)
    return np.concatenate(
        [np.pad(picture, ((0, tallest - picture.shape[0]), (0, 4), (0, 0))) for picture in pictures], axis=1
    )
