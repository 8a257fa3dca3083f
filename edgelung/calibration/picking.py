"""Which places of one CT become slabs: inside of the lungs, spread over the depth and over intensities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgelung.spec import SlicePacking
from edgelung.volume import CtVolume

__all__ = ["lung_starts", "pick_spread"]

LUNG_SHARE = 0.1  # of the largest slice's lung area: a slice with less shows the tip of a lung
DRAWS = 4  # places drawn in each layer, of which the one with the rarest intensities is taken
BINS_HU = np.arange(-1000, 1001, 50)  # from air to bone


def lung_starts(lungs: npt.NDArray[np.bool_], packing: SlicePacking) -> list[int]:
    """First answered slices of all slabs that lie whole in the volume and answer for slices with lung only.

    Args:
        lungs: (depth, height, width) mask, in axial order.
        packing: Which slices a run sees.
    """
    areas = lungs.sum(axis=(1, 2))
    has_lung = areas >= max(LUNG_SHARE * areas.max(), 1)
    last = len(lungs) - packing.outputs - packing.after
    return [first for first in range(packing.before, last + 1) if has_lung[first : first + packing.outputs].all()]


def pick_spread(
    volume: CtVolume, starts: Sequence[int], packing: SlicePacking, count: int, rng: np.random.Generator
) -> list[int]:
    """Up to ``count`` of the places, in rising order.

    The places are cut into ``count`` layers of equal size from the lowest to the highest. In each, up to four are
    drawn, and the one is taken whose histogram of HU is furthest from the sum of those taken before.

    Args:
        volume: In its axial view.
        starts: First answered slices to choose from, rising.
        packing: Which slices a run sees.
        count: How many.
        rng: Draws; it is advanced.
    """
    taken: list[int] = []
    seen = np.zeros(len(BINS_HU) + 1)
    for layer in np.array_split(np.asarray(starts, dtype=int), count):
        if not layer.size:
            continue
        drawn = rng.choice(layer, min(DRAWS, layer.size), replace=False)
        histograms = [_histogram(volume, int(first), packing) for first in drawn]
        distances = [_distance(histogram, seen) for histogram in histograms]
        best = int(np.argmax(distances))
        taken.append(int(drawn[best]))
        seen += histograms[best]
    return sorted(taken)


def _histogram(volume: CtVolume, first: int, packing: SlicePacking) -> npt.NDArray[np.float64]:
    """Share of the answered voxels in each bin, the two open ends included."""
    places = np.searchsorted(BINS_HU, volume.hu[first : first + packing.outputs].ravel(), side="right")
    counts = np.bincount(places, minlength=len(BINS_HU) + 1)
    return np.asarray(counts / counts.sum())


def _distance(histogram: npt.NDArray[np.float64], seen: npt.NDArray[np.float64]) -> float:
    """L1 distance of two distributions, 0 to 2; 0 from nothing."""
    return float(np.abs(histogram - seen / seen.sum()).sum()) if seen.any() else 0.0
