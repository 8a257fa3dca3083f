"""Airways, arteries and veins of the lungs: branching trees that reach every part of a lobe.

Each tree connects points spread through a lobe to the hilum, trading the length of all branches against the length of
the way from the hilum (the greedy rule of Cuntz et al., PLoS Comput Biol 2010, 6:e1000877), which gives vessels that
radiate from the hilum and send out side branches. Trunks are straightened afterwards. Radii follow Murray's law,
r ~ (supplied points)^(1/2.9). Arteries accompany the airways; veins run between them from a hilum of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgelung.calibration.anatomy import LOBES, TRACHEA, Chest
from edgelung.calibration.lattice import Grid

__all__ = ["Branches", "Polyline", "grow_trees"]

Points = npt.NDArray[np.float64]

SUPPLY_MM = 7.8  # distance of the supplied points: about the size of a secondary lobule (10..25 mm) and below
LEAF_RADIUS_MM = 0.34
MURRAY = 1 / 2.9
_AIRWAY_MM = 1.0  # beside thinner arteries the airway's wall is too thin to be seen
_DIRECTNESS = 0.48  # weight of the way from the hilum against new length
# Where airway and artery enter each lobe, and where its vein leaves, in reference coordinates (anatomy.LOBES).
_ENTRIES = ((-47, 4, 14), (-46, -4, -24), (-44, 22, -26), (50, 2, 12), (46, 24, -20))
_VEINS = ((-46, -4, 6), (-44, -6, -28), (-40, 18, -32), (50, -8, 2), (44, 18, -28))
_BRONCHI = (
    ((3, 3, 24), (-22, 7, 10), (-34, 8, 6), _ENTRIES[0]),
    ((3, 3, 24), (-22, 7, 10), (-36, 10, -8), _ENTRIES[1]),
    ((3, 3, 24), (-22, 7, 10), (-36, 12, -8), _ENTRIES[2]),
    ((3, 3, 24), (22, 8, 8), (40, 10, 2), _ENTRIES[3]),
    ((3, 3, 24), (22, 8, 8), (40, 14, -2), _ENTRIES[4]),
)


@dataclass(frozen=True, eq=False)
class Branches:
    """The branches of one tree, as curves from ``start`` to ``end``.

    Attributes:
        start: (n, 3) LPS millimetres.
        end: (n, 3).
        before: (n, 3) unit direction in which each branch leaves its start.
        after: (n, 3) unit direction in which it arrives.
        supplies: (n,) number of points behind each branch.
    """

    start: Points
    end: Points
    before: Points
    after: Points
    supplies: npt.NDArray[np.int64]

    @property
    def radius_mm(self) -> npt.NDArray[np.float64]:
        """Murray's law."""
        return LEAF_RADIUS_MM * self.supplies.astype(np.float64) ** MURRAY

    def near(self, low: Points, high: Points) -> Branches:
        """The branches that may touch the box between two corners."""
        first, last = np.minimum(self.start, self.end), np.maximum(self.start, self.end)
        return self.select(np.all((last > low) & (first < high), axis=1))

    def select(self, keep: npt.NDArray[np.bool_]) -> Branches:
        """The branches where ``keep``."""
        return Branches(self.start[keep], self.end[keep], self.before[keep], self.after[keep], self.supplies[keep])


@dataclass(frozen=True, eq=False)
class Polyline:
    """Points along tubes, in order of drawing.

    Attributes:
        points_mm: (n, 3) LPS.
        radius_mm: (n,).
        step_mm: (n,) length of tube that each point stands for.
    """

    points_mm: Points
    radius_mm: npt.NDArray[np.float64]
    step_mm: npt.NDArray[np.float64]

    def select(self, keep: npt.NDArray[np.bool_]) -> Polyline:
        """The points where ``keep``."""
        return Polyline(self.points_mm[keep], self.radius_mm[keep], self.step_mm[keep])


@dataclass(frozen=True, eq=False)
class Trees:
    """What runs through the lungs.

    Attributes:
        vessels: Arteries and veins.
        airways: Outer surface of trachea and bronchi; the lumen is :func:`lumen_radius_mm` of their radius.
        forks_mm: (n, 3) where vessels of 1..3 mm radius fork: what looks most like a nodule.
    """

    vessels: Polyline
    airways: Polyline
    forks_mm: Points


