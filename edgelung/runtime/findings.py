"""What the components of a mask are in the patient: place, size and confidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgelung.runtime.components import Components
from edgelung.volume import CtVolume

__all__ = ["Finding", "measure_findings"]

Vector = tuple[float, float, float]
Span = tuple[int, int]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Finding:
    """One connected component of the mask, measured.

    Indices are those of the axial view: depth grows to superior, height to posterior, width to the patient's left.

    Attributes:
        id: 1 for the most confident finding of the series, then 2 and so on.
        label: What was found, in the bundle's words.
        center_lps_mm: LPS millimetres (x, y, z) of the centroid, the mean of the voxel centres.
        center_index: The same point as (depth, height, width) index; whole numbers are voxel centres.
        diameter_mm: Of the sphere with the same volume, ``(6 * volume_mm3 / pi) ** (1 / 3)``.
        longest_axial_mm: Largest distance of two points of the outline in one axial slice, over all slices. The
            outline is taken at the middles of pixel edges, so that a single pixel measures its larger spacing, and n
            pixels in a row n spacings.
        volume_mm3: ``voxels`` times the volume of a voxel.
        voxels: Number of voxels.
        confidence: Highest probability among the voxels.
        bounding_box: ((depth, depth), (height, height), (width, width)): first voxel and one past the last.
        component: Its number in the ``Components`` it was measured on.
    """

    id: int
    label: str
    center_lps_mm: Vector
    center_index: Vector
    diameter_mm: float
    longest_axial_mm: float
    volume_mm3: float
    voxels: int
    confidence: float
    bounding_box: tuple[Span, Span, Span]
    component: int


def measure_findings(
    components: Components, axial: CtVolume, *, label: str = "nodule", min_diameter_mm: float = 0.0
) -> tuple[Finding, ...]:
    """Measure every component that is large enough.

    Args:
        components: Of the slices of ``axial``.
        axial: The axial view of the series (``CtVolume.to_axial()``); only its geometry is used.
        label: What the mask marks.
        min_diameter_mm: Components whose ``diameter_mm`` is smaller are left out.

    Returns:
        Findings by descending confidence; equals by their first voxel, from inferior to superior.

    Raises:
        ValueError: When the components are those of another shape, or the limit is negative or not finite.
    """
    if components.shape != axial.shape:
        raise ValueError(f"components of a {components.shape} mask do not belong to a {axial.shape} volume")
    if not 0 <= min_diameter_mm < np.inf:
        raise ValueError(f"min_diameter_mm must be finite and not negative, got {min_diameter_mm}")
    volume_mm3 = components.voxels * axial.voxel_volume_mm3
    diameter_mm = np.cbrt(6.0 / np.pi * volume_mm3)
    kept = np.flatnonzero(diameter_mm >= min_diameter_mm)
    kept = kept[np.argsort(-components.peak[kept], kind="stable")]
    center_index = components.index_sum[kept] / components.voxels[kept, np.newaxis]
    center_lps_mm = axial.index_to_lps_mm(center_index)
    return tuple(
        Finding(
            id=position + 1,
            label=label,
            center_lps_mm=_vector(center_lps_mm[position]),
            center_index=_vector(center_index[position]),
            diameter_mm=float(diameter_mm[component]),
            longest_axial_mm=_longest_axial_mm(components, component, axial.spacing_mm[1:]),
            volume_mm3=float(volume_mm3[component]),
            voxels=int(components.voxels[component]),
            confidence=float(components.peak[component]),
            bounding_box=_box(components, component),
            component=component,
        )
        for position, component in enumerate(kept.tolist())
    )


def _vector(values: Float64) -> Vector:
    first, second, third = values.tolist()
    return first, second, third


def _box(components: Components, component: int) -> tuple[Span, Span, Span]:
    depth, height, width = (tuple(span) for span in components.box[component].T.tolist())
    return depth, height, width


def _longest_axial_mm(components: Components, component: int, spacing_mm: tuple[float, float]) -> float:
    """See ``Finding.longest_axial_mm``; ``spacing_mm`` is (height, width).

    Only the ends of each row can lie on the hull of a slice. Slices are taken by the diagonal of their bounding
    rectangle, largest first, and the rest is left out once no diagonal exceeds what was found.
    """
    depth, row, first, last = components.runs_of(component).astype(np.int64).T
    starts = np.flatnonzero(np.r_[True, (np.diff(depth) != 0) | (np.diff(row) != 0)])
    depth, row = depth[starts], row[starts]
    first = np.minimum.reduceat(first, starts)
    last = np.maximum.reduceat(last, starts)
    slices = np.flatnonzero(np.r_[True, np.diff(depth) != 0])
    ends = np.r_[slices[1:], len(depth)]
    height = row[ends - 1] - row[slices] + 1
    width = np.maximum.reduceat(last, slices) - np.minimum.reduceat(first, slices) + 1
    diagonal = np.hypot(height * spacing_mm[0], width * spacing_mm[1])
    longest = 0.0
    for index in np.argsort(-diagonal, kind="stable").tolist():
        if diagonal[index] <= longest:
            break
        rows = slice(slices[index], ends[index])
        points = _outline(row[rows], first[rows], last[rows]) * np.asarray(spacing_mm)
        longest = max(longest, _largest_distance(points))
    return longest


def _outline(row: npt.NDArray[np.int64], first: npt.NDArray[np.int64], last: npt.NDArray[np.int64]) -> Float64:
    """(points, 2) middles of the outer pixel edges, as (row, column), of the first and last pixel of each row."""
    rows = np.concatenate((row, row, row - 0.5, row + 0.5, row - 0.5, row + 0.5))
    columns = np.concatenate((first - 0.5, last + 0.5, first, first, last, last))
    return np.stack((rows, columns), axis=1)


def _largest_distance(points: Float64) -> float:
    hull = _hull(points)
    between = hull[:, np.newaxis] - hull
    return float(np.sqrt((between**2).sum(axis=-1).max()))


def _hull(points: Float64) -> Float64:
    """Corners of the convex hull, by the monotone chain of Andrew (Inf. Process. Lett. 9(5), 1979, 216-219)."""
    ordered = [(y, x) for y, x in points[np.lexsort((points[:, 1], points[:, 0]))].tolist()]
    return np.array(_chain(ordered) + _chain(ordered[::-1]))


def _chain(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    chain: list[tuple[float, float]] = []
    for y, x in points:
        while len(chain) >= 2:
            (y0, x0), (y1, x1) = chain[-2:]
            if (y1 - y0) * (x - x0) - (x1 - x0) * (y - y0) > 0:
                break
            chain.pop()
        chain.append((y, x))
    return chain
