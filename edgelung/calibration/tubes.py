"""Paint tubes into a block of slices as partial volumes.

Tubes thinner than about a voxel are laid down as the volume they hold, shared between the neighbouring voxels, so
that a vessel of 0.4 mm is as faint as it should be. Thicker ones are painted as rows of balls.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgelung.calibration.lattice import Floats, Grid
from edgelung.calibration.trees import Polyline

__all__ = ["paint_tubes"]

_THIN = 1.5  # tubes of a smaller radius, in pixels, are laid down as volume
_CHUNK = 1_500_000  # voxels painted at once: bounds the memory
# A tube's volume on seven points around each point of its axis, with the second moment of its cross-section, r^2 / 4.
_SPREAD = np.vstack([np.zeros(3), np.eye(3), -np.eye(3)]) * 0.935


def paint_tubes(line: Polyline, grid: Grid) -> Floats:
    """Share of each voxel of the grid inside any of the tubes: (depth, height, width) float32 in 0..1."""
    pixel = min(grid.spacing_mm[1:])
    reach = line.radius_mm + max(grid.spacing_mm)
    low, high = grid.low_mm, grid.high_mm
    above, below = line.points_mm > low - reach[:, None], line.points_mm < high + reach[:, None]
    line = line.select(np.all(above & below, axis=1))
    thin = line.radius_mm < _THIN * pixel
    painted = _lay_volume(line.select(thin), grid)
    _paint_balls(painted, line.select(~thin), grid)
    return painted


def _lay_volume(line: Polyline, grid: Grid) -> Floats:
    pixel = min(grid.spacing_mm[1:])
    share = np.pi * line.radius_mm**2 * line.step_mm / float(np.prod(grid.spacing_mm))
    wide = line.radius_mm > 0.5 * pixel
    points = [line.points_mm[~wide]]
    points += [line.points_mm[wide] + line.radius_mm[wide, None] * offset for offset in _SPREAD]
    shares = [share[~wide]] + [share[wide] / len(_SPREAD)] * len(_SPREAD)
    return _share_out(np.concatenate(points), np.concatenate(shares), grid)


def _share_out(points: npt.NDArray[np.float64], shares: npt.NDArray[np.float64], grid: Grid) -> Floats:
    """Add each share to the eight voxels around its point, by linear weights."""
    place = (points[:, ::-1] - _first_mm(grid)) / grid.spacing_mm
    inside = ((place > -1) & (place < grid.shape)).all(axis=1)
    place, shares = place[inside] + 1.0, shares[inside]  # one voxel of margin on every side
    base = place.astype(np.int64)
    fraction = place - base
    padded = tuple(size + 2 for size in grid.shape)
    flat = np.ravel_multi_index(tuple(base.T), padded)
    strides = (padded[1] * padded[2], padded[2], 1)
    indices, weights = [], []
    for corner in np.ndindex(2, 2, 2):
        factors = (part if step else 1.0 - part for step, part in zip(corner, fraction.T, strict=True))
        indices.append(flat + int(np.dot(corner, strides)))
        weights.append(shares * np.prod(list(factors), axis=0))
    total = np.bincount(np.concatenate(indices), np.concatenate(weights), minlength=int(np.prod(padded)))
    middle = total.reshape(padded)[1:-1, 1:-1, 1:-1]
    return np.ascontiguousarray(np.minimum(middle, 1.0), dtype=np.float32)


def _paint_balls(painted: Floats, line: Polyline, grid: Grid) -> None:
    # Along a tube a ball every third of a radius is enough: the surface ripples by 1.5 % of the radius.
    travelled = np.cumsum(line.step_mm / np.maximum(0.33 * line.radius_mm, 1e-6))
    line = line.select(np.diff(np.floor(travelled), prepend=-1.0) > 0)
    flat = painted.reshape(-1)
    spacing = np.array(grid.spacing_mm)
    reach = np.ceil(line.radius_mm[:, None] / spacing + 0.5).astype(int)
    for size in np.unique(reach, axis=0):
        group = line.select((reach == size).all(axis=1))
        offsets = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in size), indexing="ij"), axis=-1).reshape(-1, 3)
        per_chunk = max(1, _CHUNK // len(offsets))
        for begin in range(0, len(group.radius_mm), per_chunk):
            centres = group.points_mm[begin : begin + per_chunk, ::-1]
            radius = group.radius_mm[begin : begin + per_chunk]
            nearest = np.rint((centres - _first_mm(grid)) / spacing).astype(np.int64)
            away = (nearest * spacing + _first_mm(grid) - centres).astype(np.float32)
            covered = _ball(away[:, None, :] + (offsets * spacing).astype(np.float32), radius, spacing)
            index = nearest[:, None, :] + offsets
            keep = (covered > 0) & ((index >= 0) & (index < grid.shape)).all(axis=-1)
            np.maximum.at(flat, np.ravel_multi_index(tuple(index[keep].T), grid.shape), covered[keep])


def _ball(away: Floats, radius: npt.NDArray[np.float64], spacing: npt.NDArray[np.float64]) -> Floats:
    distance = np.sqrt((away * away).sum(axis=-1))
    width = (np.abs(away) @ spacing.astype(np.float32)) / np.maximum(distance, 1e-3)
    share = 0.5 - (distance - radius.astype(np.float32)[:, None]) / np.maximum(width, 0.3 * spacing.min())
    return np.asarray(np.clip(share, 0.0, 1.0), dtype=np.float32)


def _first_mm(grid: Grid) -> npt.NDArray[np.float64]:
    return np.array([grid.z_mm[0], grid.y_mm[0], grid.x_mm[0]])
