"""A CT volume with its place in the patient.

Arrays are (depth, height, width). Patient coordinates are LPS: +x to the patient's left, +y to posterior, +z to
superior, in millimetres (DICOM PS3.3 C.7.6.2.1.1). A voxel's coordinate is that of its centre.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["CtVolume"]

Vector = tuple[float, float, float]
AXES = ("depth", "height", "width")


@dataclass(frozen=True, eq=False)
class CtVolume:
    """CT numbers and geometry.

    The centre of voxel ``(d, h, w)`` lies at ::

        lps_mm = origin_mm + direction @ (spacing_mm * (d, h, w))

    which is DICOM PS3.3 equation C.7.6.2.1-1 with the slice axis added.

    Attributes:
        hu: (depth, height, width) Hounsfield units, in the dtype of the source.
        spacing_mm: Distance between voxel centres along (depth, height, width), each > 0.
        origin_mm: LPS coordinate (x, y, z) of the centre of voxel (0, 0, 0).
        direction: (3, 3) float64; column k is the LPS unit vector along which axis k of ``hu`` grows. Orthonormal.

    Raises:
        ValueError: On a shape, spacing or direction that breaks the above; readers turn it into an InputError that
            names the file.
    """

    hu: npt.NDArray[Any]
    spacing_mm: Vector
    origin_mm: Vector
    direction: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.hu.ndim != 3 or 0 in self.hu.shape:
            raise ValueError(f"a volume has the shape (depth, height, width), each at least 1; got {self.hu.shape}")
        if self.hu.dtype.kind not in "iuf":
            raise ValueError(f"voxels are integers or floats, not {self.hu.dtype}")
        spacing = _vector("spacing_mm", self.spacing_mm)
        if min(spacing) <= 0:
            raise ValueError(f"spacing_mm must be positive, got {spacing}")
        direction = np.array(self.direction, dtype=np.float64)
        if direction.shape != (3, 3) or not np.isfinite(direction).all():
            raise ValueError("direction must be a finite (3, 3) matrix")
        if np.abs(direction.T @ direction - np.eye(3)).max() > 1e-3:
            raise ValueError("the columns of direction must be orthonormal")
        direction.setflags(write=False)
        object.__setattr__(self, "spacing_mm", spacing)
        object.__setattr__(self, "origin_mm", _vector("origin_mm", self.origin_mm))
        object.__setattr__(self, "direction", direction)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(depth, height, width)."""
        depth, height, width = self.hu.shape
        return depth, height, width

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in cubic millimetres."""
        return float(np.prod(self.spacing_mm))

    def index_to_lps_mm(self, index: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Patient coordinates of (fractional) voxel indices.

        Args:
            index: (..., 3) indices in (depth, height, width) order; whole numbers are voxel centres.

        Returns:
            (..., 3) float64 LPS millimetres (x, y, z).
        """
        scaled = np.asarray(index, dtype=np.float64) * np.asarray(self.spacing_mm)
        lps_mm: npt.NDArray[np.float64] = scaled @ self.direction.T + np.asarray(self.origin_mm)
        return lps_mm

    def lps_mm_to_index(self, lps_mm: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Fractional voxel indices of patient coordinates: the inverse of :meth:`index_to_lps_mm`.

        Args:
            lps_mm: (..., 3) LPS millimetres (x, y, z).

        Returns:
            (..., 3) float64 indices in (depth, height, width) order, not clipped to the volume.
        """
        # The inverse of the matrix, not its transpose: directions from files are orthonormal only to their digits.
        offset = np.asarray(lps_mm, dtype=np.float64) - np.asarray(self.origin_mm)
        index: npt.NDArray[np.float64] = (offset @ np.linalg.inv(self.direction).T) / np.asarray(self.spacing_mm)
        return index

    def obliquity_degrees(self) -> float:
        """Largest angle between an array axis and the patient axis nearest to it, in degrees (0 = axis-aligned)."""
        cosines = np.abs(self.direction).max(axis=0)
        return float(np.degrees(np.arccos(np.clip(cosines.min(), -1.0, 1.0))))

    def to_axial(self) -> CtVolume:
        """The same voxels seen as axial slices: depth grows to superior, height to posterior, width to the left.

        Axes are permuted and flipped, never resampled, so values and patient coordinates stay exact. The result
        shares memory with this volume.
        """
        nearest = np.abs(self.direction).argmax(axis=0)  # for each array axis, the LPS axis it runs along
        if sorted(nearest) != [0, 1, 2]:
            raise ValueError("two array axes run along one patient axis: too oblique for axial slices")
        order = [int(np.flatnonzero(nearest == lps_axis)[0]) for lps_axis in (2, 1, 0)]
        hu = self.hu.transpose(order)
        direction = self.direction[:, order].copy()
        first = np.zeros(3)
        flips: list[slice] = []
        for axis, lps_axis in enumerate((2, 1, 0)):
            backwards = direction[lps_axis, axis] < 0
            flips.append(slice(None, None, -1) if backwards else slice(None))
            if backwards:
                first[order[axis]] = hu.shape[axis] - 1
                direction[:, axis] *= -1
        return replace(
            self,
            hu=hu[tuple(flips)],
            spacing_mm=_vector("spacing_mm", (self.spacing_mm[axis] for axis in order)),
            origin_mm=_vector("origin_mm", self.index_to_lps_mm(first)),
            direction=direction,
        )


def _vector(name: str, values: Iterable[float]) -> Vector:
    vector = tuple(float(value) for value in values)
    if len(vector) != 3 or not np.isfinite(vector).all():
        raise ValueError(f"{name} must be three finite numbers, got {vector}")
    return vector
