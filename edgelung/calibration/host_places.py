"""Where nodules fit into the lungs of a given CT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from edgelung.calibration.lattice import Grid
from edgelung.calibration.nodules import NoduleShape, Place
from edgelung.calibration.placement import PLEURAL_DEPTH

__all__ = ["Found", "HostPlaces"]

Points = npt.NDArray[np.float64]
VESSEL_HU = -500.0
_AIRWAY_HU = -965.0  # a neighbourhood with a lower mean is an airway or a bulla
_SMOOTHING_MM = 0.6


@dataclass(frozen=True, eq=False)
class Found:
    """A centre (x, y, z) in the millimetres of the grid, and the unit vector into the lung for places at the pleura."""

    centre_mm: Points
    normal: Points | None


class HostPlaces:
    """Proposes centres in the lungs of a CT.

    Coordinates are millimetres along (x, y, z) = (width, height, depth) from the centre of the first axial voxel.

    Args:
        hu: (depth, height, width) axial HU.
        lungs: Mask of the same shape.
        spacing_mm: (depth, height, width).
    """

    def __init__(
        self, hu: npt.NDArray[Any], lungs: npt.NDArray[np.bool_], spacing_mm: tuple[float, float, float]
    ) -> None:
        axes = [np.arange(count) * size for count, size in zip(hu.shape, spacing_mm, strict=True)]
        self.grid = Grid(axes[0], axes[1], axes[2], spacing_mm)
        self.lungs = lungs
        self._hu = hu
        self._spacing = np.array(spacing_mm)
        eroded = ndimage.binary_erosion(lungs, ndimage.generate_binary_structure(3, 1), border_value=1)
        rim = max(1, int(np.ceil(3.0 / max(spacing_mm[1:]))))
        deep = np.stack([ndimage.binary_erosion(plane, iterations=rim) for plane in lungs])
        self._vessels = deep & self._dense(hu, deep)
        self._indices = {
            "free": np.flatnonzero(deep if deep.any() else lungs),
            "juxta-vascular": np.flatnonzero(self._vessels),
            "juxta-pleural": np.flatnonzero(lungs & ~eroded),
        }

    def propose(self, place: Place, diameter_mm: float, rng: np.random.Generator) -> Found | None:
        """A centre that may fit; None when this draw does not."""
        indices = self._indices[place]
        if not len(indices):
            return None
        voxel = np.unravel_index(int(indices[int(rng.integers(len(indices)))]), self.lungs.shape)
        point: Points = (np.array(voxel) * self._spacing)[::-1].astype(np.float64)
        radius, normal = diameter_mm / 2, None
        if place == "juxta-vascular":
            direction = rng.normal(size=3)
            point = point + direction / np.linalg.norm(direction) * 0.85 * radius
        elif place == "juxta-pleural":
            normal = self.inward(point)
            if normal is None:
                return None
            point = point + normal * PLEURAL_DEPTH * 0.8 * radius
        else:
            point = point + rng.uniform(-0.5, 0.5, 3) * self._spacing[::-1]
        return Found(point, normal) if self._surrounded(place, point, radius) else None

    def accepts(self, shape: NoduleShape) -> bool:
        """Whether a shape lies whole within the CT, and as much in the lungs as its place allows."""
        patch = shape.patch(self.grid, supersampling=1)
        if patch is None or not patch.mask.any():
            return False
        for part, size in zip(patch.where, self.lungs.shape, strict=True):
            if part.start == 0 or part.stop == size:
                return False
        share = float(self.lungs[patch.where][patch.mask].mean())
        return share >= (0.85 if shape.nodule.place == "juxta-pleural" else 0.99)

    def inward(self, point: Points, reach_mm: float = 6.0) -> Points | None:
        """Unit vector (x, y, z) from the nearest border into the lung; None in the middle of either."""
        box, away = self._box(point, reach_mm)
        inside = self.lungs[box]
        if inside.all() or not inside.any():
            return None
        centroids = [away[mask].mean(axis=0) for mask in (inside, ~inside)]
        direction = centroids[0] - centroids[1]
        length = float(np.linalg.norm(direction))
        return direction / length if length > 1e-6 else None

    def _surrounded(self, place: Place, point: Points, radius: float) -> bool:
        box, away = self._box(point, 1.15 * radius + 2.0)
        inside, distance = self.lungs[box], np.linalg.norm(away, axis=-1)
        near = distance < max(radius, float(self._spacing.min()))
        if not (near & inside).any() or float(self._hu[box][near & inside].mean()) < _AIRWAY_HU:
            return False
        if place == "juxta-pleural":
            return True
        if place == "juxta-vascular":
            return bool(inside[near].mean() > 0.99)
        dense = float(self._vessels[box][distance < 1.1 * radius + 1.0].mean())
        clear = float(inside[distance < 1.15 * radius + 2.0].mean())
        # A large nodule always has some vessel through it; it counts as free when that is a small one.
        return clear > 0.995 and dense <= (0.0 if radius < 5 else 0.02)

    def _box(self, point: Points, reach_mm: float) -> tuple[tuple[slice, ...], Points]:
        """The voxels within a cube around a point, and (..., 3) their offsets (x, y, z) from it in millimetres."""
        low = np.maximum(np.ceil((point[::-1] - reach_mm) / self._spacing).astype(int), 0)
        high = np.floor((point[::-1] + reach_mm) / self._spacing).astype(int) + 1
        high = np.maximum(np.minimum(high, self.lungs.shape), low)
        axes = [np.arange(a, b) * size for a, b, size in zip(low, high, self._spacing, strict=True)]
        z, y, x = np.meshgrid(*axes, indexing="ij")
        away = np.stack([x, y, z], axis=-1) - point
        return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)), away

    def _dense(self, hu: npt.NDArray[Any], where: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        widths = [_SMOOTHING_MM / size for size in self._spacing[1:]]
        dense = np.zeros(hu.shape, dtype=bool)
        for index in np.flatnonzero(where.any(axis=(1, 2))):
            dense[index] = ndimage.gaussian_filter(hu[index].astype(np.float32), widths) > VESSEL_HU
        return dense
