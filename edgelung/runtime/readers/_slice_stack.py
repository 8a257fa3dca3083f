"""Loose slices to one grid: order, spacing, origin and direction.

A CT series is a grid when every slice lies a whole number of steps further along the normal of the slice plane, and
nothing aside of it. Whatever is not is refused; no slice is made up, dropped or moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgelung.errors import InputError
from edgelung.runtime.readers._limits import check_shape, check_spacing
from edgelung.runtime.readers._one_scan import check_one_scan
from edgelung.runtime.readers._slice_header import SliceHeader
from edgelung.volume import Vector

__all__ = ["SliceStack", "stack_slices"]

EXPORT = "export the whole series again"
RESAMPLE = "resample to an upright grid first, for example with dcm2niix or SimpleITK"
SAME_POSITION_MM = 1e-3
TILT_DEGREES = 0.05  # below a tenth of a voxel over a whole thorax
MISSING = 1.5  # a gap of more than this many steps is one with slices missing
UNEVEN = 0.1  # of a step: positions are often rounded to 0.1 mm


@dataclass(frozen=True)
class SliceStack:
    """A series in order.

    Attributes:
        slices: By growing position along the normal.
        shape: (depth, height, width).
        spacing_mm: Along (depth, height, width).
        origin_mm: LPS (x, y, z) of the first pixel of the first slice.
        direction: (3, 3), columns as in :class:`CtVolume`; depth is the cross product of width and height.
    """

    slices: tuple[SliceHeader, ...]
    shape: tuple[int, int, int]
    spacing_mm: Vector
    origin_mm: Vector
    direction: npt.NDArray[np.float64]


def stack_slices(headers: Sequence[SliceHeader], source: object) -> SliceStack:
    """Put slices in order and check that they are a grid.

    Args:
        headers: At least one, in any order.
        source: The folder (or single file), for messages.

    Raises:
        InputError: Slices that differ in size or orientation, lie on or beside each other, or are missing.
    """
    first = headers[0]
    _check_alike(headers, source)
    width_axis, height_axis = np.array(first.orientation).reshape(2, 3)
    normal = np.cross(width_axis, height_axis)
    places = np.array([header.position_mm for header in headers])
    along = places @ normal
    order = np.argsort(along, kind="stable")
    along, places = along[order], places[order]
    check_one_scan([headers[index].scan for index in order], source)
    _check_upright(headers, places, normal, source)
    step = _step(along, source) if len(headers) > 1 else _thickness(first, source)
    x, y, z = places[0].tolist()
    return SliceStack(
        slices=tuple(headers[index] for index in order),
        shape=check_shape((len(headers), first.form.rows, first.form.columns), source=source, field="Rows"),
        spacing_mm=check_spacing((step, *first.spacing_mm), source=source, field="ImagePositionPatient"),
        origin_mm=(x, y, z),
        direction=np.stack([normal, height_axis, width_axis], axis=1),
    )


def _check_alike(headers: Sequence[SliceHeader], source: object) -> None:
    def rows(header: SliceHeader) -> tuple[float, ...]:
        return (header.form.rows, header.form.columns)

    def spacing(header: SliceHeader) -> tuple[float, ...]:
        return header.spacing_mm

    def orientation(header: SliceHeader) -> tuple[float, ...]:
        return header.orientation

    fields = (
        ("Rows, Columns", rows, 0.0),
        ("PixelSpacing", spacing, 1e-4),
        ("ImageOrientationPatient", orientation, 1e-4),
    )
    for field, of, tolerance in fields:
        values = np.array([of(header) for header in headers])
        different = np.abs(values - values[0]).max(axis=1) > tolerance
        if different.any():
            odd = headers[int(different.argmax())].path.name
            problem = f"differs between slices ({different.sum()} of {len(headers)}, first {odd})"
            raise InputError(problem, source=source, field=field, hint="put each series in a folder of its own")


def _check_upright(
    headers: Sequence[SliceHeader], places: npt.NDArray[np.float64], normal: npt.NDArray[np.float64], source: object
) -> None:
    tilts = [header.tilt_degrees for header in headers if abs(header.tilt_degrees) > TILT_DEGREES]
    if tilts:
        problem = f"the gantry was tilted by {tilts[0]:g} degrees, so the slices may not be a right-angled grid"
        raise InputError(problem, source=source, field="GantryDetectorTilt", hint=RESAMPLE)
    moved = places - places[0]
    aside = np.linalg.norm(moved - np.outer(moved @ normal, normal), axis=1).max()
    # Up to a quarter of a pixel is rounding of the positions.
    if aside > 0.25 * min(headers[0].spacing_mm):
        problem = f"slices are shifted up to {aside:.2f} mm sideways (gantry tilt), the grid is not right-angled"
        raise InputError(problem, source=source, field="ImagePositionPatient", hint=RESAMPLE)


def _step(along: npt.NDArray[np.float64], source: object) -> float:
    """Distance between slices, from positions (mm along the normal) in growing order."""
    field = "ImagePositionPatient"
    gaps = np.diff(along)
    same = np.flatnonzero(gaps < SAME_POSITION_MM)
    if same.size:
        problem = f"{same.size} of {len(along)} slices lie where another one does, first at {along[same[0]]:.2f} mm"
        hint = "remove the copies, or put each phase or reconstruction in a folder of its own"
        raise InputError(problem, source=source, field=field, hint=hint)
    usual = float(np.median(gaps))
    wide = np.flatnonzero(gaps > MISSING * usual)
    if wide.size:
        places = ", ".join(f"{along[gap]:.2f} and {along[gap + 1]:.2f}" for gap in wide[:3])
        count = int((np.rint(gaps[wide] / usual) - 1).clip(1).sum())
        more = f" and in {wide.size - 3} more places" if wide.size > 3 else ""
        problem = f"{count} slice{'s' if count > 1 else ''} missing between {places} mm{more} (step {usual:.2f} mm)"
        raise InputError(problem, source=source, field=field, hint=EXPORT)
    step = float(along[-1] - along[0]) / len(gaps)
    off = np.abs(along - (along[0] + step * np.arange(len(along))))
    if off.max() > UNEVEN * step:
        worst = int(off.argmax())
        problem = f"slices are not evenly spaced: the one at {along[worst]:.2f} mm is off by {off[worst]:.2f} mm"
        raise InputError(problem, source=source, field=field, hint=RESAMPLE)
    return step


def _thickness(header: SliceHeader, source: object) -> float:
    if header.thickness_mm is None or header.thickness_mm <= 0:
        problem = "a single slice needs SpacingBetweenSlices or SliceThickness above 0"
        raise InputError(problem, source=source, field="SliceThickness", hint=EXPORT)
    return header.thickness_mm
