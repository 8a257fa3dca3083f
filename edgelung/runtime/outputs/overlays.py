"""Pictures of findings on axial slices, seen as radiologists do: from the feet, the patient's right on the left."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgelung.runtime.components import Components
from edgelung.runtime.findings import Finding
from edgelung.runtime.outputs.drawing import (
    Pixels,
    draw_brackets,
    draw_text,
    outline_of,
    resized,
    text_width,
    windowed,
)
from edgelung.volume import CtVolume

__all__ = ["LUNG_WINDOW_HU", "draw_finding", "draw_overview"]

LUNG_WINDOW_HU = (-1350.0, 150.0)  # centre -600, width 1500
RED, AMBER, WHITE, GREY = (255, 40, 40), (255, 190, 0), (255, 255, 255), (150, 150, 150)
PANEL = 320  # pixels; divisible by every magnification
MAGNIFICATIONS = (8, 5, 4, 2, 1)
MARGIN, HEADER, GAP = 6, 26, 4
MAX_COLUMNS = 6


def draw_finding(
    axial: CtVolume, components: Components, finding: Finding, window: tuple[float, float] = LUNG_WINDOW_HU
) -> Pixels:
    """The slice in which a finding is largest, outlined in red, between brackets.

    Args:
        axial: The axial view that was searched.
        components: Its components.
        finding: One of them, measured.
        window: HU that are black and white.

    Returns:
        (height, width, 3) uint8 RGB, one pixel per voxel.

    Raises:
        ValueError: When the three do not belong together.
    """
    _check(axial, components, [finding])
    depth, mask = _largest_slice(components, finding)
    image = windowed(axial.hu[depth], window)
    image[outline_of(mask)] = RED
    _bracket(image, mask, 1.0, 1.0)
    return image


def draw_overview(
    axial: CtVolume,
    findings: Sequence[Finding],
    components: Components,
    window: tuple[float, float] = LUNG_WINDOW_HU,
) -> Pixels:
    """The first findings at a glance: a column each, with the whole slice above and a magnified crop below.

    Above each column stand its id, confidence and diameter; the crop has a bar of 10 mm; below stands the slice,
    counted from 1 at the inferior end. Without findings, the middle slice is shown under "0 FINDINGS".

    Args:
        axial: The axial view that was searched.
        findings: In the order they are to be shown; the first six are.
        components: Those the findings were measured on.
        window: HU that are black and white.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        ValueError: When the three do not belong together.
    """
    shown = list(findings[:MAX_COLUMNS])
    _check(axial, components, shown)
    if not shown:
        return _column("0", "findings", "", [_whole_slice(axial.hu[axial.shape[0] // 2], window, None)])
    columns = [_finding_column(axial, components, finding, window) for finding in shown]
    gap = np.zeros((columns[0].shape[0], GAP, 3), dtype=np.uint8)
    parts = [part for column in columns for part in (column, gap)]
    return np.concatenate(parts[:-1], axis=1)


def _check(axial: CtVolume, components: Components, findings: Sequence[Finding]) -> None:
    if components.shape != axial.shape:
        raise ValueError(f"components of a {components.shape} mask do not belong to a {axial.shape} volume")
    for finding in findings:
        known = finding.component < len(components)
        if not known or components.voxels[finding.component] != finding.voxels:
            raise ValueError(f"finding {finding.id} was not measured on these components")


def _largest_slice(components: Components, finding: Finding) -> tuple[int, npt.NDArray[np.bool_]]:
    """The (lowest) slice with most voxels of the finding, and its (height, width) mask there."""
    depth = finding.bounding_box[0][0] + int(components.voxels_by_slice(finding.component).argmax())
    runs = components.runs_of(finding.component)
    rows, first, last = runs[runs[:, 0] == depth, 1:].astype(np.int64).T
    height, width = components.shape[1:]
    steps = np.zeros((height, width + 1), dtype=np.int8)
    steps[rows, first] = 1
    steps[rows, last + 1] = -1
    return depth, steps.cumsum(axis=1, dtype=np.int8)[:, :width].astype(np.bool_)


def _extent(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """First and last row, first and last column of a mask."""
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


def _bracket(image: Pixels, mask: npt.NDArray[np.bool_], row_scale: float, column_scale: float) -> None:
    """Brackets around a mask on an image of its slice that was scaled."""
    top, bottom, left, right = _extent(mask)
    draw_brackets(
        image,
        round(top * row_scale) - MARGIN,
        round(left * column_scale) - MARGIN,
        round((bottom + 1) * row_scale) - 1 + MARGIN,
        round((right + 1) * column_scale) - 1 + MARGIN,
        AMBER,
    )


def _whole_slice(
    hu: npt.NDArray[np.generic], window: tuple[float, float], mask: npt.NDArray[np.bool_] | None
) -> Pixels:
    """A slice fitted into a panel, with R and L for the patient's sides and brackets around the mask."""
    height, width = hu.shape
    scale = PANEL / max(height, width)
    fitted = (max(1, round(height * scale)), max(1, round(width * scale)))
    image = resized(windowed(hu, window), fitted)
    if mask is not None:
        _bracket(image, mask, fitted[0] / height, fitted[1] / width)
    panel = np.zeros((PANEL, PANEL, 3), dtype=np.uint8)
    top, left = (PANEL - fitted[0]) // 2, (PANEL - fitted[1]) // 2
    panel[top : top + fitted[0], left : left + fitted[1]] = image
    draw_text(panel, PANEL // 2 - 5, 4, "R", GREY)
    draw_text(panel, PANEL // 2 - 5, PANEL - 4 - text_width("L", 2), "L", GREY)
    return panel


def _magnified(
    hu: npt.NDArray[np.generic], window: tuple[float, float], mask: npt.NDArray[np.bool_]
) -> tuple[Pixels, int]:
    """The surroundings of a mask, magnified by a whole number and outlined; black beyond the slice."""
    top, bottom, left, right = _extent(mask)
    wanted = 2 * max(bottom - top + 1, right - left + 1)
    magnification = next((factor for factor in MAGNIFICATIONS if PANEL // factor >= wanted), 1)
    side = PANEL // magnification
    first_row, first_column = (top + bottom + 1 - side) // 2, (left + right + 1 - side) // 2
    crop = np.zeros((side, side, 3), dtype=np.uint8)
    cut = np.zeros((side, side), dtype=np.bool_)
    rows = slice(max(0, first_row), max(0, min(hu.shape[0], first_row + side)))
    columns = slice(max(0, first_column), max(0, min(hu.shape[1], first_column + side)))
    inside = np.s_[
        rows.start - first_row : rows.stop - first_row, columns.start - first_column : columns.stop - first_column
    ]
    crop[inside] = windowed(hu[rows, columns], window)
    cut[inside] = mask[rows, columns]
    image = resized(crop, (PANEL, PANEL))
    image[outline_of(cut.repeat(magnification, axis=0).repeat(magnification, axis=1))] = RED
    return image, magnification


def _finding_column(axial: CtVolume, components: Components, finding: Finding, window: tuple[float, float]) -> Pixels:
    depth, mask = _largest_slice(components, finding)
    hu = axial.hu[depth]
    crop, magnification = _magnified(hu, window, mask)
    _draw_scale(crop, magnification / axial.spacing_mm[2])
    title = f"{100 * finding.confidence:.0f}%  {finding.diameter_mm:.1f}mm"
    return _column(str(finding.id), title, f"{depth + 1}/{axial.shape[0]}", [_whole_slice(hu, window, mask), crop])


def _draw_scale(crop: Pixels, pixels_per_mm: float) -> None:
    """A bar of 10 mm along the width, where it fits."""
    length = round(10 * pixels_per_mm)
    if 2 <= length <= PANEL - 12:
        crop[-26:-4, 3 : 9 + max(length, text_width("10mm", 2))] = 0
        crop[-9:-7, 6 : 6 + length] = WHITE
        draw_text(crop, PANEL - 23, 6, "10mm", WHITE)


def _column(number: str, title: str, footer: str, panels: list[Pixels]) -> Pixels:
    header = np.zeros((HEADER, PANEL, 3), dtype=np.uint8)
    draw_text(header, 6, 6, number, AMBER, scale=3)
    draw_text(header, 6, 6 + text_width(number + "   ", 3), title, WHITE, scale=3)
    foot = np.zeros((HEADER - 6, PANEL, 3), dtype=np.uint8)
    draw_text(foot, 5, 6, footer, GREY, scale=2)
    gap = np.zeros((GAP, PANEL, 3), dtype=np.uint8)
    parts = [part for panel in panels for part in (panel, gap)]
    return np.concatenate([header, *parts, foot])
