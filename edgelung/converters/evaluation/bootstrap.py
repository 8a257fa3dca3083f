"""Percentile intervals by bootstrap: nodules are drawn anew for hits, slices of the CT for false positives.

Nodules are the samples of recall and sensitivity: pixels of one nodule are not independent. False positives do not
belong to a nodule, so slices are drawn for them, a slice with all its copies at once. Both draws are the same for the
two networks that are compared (paired: what is hard for both cancels out). Neighbouring slices resemble each other
and all are of one CT, so the intervals of false positives and precision are too narrow, and no interval speaks of
other patients. Thresholds are taken as given. Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from edgelung.converters.evaluation.counts import Counts
from edgelung.converters.evaluation.metrics import METRICS, metrics_of
from edgelung.errors import InputError

__all__ = ["Difference", "Interval", "OperatingPoint", "compare_metrics", "measure_with_intervals"]

DRAWS: Final = 2000
PERCENTILES: Final = (2.5, 97.5)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval.

    Attributes:
        value: Over all nodules and slices.
        low: 2.5th percentile of the draws.
        high: 97.5th percentile of the draws.
    """

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"an interval from {self.low} to {self.high}")


@dataclass(frozen=True)
class Difference(Interval):
    """A variant's value minus the original's, of the same nodules and slices."""

    @property
    def is_clear(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class OperatingPoint:
    """A network at one threshold.

    Attributes:
        threshold: A pixel at or above it is marked.
        metrics: Value and interval by metric.
        difference: Variant minus original by metric; empty for the original itself.
    """

    threshold: float
    metrics: dict[str, Interval]
    difference: dict[str, Difference] = field(default_factory=dict)


def measure_with_intervals(counts: Counts, threshold: float, *, seed: int = 0, draws: int = DRAWS) -> OperatingPoint:
    """The metrics of one network with intervals.

    Args:
        counts: Of the network.
        threshold: One of its levels.
        seed: Of the draws.
        draws: How many.

    Raises:
        InputError: If the threshold is none of the levels.
    """
    values = _values(counts, threshold, _draw(counts, seed, draws))
    return OperatingPoint(threshold, {name: Interval(*row) for name, row in _summary(values)})


def compare_metrics(
    variant: Counts, threshold: float, original: Counts, original_threshold: float, *, seed: int = 0, draws: int = DRAWS
) -> OperatingPoint:
    """A variant, and how it differs from the original on the same nodules and slices, each at its own threshold.

    Raises:
        InputError: If the two were not counted on the same nodules and slices, or a threshold is none of the levels.
    """
    same = np.array_equal(variant.nodule_pixels, original.nodule_pixels) and variant.copies == original.copies
    if not same or len(variant.slice_false) != len(original.slice_false):
        raise InputError("variant and original were counted on different sets", hint="evaluate both on one set")
    weights = _draw(original, seed, draws)
    ours, theirs = _values(variant, threshold, weights), _values(original, original_threshold, weights)
    return OperatingPoint(
        threshold,
        {name: Interval(*row) for name, row in _summary(ours)},
        {name: Difference(*row) for name, row in _summary(ours - theirs)},
    )


def _draw(counts: Counts, seed: int, draws: int) -> tuple[Floats, Floats]:
    """How often each nodule and each slice is drawn: (draws + 1, n), the first row once each."""
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    rows = []
    for size in (len(counts.nodule_pixels), len(counts.slice_false)):
        drawn = rng.multinomial(size, np.full(size, 1 / size), size=draws)
        rows.append(np.vstack([np.ones(size), drawn]))
    return rows[0], rows[1]


def _values(counts: Counts, threshold: float, weights: tuple[Floats, Floats]) -> Floats:
    """(draws + 1, metrics)."""
    hits, false = counts.at(threshold)
    by_nodule, by_slice = weights
    return metrics_of(
        by_nodule @ hits,
        by_slice @ false,
        by_nodule @ (hits > 0),
        by_nodule @ counts.nodule_pixels,
        counts.voxel_volume_mm3 / counts.copies,
        len(hits),
    )


def _summary(values: Floats) -> list[tuple[str, tuple[float, float, float]]]:
    low, high = np.percentile(values[1:], PERCENTILES, axis=0)
    return [(name, (float(values[0, i]), float(low[i]), float(high[i]))) for i, name in enumerate(METRICS)]
