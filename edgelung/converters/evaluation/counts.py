"""Pixels of each nodule and of each slice by probability, so that a threshold can be fixed afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from edgelung.converters.evaluation.cases import EvaluationSet
from edgelung.errors import ConversionError, InputError

__all__ = ["LEVELS", "Counts", "count_answers"]

Floats = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

# Evenly spaced as logits, since most pixels of a segmentation lie near 0 or 1; 0.5 is one of them, exactly. Beyond
# +-16 a sigmoid in float32 has no steps of its own left: the next number below 1 is 1 - 6e-8.
LEVELS: Final[Floats] = 1.0 / (1.0 + np.exp(-np.arange(-320, 321) / 20.0))
LEVELS.setflags(write=False)


@dataclass(frozen=True, eq=False)
class Counts:
    """Pixels at or above each level of probability.

    A false-positive pixel is one at or above the level outside of every nodule's mask, anywhere in the slice. The
    same slice of the CT in several copies counts as one slice with the sum of its pixels: it is one sample.

    Attributes:
        levels: (levels,) float64, rising.
        nodule_pixels: (nodules,) pixels of each nodule in the answered slices.
        nodule_hits: (nodules, levels) those at or above each level.
        slice_false: (slices, levels) false-positive pixels of each answered slice, over all copies.
        copies: How many copies ``slice_false`` is the sum of.
        voxel_volume_mm3: Of every pixel, the distance of slices being its depth.

    Raises:
        InputError: If shapes do not belong together, or a nodule has no pixel.
    """

    levels: Floats
    nodule_pixels: Int64
    nodule_hits: Int64
    slice_false: Int64
    copies: int
    voxel_volume_mm3: float

    def __post_init__(self) -> None:
        nodules, levels = len(self.nodule_pixels), len(self.levels)
        if self.nodule_hits.shape != (nodules, levels) or self.slice_false.shape[1:] != (levels,):
            raise InputError("counts of nodules, slices and levels do not belong together", hint="count again")
        if not nodules or not self.slice_false.shape[0] or self.copies < 1 or self.nodule_pixels.min() < 1:
            raise InputError("there is nothing to count on", hint="evaluate on slices with nodules")

    def at(self, threshold: float) -> tuple[Int64, Int64]:
        """(nodules,) hit pixels and (slices,) false-positive pixels at a threshold.

        Raises:
            InputError: If the threshold is none of the levels.
        """
        index = int(np.searchsorted(self.levels, threshold))
        if index == len(self.levels) or self.levels[index] != threshold:
            raise InputError(f"{threshold} is none of the levels that pixels were counted at", hint="count at it")
        return self.nodule_hits[:, index], self.slice_false[:, index]


def count_answers(
    evaluation: EvaluationSet, answers: Iterable[npt.NDArray[np.float32]], levels: Floats = LEVELS
) -> Counts:
    """Count the answers of a network.

    Args:
        evaluation: What was asked.
        answers: (1, 1, height, width) probabilities, one for each of :func:`iter_slabs`, in its order.
        levels: (levels,) rising probabilities to count at.

    Raises:
        ConversionError: When answers are missing or too many, have another shape, or are no probabilities: a network
            that failed has not found nothing.
    """
    taken = iter(answers)
    slice_false = np.zeros((len(evaluation.answered), len(levels)), dtype=np.int64)
    pixels, hits = [], []
    for case in evaluation.cases:
        shape = (len(case.nodules) + 1, len(levels) + 1)
        table = np.zeros(shape, dtype=np.int64)  # by nodule (0: none) and by how many levels a pixel reaches
        for row, index in enumerate(evaluation.answered):
            answer = next(taken, None)
            probability = _checked(answer, case.hu.shape[1:])
            reached = np.searchsorted(levels, probability.ravel(), side="right")
            ids = case.ids[index].ravel().astype(np.int64)
            here = np.bincount(ids * shape[1] + reached, minlength=table.size).reshape(shape)
            slice_false[row] += _at_or_above(here[:1])[0]
            table += here
        pixels.append(table[1:].sum(axis=1))
        hits.append(_at_or_above(table[1:]))
    if next(taken, None) is not None:
        raise ConversionError("evaluation", f"there are more answers than the {len(evaluation)} slabs")
    return Counts(
        np.asarray(levels, dtype=np.float64),
        np.concatenate(pixels),
        np.concatenate(hits),
        slice_false,
        len(evaluation.cases),
        evaluation.voxel_volume_mm3,
    )


def _checked(answer: npt.NDArray[np.float32] | None, plane: tuple[int, ...]) -> Floats:
    if answer is None:
        raise ConversionError("evaluation", "there are fewer answers than slabs")
    if answer.shape != (1, 1, *plane):
        raise ConversionError("evaluation", f"an answer has the shape {answer.shape}, not {(1, 1, *plane)}")
    probability: Floats = answer[0, 0].astype(np.float64)
    if not (probability.min() >= 0 and probability.max() <= 1):  # NaN fails both
        raise ConversionError("evaluation", "an answer is no probability in 0..1")
    return probability


def _at_or_above(table: Int64) -> Int64:
    """From pixels that reach exactly n levels (rows, levels + 1) to pixels at or above each level (rows, levels)."""
    return np.asarray(np.cumsum(table[:, ::-1], axis=1)[:, -2::-1])
