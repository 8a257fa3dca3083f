"""Random views of a slice stack and its mask: flips, offset, scale and rotation in one resampling, then noise.

The kinds and strengths are those of chapters 12 and 13 of Stevens, Antiga and Viehmann, "Deep Learning with PyTorch"
(Manning, 2020): any rotation, scale +-20 %, 25 HU of noise. One matrix does what takes MONAI's transforms several
passes, straight from the memory-mapped scan, so that nothing has to be invented at the border of a crop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

__all__ = ["View", "draw_view", "window_size"]

SCALE = 0.2
NOISE_HU = 25.0


@dataclass(frozen=True, eq=False)
class View:
    """One way to look at a place.

    Attributes:
        matrix: (2, 2) from (column, row) offsets in the view to those in the slice, in pixels.
        offset: (row, column) of the view's middle from the place, in whole pixels.
        reverse: Whether the stack is seen from the other end.
        noise_hu: Standard deviation of added noise.
    """

    matrix: npt.NDArray[np.float32]
    offset: tuple[int, int]
    reverse: bool
    noise_hu: float

    def resample(self, window: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
        """Interpolate linearly.

        Args:
            window: (slices, length, length) around the middle of the view, of :func:`window_size`.
            size: Height and width of the view in pixels.

        Returns:
            (slices, size, size) float32.
        """
        # With align_corners=False, 2 / n in grid_sample's units is one pixel of an axis of n, from its middle.
        theta = torch.zeros(1, 2, 3)
        theta[0, :, :2] = torch.from_numpy(self.matrix) * size / window.shape[-1]
        grid = functional.affine_grid(theta, [1, 1, size, size], align_corners=False)
        stack = torch.from_numpy(window)[np.newaxis]
        seen: npt.NDArray[np.float32] = functional.grid_sample(stack, grid, align_corners=False)[0].numpy()
        return seen[::-1] if self.reverse else seen


def draw_view(random: np.random.Generator, most_offset: int, *, may_reverse: bool) -> View:
    """A random view.

    Args:
        random: Of all choices.
        most_offset: Largest offset along rows and along columns, in pixels.
        may_reverse: Whether the stack may be seen from its other end: only when it has as much context on both sides.
    """
    angle = random.uniform(0, 2 * math.pi)
    scale = random.uniform(1 - SCALE, 1 + SCALE)
    turn = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    mirror = np.diag([random.choice([-1.0, 1.0]), 1.0])  # the other mirror is this one and a rotation
    row, column = (int(random.integers(-most_offset, most_offset + 1)) for _ in range(2))
    reverse = bool(random.random() < 0.5) and may_reverse
    matrix = (scale * np.array(turn) @ mirror).astype(np.float32)
    return View(matrix, (row, column), reverse, random.uniform(0, NOISE_HU))


def window_size(size: int) -> int:
    """Height and width in pixels of what a view of ``size`` pixels can see, however it is turned and scaled; even."""
    return 2 * (math.ceil(size * (1 + SCALE) * math.sqrt(0.5)) + 1)
