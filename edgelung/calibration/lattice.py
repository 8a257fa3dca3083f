"""Smooth fields on a coarse lattice, brought to the voxels of a slice.

The organs' implicit surfaces are smooth over several millimetres, so they are evaluated every 3 mm and interpolated
with cubic weights; edges stay sharp because the surface is interpolated, not the tissue. In this way a phantom of
200 x 512 x 512 voxels takes seconds, and memory grows with the lattice only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse

__all__ = ["Grid", "Lattice", "coverage", "distance_mm", "in_voxels", "smooth_noise"]

Floats = npt.NDArray[Any]  # float32 in what is long, whatever numpy makes of it in between
STEP_MM = 3.0
_MARGIN = 3  # lattice nodes beyond the voxels: cubic weights and gradients need neighbours


@dataclass(frozen=True, eq=False)
class Grid:
    """Voxel centres along each patient axis, in millimetres, rising evenly.

    Attributes:
        z_mm: (depth,) towards superior.
        y_mm: (height,) towards posterior.
        x_mm: (width,) towards the left.
        spacing_mm: (depth, height, width).
    """

    z_mm: npt.NDArray[np.float64]
    y_mm: npt.NDArray[np.float64]
    x_mm: npt.NDArray[np.float64]
    spacing_mm: tuple[float, float, float]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(depth, height, width)."""
        return len(self.z_mm), len(self.y_mm), len(self.x_mm)

    @property
    def low_mm(self) -> npt.NDArray[np.float64]:
        """(3,) the first voxel's outer corner, as (x, y, z)."""
        return np.array([self.x_mm[0], self.y_mm[0], self.z_mm[0]]) - np.array(self.spacing_mm[::-1]) / 2

    @property
    def high_mm(self) -> npt.NDArray[np.float64]:
        """(3,) the last voxel's outer corner, as (x, y, z)."""
        return np.array([self.x_mm[-1], self.y_mm[-1], self.z_mm[-1]]) + np.array(self.spacing_mm[::-1]) / 2

    def block(self, start: int, stop: int) -> Grid:
        """The slices ``start`` to ``stop`` (exclusive)."""
        return Grid(self.z_mm[start:stop], self.y_mm, self.x_mm, self.spacing_mm)


class Lattice:
    """Nodes every 3 mm around a grid, at whole multiples of 3 mm, so that equal places have equal nodes."""

    def __init__(self, grid: Grid) -> None:
        self.axes_mm = tuple(_nodes(axis) for axis in (grid.z_mm, grid.y_mm, grid.x_mm))
        z_nodes, y_nodes, x_nodes = self.axes_mm
        self._along_z = _weights(grid.z_mm, z_nodes)
        # Sparse products take four terms per voxel, and give the same bits whatever the number of threads.
        self._along_y = sparse.csr_matrix(_weights(grid.y_mm, y_nodes))
        self._along_x = sparse.csr_matrix(_weights(grid.x_mm, x_nodes))

    def coordinates_mm(self) -> tuple[Floats, Floats, Floats]:
        """(x, y, z), each broadcastable to (z nodes, y nodes, x nodes)."""
        z, y, x = (axis.astype(np.float32) for axis in self.axes_mm)
        return x[None, None, :], y[None, :, None], z[:, None, None]

    def pack(self, fields: Sequence[Floats]) -> Floats:
        """Fields of shape (z nodes, y nodes, x nodes) as one array (z nodes, x nodes, fields, y nodes)."""
        return np.stack([field.transpose(0, 2, 1) for field in fields], axis=2).astype(np.float32, copy=False)

    def to_slice(self, packed: Floats, index: int) -> Floats:
        """Interpolate packed fields to the (height, fields, width) voxels of one slice."""
        _, x_nodes, fields, y_nodes = packed.shape
        row = self._along_z[index]
        plane = sum(row[node] * packed[node] for node in np.flatnonzero(row))
        wide = (self._along_x @ np.reshape(plane, (x_nodes, -1))).reshape(-1, fields, y_nodes)
        full = self._along_y @ wide.transpose(2, 1, 0).reshape(y_nodes, -1)
        return np.asarray(full, dtype=np.float32).reshape(full.shape[0], fields, -1)


def distance_mm(shape: Floats) -> Floats:
    """Signed distance near the surface of an implicit shape on the lattice, to first order: f / |grad f|."""
    gradient = np.gradient(shape, STEP_MM)
    length = np.sqrt(gradient[0] ** 2 + gradient[1] ** 2 + gradient[2] ** 2)
    distance: Floats = shape / np.maximum(length, 0.15)
    return distance


def in_voxels(shape: Floats, spacing_mm: tuple[float, float, float]) -> Floats:
    """An implicit shape on the lattice, scaled so that the partial volume of a voxel runs from -0.5 to +0.5.

    The width over which a box-shaped voxel passes from outside to inside is its extent along the surface's normal.
    """
    gradient = np.gradient(shape, STEP_MM)
    width = sum(np.abs(part) * size for part, size in zip(gradient, spacing_mm, strict=True))
    width = ndimage.maximum_filter(width, 3)  # within thin plates the gradient vanishes; their faces count
    scaled: Floats = np.clip(shape / np.maximum(width, 0.05), -60.0, 60.0).astype(np.float32)
    return scaled


def coverage(scaled: Floats) -> Floats:
    """Share of each voxel inside a shape that :func:`in_voxels` scaled: 1 inside, 0 outside."""
    return np.clip(0.5 - scaled, 0.0, 1.0)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], length_mm: float) -> Floats:
    """Unit-variance Gaussian noise on the lattice, correlated over about ``length_mm``."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), length_mm / STEP_MM, mode="wrap")
    unit: Floats = noise / max(float(noise.std()), 1e-6)
    return unit


def _nodes(axis_mm: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    first = np.floor(axis_mm[0] / STEP_MM) - _MARGIN
    last = np.ceil(axis_mm[-1] / STEP_MM) + _MARGIN
    return np.arange(first, last + 1) * STEP_MM


def _weights(axis_mm: npt.NDArray[np.float64], nodes_mm: npt.NDArray[np.float64]) -> Floats:
    """(voxels, nodes) cubic convolution weights (Keys 1981, a = -1/2)."""
    place = (axis_mm - nodes_mm[0]) / STEP_MM
    away = np.abs(place[:, None] - np.arange(len(nodes_mm)))
    near = 1.5 * away**3 - 2.5 * away**2 + 1.0
    far = -0.5 * away**3 + 2.5 * away**2 - 4.0 * away + 2.0
    return np.where(away <= 1, near, np.where(away < 2, far, 0.0)).astype(np.float32)
