"""Where nodules go in the phantom: free in the lung, at a vessel, or at the pleura."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from edgelung.calibration.lattice import STEP_MM, Floats, Grid, Lattice
from edgelung.calibration.nodules import PLACES, Nodule, NoduleShape, Place, draw_diameter_mm, draw_kind
from edgelung.calibration.trees import Polyline

__all__ = ["Site", "place_nodules"]

Points = npt.NDArray[np.float64]

PLEURAL_DEPTH = 0.9  # how far the centre of a flattened nodule keeps from the pleura, in units of its radius
_NOTICEABLE_MM = 0.8  # thinner vessels may run through a nodule that counts as free
_ATTEMPTS = 400


@dataclass(frozen=True, eq=False)
class Site:
    """The surroundings in which nodules are placed.

    Attributes:
        grid: The voxels.
        lattice: The lattice around them.
        depth_mm: Distance from the lungs' surface on the lattice, below 0 inside.
        vessels: The vessels.
    """

    grid: Grid
    lattice: Lattice
    depth_mm: Floats
    vessels: Polyline

    def depth_at(self, points: Points) -> Points:
        """Distance from the lungs' surface at (n, 3) LPS points, below 0 inside."""
        first = np.array([axis[0] for axis in self.lattice.axes_mm])
        place = (np.atleast_2d(points)[:, ::-1] - first) / STEP_MM
        depth: Points = ndimage.map_coordinates(self.depth_mm, place.T, order=1, mode="nearest")
        return depth

    def inward(self, point: Points) -> Points:
        """Unit vector from the pleura into the lung near a point."""
        steps = np.vstack([np.eye(3), -np.eye(3)]) * 2.0
        depth = self.depth_at(point + steps)
        downhill = depth[3:] - depth[:3]
        return downhill / max(float(np.linalg.norm(downhill)), 1e-6)


def place_nodules(
    site: Site, count: int, rng: np.random.Generator, limits_mm: tuple[float, float]
) -> list[NoduleShape]:
    """Place up to ``count`` nodules that keep clear of each other; fewer when there is no room for more.

    Args:
        site: Where.
        count: How many.
        rng: Draws sizes, kinds, places and shapes.
        limits_mm: Smallest and largest diameter.
    """
    noticeable = site.vessels.select(site.vessels.radius_mm > _NOTICEABLE_MM)
    tree = cKDTree(noticeable.points_mm) if len(noticeable.radius_mm) else None
    lung = _points_in_lung(site, rng)
    placed: list[NoduleShape] = []
    for _ in range(count if len(lung) else 0):
        for attempt in range(_ATTEMPTS):
            # Large free nodules may find no room: every 40 attempts draw another place, size and kind.
            if attempt % 40 == 0:
                place = PLACES[int(rng.choice(3, p=(0.4, 0.3, 0.3)))]
                diameter = draw_diameter_mm(rng, *limits_mm)
            found = _propose(site, place, diameter, rng, lung, tree, noticeable)
            if found is None or not _has_room(site.grid, found[0], diameter, placed):
                continue
            centre = (float(found[0][0]), float(found[0][1]), float(found[0][2]))
            shape = NoduleShape(Nodule(centre, diameter, draw_kind(rng, diameter), place), rng, found[1])
            patch = shape.patch(site.grid, supersampling=1)
            if patch is not None and patch.mask.any():
                placed.append(shape)
                break
    return placed


def _points_in_lung(site: Site, rng: np.random.Generator) -> Points:
    low, high = site.grid.low_mm, site.grid.high_mm
    points = rng.uniform(low, high, (20000, 3))
    return points[site.depth_at(points) < -2.0]


def _propose(
    site: Site,
    place: Place,
    diameter: float,
    rng: np.random.Generator,
    lung: Points,
    tree: cKDTree | None,
    vessels: Polyline,
) -> tuple[Points, Points | None] | None:
    """A centre and, at the pleura, the direction into the lung; None when this draw does not fit."""
    radius = diameter / 2
    point = lung[int(rng.integers(len(lung)))]
    if place == "juxta-pleural":
        normal = site.inward(point)
        wanted = -PLEURAL_DEPTH * 0.8 * radius
        for _ in range(4):
            point = point + normal * (float(site.depth_at(point)[0]) - wanted)
            normal = site.inward(point)
        fits = abs(float(site.depth_at(point)[0]) - wanted) < 0.6
        return (point, normal) if fits else None
    if place == "juxta-vascular":
        if tree is None:
            return None
        index = int(rng.integers(len(vessels.radius_mm)))
        if vessels.radius_mm[index] > 3.0:
            return None
        direction = rng.normal(size=3)
        offset = 0.85 * radius + 0.7 * vessels.radius_mm[index]
        point = vessels.points_mm[index] + direction / np.linalg.norm(direction) * offset
    if float(site.depth_at(point)[0]) > -(1.2 * radius + 2.0):
        return None
    if place == "free" and tree is not None:
        near = tree.query_ball_point(point, 1.15 * radius + 4.0)
        gaps = np.linalg.norm(vessels.points_mm[near] - point, axis=1) - vessels.radius_mm[near]
        if len(near) and gaps.min() < 1.1 * radius + 0.8:
            return None
    return point, None


def _has_room(grid: Grid, centre: Points, diameter: float, placed: list[NoduleShape]) -> bool:
    size = grid.high_mm - grid.low_mm
    margin = np.minimum(0.58 * diameter + np.array(grid.spacing_mm[::-1]), 0.45 * size)
    if ((centre < grid.low_mm + margin) | (centre > grid.high_mm - margin)).any():
        return False
    for other in placed:
        apart = float(np.linalg.norm(centre - np.asarray(other.nodule.center_lps_mm)))
        if apart < 0.6 * (diameter + other.nodule.diameter_mm) + 4.0:
            return False
    return True
