"""From counts to what is reported, each over all nodules and all answered slices of the evaluation set.

With H hit pixels of nodules, P pixels of nodules and F false-positive pixels, all at or above one threshold,

    pixel recall = H / P,    pixel precision = H / (H + F),

lesion sensitivity is the share of nodules that a connected component of marked pixels touches; as every marked pixel
lies in some component, these are the nodules with one hit pixel or more. The false-positive volume is that of one copy
of the block. Precision depends on how many nodules were inserted; the other three do not.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from edgelung.converters.evaluation.counts import Counts
from edgelung.errors import InputError

__all__ = ["METRICS", "measure_metrics", "metrics_of", "threshold_at_volume"]

METRICS: Final = ("pixel recall", "pixel precision", "false-positive volume mm3", "lesion sensitivity")


def metrics_of(
    hits: np.ndarray, false: np.ndarray, found: np.ndarray, pixels: np.ndarray, false_mm3: float, nodules: int
) -> np.ndarray:
    """(..., 4) values in the order of METRICS from sums of any common shape.

    Args:
        hits: Hit pixels of nodules.
        false: False-positive pixels.
        found: Nodules with a hit pixel.
        pixels: Pixels of nodules, above 0.
        false_mm3: What one false-positive pixel adds to the volume.
        nodules: How many there are.

    Nothing marked at all has the precision 0: it must not look like a network that marks only nodules.
    """
    precision = hits / np.maximum(hits + false, 1)
    return np.stack([hits / pixels, precision, false * false_mm3, found / nodules], axis=-1)


def measure_metrics(counts: Counts, threshold: float) -> dict[str, float]:
    """The metrics at a threshold, which is one of the levels.

    Raises:
        InputError: If it is not.
    """
    hits, false = counts.at(threshold)
    values = metrics_of(
        np.asarray(hits.sum()),
        np.asarray(false.sum()),
        np.asarray((hits > 0).sum()),
        np.asarray(counts.nodule_pixels.sum()),
        counts.voxel_volume_mm3 / counts.copies,
        len(hits),
    )
    return dict(zip(METRICS, map(float, values), strict=True))


def threshold_at_volume(counts: Counts, volume_mm3: float) -> float:
    """The lowest level at which the false-positive volume is at most this.

    Fix it on one block and apply it to another: fixed and applied on the same one, it fits that one's mistakes.

    Args:
        counts: Of the block that thresholds are fixed on.
        volume_mm3: Of one copy of that block, as :func:`measure_metrics` has it.

    Raises:
        InputError: When it is exceeded at every level.
    """
    volumes = counts.slice_false.sum(axis=0) * (counts.voxel_volume_mm3 / counts.copies)
    kept = np.flatnonzero(volumes <= volume_mm3)
    if not len(kept):
        hint = "this network marks too much to be compared at this volume; look at its recall and precision instead"
        raise InputError(f"no threshold up to {counts.levels[-1]:.7f} keeps to {volume_mm3:.1f} mm3", hint=hint)
    return float(counts.levels[kept[0]])
