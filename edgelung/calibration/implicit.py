"""Small implicit shapes: below 0 inside, above 0 outside, about millimetres near the surface.

All take broadcastable float arrays of coordinates in millimetres and return float32 or float64 like their input.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "blend", "capsule", "ellipse", "ellipsoid", "ramp", "smooth_max", "smooth_min", "tube"]

Array = npt.NDArray[Any]


def smooth_min(first: Array, second: Array, width: float) -> Array:
    """Union of two shapes whose seam is rounded over about ``width`` millimetres."""
    overlap = np.maximum(width - np.abs(first - second), 0.0)
    union: Array = np.minimum(first, second) - overlap * overlap * (0.25 / width)
    return union


def smooth_max(first: Array, second: Array, width: float) -> Array:
    """Intersection of two shapes whose seam is rounded over about ``width`` millimetres."""
    overlap = np.maximum(width - np.abs(first - second), 0.0)
    intersection: Array = np.maximum(first, second) + overlap * overlap * (0.25 / width)
    return intersection


def ramp(value: Array, low: float, high: float) -> Array:
    """0 at ``low``, 1 at ``high`` (which may be the smaller), smooth in between and flat beyond."""
    share = np.clip((value - low) / (high - low), 0.0, 1.0)
    return share * share * (3.0 - 2.0 * share)


def blend(background: Array, shape: Array, value: float, width: float = 2.0) -> Array:
    """``value`` inside a shape, ``background`` outside, mixed over ``width`` millimetres."""
    return background + np.clip(0.5 - shape / width, 0.0, 1.0) * (value - background)


def ellipse(x: Array, y: Array, half_axes: tuple[float, float]) -> Array:
    """An elliptic column along z."""
    ratio = np.sqrt((x / half_axes[0]) ** 2 + (y / half_axes[1]) ** 2)
    return (ratio - 1.0) * min(half_axes)


def ellipsoid(x: Array, y: Array, z: Array, centre: Sequence[float], half_axes: tuple[float, float, float]) -> Array:
    """An ellipsoid with axes along x, y and z."""
    ratio = np.sqrt(
        ((x - centre[0]) / half_axes[0]) ** 2
        + ((y - centre[1]) / half_axes[1]) ** 2
        + ((z - centre[2]) / half_axes[2]) ** 2
    )
    return (ratio - 1.0) * min(half_axes)


def capsule(x: Array, y: Array, z: Array, start: Sequence[float], end: Sequence[float], radius: float) -> Array:
    """A straight tube with round ends."""
    axis = np.subtract(end, start).astype(float)
    length_sq = float(axis @ axis)
    dx, dy, dz = x - start[0], y - start[1], z - start[2]
    share = np.clip((dx * (axis[0] / length_sq) + dy * (axis[1] / length_sq)) + dz * (axis[2] / length_sq), 0.0, 1.0)
    squared = (dx - share * axis[0]) ** 2 + (dy - share * axis[1]) ** 2 + (dz - share * axis[2]) ** 2
    distance: Array = np.sqrt(squared) - radius
    return distance


def tube(x: Array, y: Array, z: Array, path: Sequence[Sequence[float]], radius: float) -> Array:
    """A tube of constant radius along a polyline."""
    distance = capsule(x, y, z, path[0], path[1], radius)
    for start, end in pairwise(path[1:]):
        distance = np.minimum(distance, capsule(x, y, z, start, end, radius))
    return distance
