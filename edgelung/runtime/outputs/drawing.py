"""Pixels for the overlays: the lung window, scaling, outlines, frames, and a pixel font. Images are RGB uint8."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["draw_brackets", "draw_text", "outline_of", "resized", "text_width", "windowed"]

Pixels = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

# 3 x 5 pixels a character: five rows from the top, three bits each.
GLYPHS = {
    "0": 0o75557, "1": 0o26227, "2": 0o71747, "3": 0o71717, "4": 0o55711, "5": 0o74717, "6": 0o74757, "7": 0o71122,
    "8": 0o75757, "9": 0o75717, ".": 0o00002, "%": 0o51245, "/": 0o11244, "-": 0o00700, " ": 0o00000,
    "D": 0o65556, "F": 0o74644, "G": 0o34553, "I": 0o72227, "L": 0o44447, "M": 0o57755, "N": 0o65555, "R": 0o65655,
    "S": 0o34216,
}  # fmt: skip
GLYPH_HEIGHT, GLYPH_WIDTH, ADVANCE = 5, 3, 4


def windowed(hu: npt.NDArray[Any], window: tuple[float, float]) -> Pixels:
    """Grey levels of a slice as RGB: black at and below ``window[0]`` HU, white at and above ``window[1]`` HU.

    Voxels that are not a number are black.
    """
    low, high = window
    if not low < high:
        raise ValueError(f"a window must rise, got {window}")
    levels = (np.asarray(hu, dtype=np.float32) - np.float32(low)) * np.float32(255.0 / (high - low))
    grey = np.rint(np.clip(np.nan_to_num(levels, nan=0.0), 0.0, 255.0)).astype(np.uint8)
    return np.repeat(grey[..., np.newaxis], 3, axis=-1)


def resized(pixels: Pixels, shape_hw: tuple[int, int]) -> Pixels:
    """Bilinear in both directions; when shrinking, the triangle widens with the step, so that nothing aliases."""
    rows = _weights(pixels.shape[0], shape_hw[0])
    columns = _weights(pixels.shape[1], shape_hw[1])
    scaled = np.einsum("yh,hwc->ywc", rows, pixels.astype(np.float32), optimize=True)
    scaled = np.einsum("xw,ywc->yxc", columns, scaled, optimize=True)
    result: Pixels = np.rint(np.clip(scaled, 0.0, 255.0)).astype(np.uint8)
    return result


def _weights(size: int, wanted: int) -> npt.NDArray[np.float32]:
    """(wanted, size) rows of a triangle filter, each of sum 1; borders repeat by renormalisation."""
    step = size / wanted
    centers = (np.arange(wanted) + 0.5) * step - 0.5
    weights = np.maximum(0.0, 1.0 - np.abs(np.arange(size) - centers[:, np.newaxis]) / max(step, 1.0))
    normal: npt.NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return normal


def outline_of(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Pixels just outside a mask: a line one pixel thin that hides nothing of it."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    outside: npt.NDArray[np.bool_] = grown & ~mask
    return outside


def draw_brackets(image: Pixels, top: int, left: int, bottom: int, right: int, colour: Colour) -> None:
    """Four corners of a rectangle (its last row and column included), cut where they leave the image."""
    arm = max(3, min(bottom - top, right - left) // 4)
    for row, down in ((top, 1), (bottom, -1)):
        for column, across in ((left, 1), (right, -1)):
            for step in range(arm):
                _dot(image, row + down * step, column, colour)
                _dot(image, row, column + across * step, colour)


def _dot(image: Pixels, row: int, column: int, colour: Colour) -> None:
    if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
        image[row, column] = colour


def text_width(text: str, scale: int) -> int:
    """Width of a line of text in pixels."""
    return max(0, len(text) * ADVANCE - 1) * scale


def draw_text(image: Pixels, row: int, column: int, text: str, colour: Colour, scale: int = 2) -> None:
    """Write a line with its upper left corner at (row, column), cut at the border; other characters stay blank."""
    bits = 1 << np.arange(GLYPH_HEIGHT * GLYPH_WIDTH)[::-1]
    for position, character in enumerate(text.upper()):
        glyph = (GLYPHS.get(character, 0) & bits).astype(np.bool_).reshape(GLYPH_HEIGHT, GLYPH_WIDTH)
        stamp = glyph.repeat(scale, axis=0).repeat(scale, axis=1)
        left = column + position * ADVANCE * scale
        for y, x in np.argwhere(stamp).tolist():
            _dot(image, row + y, left + x, colour)