def lumen_radius_mm(outer_mm: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Inner radius of an airway: walls take about a fifth of the radius and at least 0.5 mm."""
    return outer_mm - np.maximum(0.5, 0.16 * outer_mm)


def grow_trees(chest: Chest, rng: np.random.Generator, grid: Grid) -> Trees:
    """Grow all trees of a patient; only what passes near the grid is returned."""
    low, high = grid.low_mm - 12.0, grid.high_mm + 12.0
    supplied, lobe = _supply_points(chest, rng)
    drained, drained_lobe = _supply_points(chest, rng)
    step_mm = 0.5 * min(grid.spacing_mm)
    vessels, airways, forks = [], [_trachea(chest, step_mm)], []
    for index in range(len(LOBES)):
        bronchus = chest.from_reference(_smooth(np.array(_BRONCHI[index], dtype=float)))
        arteries = _grow(supplied[lobe == index], bronchus[-1], _unit(bronchus[-1] - bronchus[-3]))
        vein_start = chest.from_reference([_VEINS[index]])[0]
        veins = _grow(drained[drained_lobe == index], vein_start, _unit(vein_start - [0, 12, -20]))
        arteries, veins = arteries.near(low, high), veins.near(low, high)
        airways.append(_path(bronchus, 4.6, step_mm))
        airways.append(_curves(arteries.select(arteries.radius_mm > _AIRWAY_MM), step_mm, scale=1.0))
        vessels.append(_curves(arteries, step_mm, scale=1.05, shift=_beside(arteries)))
        vessels.append(_curves(veins, step_mm, scale=1.0))
        for tree in (arteries, veins):
            forks.append(tree.end[(tree.radius_mm > 0.9) & (tree.radius_mm < 3.0)])
    return Trees(_joined(vessels, low, high), _joined(airways, low, high), np.concatenate(forks))


def _supply_points(chest: Chest, rng: np.random.Generator) -> tuple[Points, npt.NDArray[np.int8]]:
    """Points spread evenly but not regularly through the lungs, and their lobes."""
    axes = [np.arange(-150.0, 150.0, SUPPLY_MM), np.arange(-125.0, 125.0, SUPPLY_MM), np.arange(-180, 140, SUPPLY_MM)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    points = points + rng.uniform(-0.48, 0.48, points.shape) * SUPPLY_MM
    reference = chest.to_reference(*points.T)
    inside = chest.lungs(*reference) < -2.5
    return points[inside], chest.lobe(*reference)[inside]


def _grow(points: Points, start: Points, direction: Points) -> Branches:
    """The tree that connects ``points`` to ``start``, where it arrives in ``direction``."""
    places = np.vstack([start, points])
    parent, order = _connect(places)
    supplies = np.ones(len(places), dtype=np.int64)
    for node in order[:0:-1]:
        supplies[parent[node]] += supplies[node]
    heavy = np.full(len(places), -1)  # the child that continues each branch: the one that supplies most
    for node in order[1:]:
        rival = heavy[parent[node]]
        if rival < 0 or supplies[node] > supplies[rival]:
            heavy[parent[node]] = node
    places = _straighten(places, parent, heavy, supplies)
    ahead = np.where(heavy < 0, np.arange(len(places)), heavy)
    tangent = _units(places[ahead] - places[parent])
    tangent[0] = direction
    child = np.arange(1, len(places))
    mother = parent[child]
    straight = _units(places[child] - places[mother])
    aside = _units(straight + 0.35 * tangent[mother])
    before = np.where((heavy[mother] == child)[:, None], tangent[mother], aside)
    return Branches(places[mother], places[child], before, tangent[child], supplies[child])


def _connect(places: Points) -> tuple[npt.NDArray[np.int64], list[int]]:
    """Parent of each place (the first is the root, its own parent), and the order in which they were connected."""
    count = len(places)
    parent = np.zeros(count, dtype=np.int64)
    way = np.zeros(count)
    cost = np.full(count, np.inf)
    open_places = np.ones(count, dtype=bool)
    order, node = [0], 0
    open_places[0] = False
    x, y, z = np.ascontiguousarray(places.T)  # three long sums are several times faster than many short ones
    for _ in range(count - 1):
        away = np.sqrt((x - x[node]) ** 2 + (y - y[node]) ** 2 + (z - z[node]) ** 2)
        offer = (1.0 + _DIRECTNESS) * away + _DIRECTNESS * way[node]
        better = np.flatnonzero(open_places & (offer < cost))
        cost[better] = offer[better]
        parent[better] = node
        node = int(np.argmin(cost))
        root = parent[node]
        way[node] = way[root] + math.dist((x[node], y[node], z[node]), (x[root], y[root], z[root]))
        open_places[node] = False
        cost[node] = np.inf
        order.append(node)
    return parent, order


def _straighten(
    places: Points, parent: npt.NDArray[np.int64], heavy: npt.NDArray[np.int64], supplies: npt.NDArray[np.int64]
) -> Points:
    """Move the places of thick branches towards the line between their neighbours along the branch."""
    strength = 0.75 * np.clip(np.log(supplies) / np.log(12.0), 0.0, 1.0)[:, None]
    strength[0] = 0.0
    strength[heavy < 0] = 0.0
    for _ in range(8):
        middle = 0.5 * (places[parent] + places[heavy])
        places = places + strength * (middle - places)
    return places


def _curves(branches: Branches, step_mm: float, scale: float, shift: tuple[Points, Points] | None = None) -> Polyline:
    """Sample cubic Hermite curves along branches."""
    if not len(branches.start):
        return Polyline(np.zeros((0, 3)), np.zeros(0), np.zeros(0))
    start, end = branches.start, branches.end
    if shift is not None:
        start, end = start + shift[0], end + shift[1]
    length = np.linalg.norm(end - start, axis=1)
    count = np.maximum(np.ceil(length * 1.05 / step_mm).astype(int), 2)
    branch = np.repeat(np.arange(len(count)), count)
    first = np.cumsum(count) - count
    t = ((np.arange(len(branch)) - first[branch] + 0.5) / count[branch])[:, None]
    leave, arrive = (direction * length[:, None] for direction in (branches.before, branches.after))
    points = (
        (2 * t**3 - 3 * t**2 + 1) * start[branch]
        + (t**3 - 2 * t**2 + t) * leave[branch]
        + (3 * t**2 - 2 * t**3) * end[branch]
        + (t**3 - t**2) * arrive[branch]
    )
    radius = branches.radius_mm[branch] * scale * (1.08 - 0.14 * t[:, 0])
    return Polyline(points, radius, (length / count)[branch])


def _beside(arteries: Branches) -> tuple[Points, Points]:
    """How far the artery keeps from its airway at the start and end of each branch."""
    reference = np.array([0.36, 0.48, 0.8])

    def offset(direction: Points, radius: npt.NDArray[np.float64]) -> Points:
        sideways = np.cross(direction, reference)
        sideways = sideways / np.maximum(np.linalg.norm(sideways, axis=1, keepdims=True), 0.2)
        # Without an airway beside it an artery keeps to its own course.
        gap = 2.0 * radius * np.minimum(radius / _AIRWAY_MM, 1.0) ** 2
        return np.asarray(sideways * gap[:, None])

    radius = arteries.radius_mm
    return offset(arteries.before, radius * 1.15), offset(arteries.after, radius)


def _trachea(chest: Chest, step_mm: float) -> Polyline:
    return _path(chest.from_reference(TRACHEA), 9.2, step_mm)


def _path(points: Points, radius_mm: float, step_mm: float) -> Polyline:
    lengths = np.linalg.norm(np.diff(points, axis=0), axis=1)
    place = np.concatenate([[0.0], np.cumsum(lengths)])
    along = np.arange(0.5 * step_mm, place[-1], step_mm)
    sampled = np.column_stack([np.interp(along, place, points[:, axis]) for axis in range(3)])
    # A main bronchus narrows from about 6.5 mm at the carina to the lobar bronchus.
    radius = np.full(len(along), radius_mm) if radius_mm > 6 else np.interp(along, [0, 30, 55], [6.8, 6.0, radius_mm])
    return Polyline(sampled, radius, np.full(len(along), step_mm))


def _smooth(points: Points) -> Points:
    """Cut the corners of a polyline (Chaikin 1974), ends kept."""
    for _ in range(3):
        first, second = 0.75 * points[:-1] + 0.25 * points[1:], 0.25 * points[:-1] + 0.75 * points[1:]
        inner = np.stack([first, second], axis=1).reshape(-1, 3)
        points = np.vstack([points[:1], inner, points[-1:]])
    return points


def _joined(parts: list[Polyline], low: Points, high: Points) -> Polyline:
    line = Polyline(
        np.concatenate([part.points_mm for part in parts]),
        np.concatenate([part.radius_mm for part in parts]),
        np.concatenate([part.step_mm for part in parts]),
    )
    return line.select(np.all((line.points_mm > low) & (line.points_mm < high), axis=1))


def _units(vectors: Points) -> Points:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9))


def _unit(vector: npt.ArrayLike) -> Points:
    vector = np.asarray(vector, dtype=np.float64)
    return vector / max(float(np.linalg.norm(vector)), 1e-9)
