"""Measure whether tiles of a slice get the answer of the whole slice.

The runtime covers slices larger than the compiled plane by tiles, and keeps what lies ``halo_px`` away from a border
that tiles share. That is right for a network whose answer at a pixel depends on at most ``halo_px`` pixels around it
and not on where in the plane it lies. InstanceNorm, global pooling, attention and learnt position maps break it.

So the network answers to a slice and to the same slice shifted by some pixels, with something else where it came in.
Where both see the same around a pixel, they have to say the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgelung.errors import InputError
from edgelung.spec import InPlaneRule, NetworkInput

__all__ = ["TilingAgreement", "measure_tiling", "require_tiling"]

Array = npt.NDArray[np.float32]
RELATIVE_LIMIT = 0.05  # as for float16 (docs/verification.md): what a network may lose without a word about int8
DICE_LIMIT = 0.99
UNCHANGED = 1e-3  # of the spread; a hundred times what float32 rounds


@dataclass(frozen=True)
class TilingAgreement:
    """Answers of a shifted slice beside those of the slice, where neither sees a border or what came in.

    Attributes:
        relative_rms: Root mean square of the difference over the spread of the answers.
        dice: Of the masks; 1 when both are empty.
        reach_px: From this distance of a border on, answers agree; None when they do nowhere.
        shifts: How many shifted slices were compared; 0 when ``halo_px`` leaves no room for it.
    """

    relative_rms: float
    dice: float
    reach_px: int | None
    shifts: int

    @property
    def agrees(self) -> bool:
        """Whether tiles may be stitched."""
        return self.relative_rms <= RELATIVE_LIMIT and self.dice >= DICE_LIMIT

    def describe(self) -> str:
        """One line for people."""
        if not self.shifts:
            return "halo_px leaves no room to measure whether they agree with the whole slice"
        how_far = "nowhere exactly" if self.reach_px is None else f"from {self.reach_px} pixels off a border on"
        return (
            f"mask Dice {self.dice:.4f} and difference relative to spread {self.relative_rms:.2g} against the "
            f"same pixels in another place of the plane; they agree {how_far}"
        )


def measure_tiling(
    run: Callable[[Array], Array], spec: NetworkInput, tensor: Array, threshold: float
) -> TilingAgreement:
    """Compare a network's answers to a slice with those to the slice shifted up, down, left and right.

    Args:
        run: The network, from the input's shape to (1, outputs, height, width).
        spec: Its input.
        tensor: One input, (1, slices, height, width) float32.
        threshold: From which answer on a pixel belongs to the mask, in the unit of the output.
    """
    whole = run(tensor)
    spread = float(whole.std())
    squares, pixels, both, marked, reaches = 0.0, 0, 0, 0, []
    shifts = 0
    for axis, step in _shifts(spec):
        shifted = run(_shift(tensor, axis, step))
        ours, theirs = _overlap(whole, shifted, axis, step)
        halo = spec.in_plane.halo_px
        inner = _slice(axis, halo, ours.shape[axis] - halo)
        one, other = ours[inner].astype(np.float64), theirs[inner].astype(np.float64)
        squares += float(((one - other) ** 2).sum())
        pixels += one.size
        both += int(np.count_nonzero((one >= threshold) & (other >= threshold)))
        marked += int(np.count_nonzero(one >= threshold) + np.count_nonzero(other >= threshold))
        reaches.append(_reach(np.abs(ours - theirs) > UNCHANGED * max(spread, 1e-6), axis))
        shifts += 1
    if not shifts:
        return TilingAgreement(0.0, 1.0, None, 0)
    relative = (squares / pixels) ** 0.5 / spread if spread > 0 else 0.0
    reach = None if None in reaches else max(one for one in reaches if one is not None)
    return TilingAgreement(relative, 2 * both / marked if marked else 1.0, reach, shifts)


def require_tiling(found: TilingAgreement, rule: InPlaneRule, plane: tuple[int, int]) -> None:
    """Refuse a spec that allows tiles which would get other answers than the slice.

    Raises:
        InputError: With the measured difference, and what to write into the spec.
    """
    if found.agrees or rule.max_tiles == 1:
        return
    size = f"{plane[0]}x{plane[1]}"
    measured = f"mask Dice {found.dice:.3f}, difference relative to spread {found.relative_rms:.2g}"
    if found.reach_px is not None and found.reach_px > rule.halo_px:
        problem = f"tiles of {size} get other answers than the whole slice ({measured}): the network sees further"
        hint = f"set halo_px = {found.reach_px}, which its answers here need, or max_tiles = 1"
        raise InputError(problem, field="in_plane.halo_px", hint=hint)
    cause = "a pixel's answer depends on the whole slice (InstanceNorm, global pooling, attention) or on where it lies"
    problem = f"tiles of {size} get other answers than the whole slice ({measured}): {cause}"
    hint = "set max_tiles = 1 under [input.in_plane], and compile for the plane of your slices"
    raise InputError(problem, field="in_plane.max_tiles", hint=hint)


def _shifts(spec: NetworkInput) -> Iterator[tuple[int, int]]:
    """(axis, pixels), both ways: about half of what the halo leaves.

    A multiple of ``align_px`` that two and three times that do not divide: tiles may lie at any multiple.
    """
    rule = spec.in_plane
    for axis, size in zip((2, 3), spec.tensor.plane, strict=True):
        room = size - 2 * rule.halo_px
        counts = range(max(room // 2 // rule.align_px, 1), 0, -1)
        step = next(count for count in counts if math.gcd(count, 6) == 1) * rule.align_px
        if step < room:
            yield axis, step
            yield axis, -step


def _shift(tensor: Array, axis: int, step: int) -> Array:
    """The slice moved by ``step`` pixels towards lower indices; the highest value comes in at the other end."""
    size = tensor.shape[axis]
    moved = np.full_like(tensor, tensor.max())
    start, stop = max(-step, 0), size - max(step, 0)
    moved[_slice(axis, start, stop)] = tensor[_slice(axis, start + step, stop + step)]
    return moved


def _overlap(whole: Array, shifted: Array, axis: int, step: int) -> tuple[Array, Array]:
    """The same pixels of both."""
    size = whole.shape[axis]
    start, stop = max(-step, 0), size - max(step, 0)
    return whole[_slice(axis, start + step, stop + step)], shifted[_slice(axis, start, stop)]


def _slice(axis: int, start: int, stop: int) -> tuple[slice, ...]:
    return tuple(slice(start, stop) if one == axis else slice(None) for one in range(4))


def _reach(differs: npt.NDArray[np.bool_], axis: int) -> int | None:
    """Distance from the ends of an axis behind which nothing differs; None when the middle does."""
    lines = np.flatnonzero(differs.any(axis=tuple(one for one in range(4) if one != axis)))
    if not len(lines):
        return 0
    length = differs.shape[axis]
    depth = int(np.minimum(lines, length - 1 - lines).max()) + 1
    return depth if depth < length // 2 else None
