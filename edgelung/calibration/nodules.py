"""Lung nodules: irregular shapes, their exact masks and their HU.

A shape is star-like: the distance from its middle to its surface is a smooth function of the direction, with a few
low-order lobes and, for some, spicules. It is scaled so that its volume is that of the sphere of the stated diameter,
and placed so that its centroid is the stated centre.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgelung.calibration.lattice import Floats, Grid

__all__ = ["KINDS", "PLACES", "Kind", "Nodule", "NodulePatch", "NoduleShape", "Place", "draw_diameter_mm", "draw_kind"]

Kind = Literal["solid", "part-solid", "ground-glass"]
Place = Literal["free", "juxta-vascular", "juxta-pleural"]
KINDS: tuple[Kind, ...] = ("solid", "part-solid", "ground-glass")
PLACES: tuple[Place, ...] = ("free", "juxta-vascular", "juxta-pleural")

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Nodule:
    """One nodule.

    Attributes:
        center_lps_mm: Centroid of its shape, (x, y, z) LPS millimetres.
        diameter_mm: Diameter of the sphere of the same volume.
        kind: Solid, part-solid (a solid core in ground glass) or ground-glass (subsolid without a core).
        place: Free in the lung, at a vessel, or at the pleura.
        volume_mm3: Volume of its voxels in the mask; 0 before it is drawn.
    """

    center_lps_mm: tuple[float, float, float]
    diameter_mm: float
    kind: Kind
    place: Place
    volume_mm3: float = 0.0


@dataclass(frozen=True, eq=False)
class NodulePatch:
    """A nodule on the voxels around it.

    Attributes:
        where: Slices of the volume, in the order (depth, height, width).
        mask: True where the voxel's centre lies inside the shape.
        share: Share of each voxel inside the shape, 0..1.
        hu: HU of the nodule's own tissue in each voxel.
    """

    where: tuple[slice, slice, slice]
    mask: npt.NDArray[np.bool_]
    share: Floats
    hu: Floats


class NoduleShape:
    """The analytic shape of one nodule.

    Args:
        nodule: What to draw.
        rng: Decides lobes, spicules and densities.
        normal: Unit vector (x, y, z) from the pleura into the lung: the shape is flattened along it.
    """

    def __init__(self, nodule: Nodule, rng: np.random.Generator, normal: npt.ArrayLike | None = None) -> None:
        self.nodule = nodule
        self._draw_surface(rng, normal)
        self._draw_density(rng)
        self._scale = 1.0
        self._shift = np.zeros(3)
        directions = _sphere(1500)
        radius = self._surface(directions)
        self._scale = nodule.diameter_mm / 2.0 / float((radius**3).mean() ** (1 / 3))
        radius = radius * self._scale
        # Centroid of a star-shaped body: integral of r^4/4 u over that of r^3/3.
        self._shift = 0.75 * (radius[:, None] ** 4 * directions).mean(axis=0) / (radius**3).mean()
        self.reach_mm = float(radius.max()) * 1.05 + float(np.linalg.norm(self._shift))

    def _draw_surface(self, rng: np.random.Generator, normal: npt.ArrayLike | None) -> None:
        axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        lengths = rng.uniform(0.86, 1.16, 3)
        if normal is not None:
            axes = np.linalg.qr(np.column_stack([np.asarray(normal, dtype=float), rng.normal(size=(3, 2))]))[0]
            lengths[0] = rng.uniform(0.72, 0.85)
        self._stretch = axes / lengths
        roughness = rng.uniform(0.4, 1.0)
        self._waves = rng.normal(size=(7, 3)) * rng.uniform(1.2, 2.8, (7, 1))
        self._phases = rng.uniform(0, 2 * np.pi, 7)
        self._heights = roughness * rng.uniform(0.02, 0.065, 7)
        spiculated = self.nodule.kind != "ground-glass" and self.nodule.diameter_mm >= 7 and rng.random() < 0.3
        count = int(rng.integers(4, 9)) if spiculated else 0
        self._spicules = _unit(rng.normal(size=(count, 3)))
        self._spicule_heights = rng.uniform(0.15, 0.40, count)
        self._spicule_widths = rng.uniform(18.0, 40.0, count)

    def _draw_density(self, rng: np.random.Generator) -> None:
        self.solid_hu = float(rng.uniform(-50.0, 60.0))
        self.glass_hu = float(rng.uniform(-650.0, -450.0))
        self._core = float(rng.uniform(0.35, 0.65))
        offset = rng.normal(size=3)
        self._core_offset_mm = 0.12 * self.nodule.diameter_mm * offset / np.linalg.norm(offset)
        self._grain = rng.normal(size=(8, 3)) * 2 * np.pi / rng.uniform(2.5, 7.0, (8, 1))
        self._grain_phases = rng.uniform(0, 2 * np.pi, 8)

    def signed(self, points: Points) -> Points:
        """Distance along the ray from the middle: (..., 3) LPS millimetres to (...), below 0 inside."""
        away = points - np.asarray(self.nodule.center_lps_mm) + self._shift
        distance = np.linalg.norm(away, axis=-1)
        surface = self._scale * self._surface(away / np.maximum(distance, 1e-6)[..., None])
        return np.asarray(distance - surface)

    def patch(self, grid: Grid, supersampling: int = 3) -> NodulePatch | None:
        """The nodule on the voxels of a grid; None where it does not touch the grid.

        The mask holds the voxels whose centre is inside; ``share`` is averaged over sub-voxels.
        """
        where = self._box(grid)
        if any(part.start >= part.stop for part in where):
            return None
        axes = (grid.z_mm[where[0]], grid.y_mm[where[1]], grid.x_mm[where[2]])
        points = _points(axes)
        inside = self.signed(points) < 0
        share = np.zeros(inside.shape, dtype=np.float32)
        counts = [min(supersampling, max(1, int(np.ceil(size / 0.4)))) for size in grid.spacing_mm]
        for step in np.ndindex(*counts):
            moves = [(k + 0.5) / n - 0.5 for k, n in zip(step, counts, strict=True)]
            moved = [axis + move * size for axis, move, size in zip(axes, moves, grid.spacing_mm, strict=True)]
            share += self._soft(_points(moved), [s / n for s, n in zip(grid.spacing_mm, counts, strict=True)])
        return NodulePatch(where, inside, share / float(np.prod(counts)), self._hu(points))

    def _soft(self, points: Points, cell_mm: list[float]) -> Floats:
        away = np.abs(points - np.asarray(self.nodule.center_lps_mm))
        width = (away @ np.array(cell_mm[::-1])) / np.maximum(np.linalg.norm(away, axis=-1), 1e-6)
        width = np.maximum(width, 0.3 * min(cell_mm))
        return np.asarray(np.clip(0.5 - self.signed(points) / width, 0.0, 1.0), dtype=np.float32)

    def _hu(self, points: Points) -> Floats:
        away = points - np.asarray(self.nodule.center_lps_mm)
        grain = np.sin(away @ self._grain.T + self._grain_phases).sum(axis=-1) / 2.0
        if self.nodule.kind == "solid":
            return np.asarray(self.solid_hu + 12.0 * grain, dtype=np.float32)
        glass = self.glass_hu + 28.0 * grain
        if self.nodule.kind == "ground-glass":
            return np.asarray(glass, dtype=np.float32)
        middle = away - self._core_offset_mm
        core_mm = np.linalg.norm(middle @ self._stretch, axis=-1) - self._core * self.nodule.diameter_mm / 2
        solid = np.clip(0.5 - (core_mm + 0.5 * grain) / 1.4, 0.0, 1.0)
        return np.asarray(glass + solid * (self.solid_hu - glass), dtype=np.float32)

    def _surface(self, directions: Points) -> Points:
        """Radius along unit directions, before scaling."""
        radius = 1.0 / np.linalg.norm(directions @ self._stretch, axis=-1)
        lobes = np.sin(directions @ self._waves.T + self._phases) @ self._heights
        radius = radius * (1.0 + lobes)
        for axis, height, width in zip(self._spicules, self._spicule_heights, self._spicule_widths, strict=True):
            radius = radius * (1.0 + height * np.exp(width * (directions @ axis - 1.0)))
        return np.asarray(radius)

    def _box(self, grid: Grid) -> tuple[slice, slice, slice]:
        centre = self.nodule.center_lps_mm
        ranges = []
        for axis, middle, size in zip((grid.z_mm, grid.y_mm, grid.x_mm), centre[::-1], grid.spacing_mm, strict=True):
            low = int(np.floor((middle - self.reach_mm - axis[0]) / size)) - 1
            high = int(np.ceil((middle + self.reach_mm - axis[0]) / size)) + 2
            ranges.append(slice(max(low, 0), min(high, len(axis))))
        return ranges[0], ranges[1], ranges[2]

    def drawn(self, volume_mm3: float) -> Nodule:
        """The nodule with the measured volume of its mask."""
        return replace(self.nodule, volume_mm3=float(volume_mm3))


def draw_diameter_mm(rng: np.random.Generator, low_mm: float, high_mm: float) -> float:
    """Mostly small ones, as in screening: log-normal around 7.5 mm, within limits."""
    for _ in range(50):
        diameter = float(rng.lognormal(np.log(7.5), 0.55))
        if low_mm <= diameter <= high_mm:
            return diameter
    return float(rng.uniform(low_mm, high_mm))


def draw_kind(rng: np.random.Generator, diameter_mm: float) -> Kind:
    """Two thirds solid; subsolid ones only from 5 mm, where they can be told apart."""
    if diameter_mm < 5:
        return "solid"
    chance = rng.random()
    return "solid" if chance < 0.62 else "part-solid" if chance < 0.82 else "ground-glass"


def _points(axes_mm: list[Points] | tuple[Points, ...]) -> Points:
    """(depth, height, width, 3) LPS (x, y, z) of the voxels of rising axes (z, y, x)."""
    z, y, x = np.meshgrid(*axes_mm, indexing="ij")
    return np.stack([x, y, z], axis=-1)


def _sphere(count: int) -> Points:
    """Directions spread evenly over the sphere (a Fibonacci lattice)."""
    index = np.arange(count) + 0.5
    z = 1 - 2 * index / count
    angle = np.pi * (1 + 5**0.5) * index
    ring = np.sqrt(1 - z * z)
    return np.column_stack([ring * np.cos(angle), ring * np.sin(angle), z])


def _unit(vectors: Points) -> Points:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9))
