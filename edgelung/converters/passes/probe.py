"""The middle of a slab, on which something is proven that would take long on the whole of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["find_probe", "middle_of", "plane_of"]

TOLERANCE = 0.01  # of the spread of the output: what the border of a probe may change in its middle


def plane_of(whole: tuple[int, int], align_px: int, wanted: int) -> tuple[int, int]:
    """The smallest multiples of ``align_px`` that are at least ``wanted``, and no larger than the whole plane."""
    height, width = (min(-(-wanted // align_px) * align_px, size) for size in whole)
    return height, width


def middle_of(slab: Tensor, plane: tuple[int, int], align_px: int) -> Tensor:
    """The middle of a (..., height, width) slab, from a row and a column on that are multiples of ``align_px``."""
    starts = [(size - part) // 2 // align_px * align_px for size, part in zip(slab.shape[-2:], plane, strict=True)]
    rows, columns = (slice(start, start + part) for start, part in zip(starts, plane, strict=True))
    return slab[..., rows, columns].contiguous()


def find_probe(run: Callable[[Tensor], Tensor], slab: Tensor, align_px: int, wanted: int) -> Tensor:
    """The smallest middle of a slab on which a network is the one that it is on the whole slab.

    A network may run on the compiled plane alone (a learnt map of positions), or be another one on a smaller plane (a
    choice by the shape, a mean over the plane): the middle pixel tells. Twice the plane is tried as long as it differs.

    Args:
        run: The network: (1, C, height, width) to (1, outputs, height, width).
        slab: Input in the compiled shape.
        align_px: Total stride of the network.
        wanted: Height and width in pixels to begin with.

    Returns:
        The middle, or the slab itself when no smaller plane will do.
    """
    height, width = slab.shape[-2:]
    expected: Tensor | None = None
    while wanted < max(height, width):
        plane = plane_of((height, width), align_px, wanted)
        part = middle_of(slab, plane, align_px)
        try:
            with torch.no_grad():
                found = run(part.clone())
        except Exception:  # whatever the network raises: then it does not run on such a plane
            return slab
        if expected is None:
            with torch.no_grad():
                expected = run(slab.clone())
        if found.shape[-2:] != part.shape[-2:]:
            return slab
        off = (_middle_pixels(found) - _middle_pixels(middle_of(expected, plane, align_px))).abs().max()
        if float(off) <= TOLERANCE * float(expected.std()):
            return part
        wanted *= 2
    return slab


def _middle_pixels(output: Tensor) -> Tensor:
    rows, columns = (slice(size // 2 - 1, size // 2 + 1) for size in output.shape[-2:])
    return output[..., rows, columns]
