"""Random crops of packed slices with their nodule masks, each decided by its number alone.

Number ``i`` of a seed is the same crop in every process and in every run. So processes that train together share one
global batch, and a run that is taken up again goes on with the crops it would have had.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from edgelung.converters.datasets.augmentation import draw_view, window_size
from edgelung.converters.datasets.labelled import LabelledScan
from edgelung.errors import InputError
from edgelung.runtime.preprocess import apply_intensity
from edgelung.spec import NetworkInput

__all__ = ["Crops", "crop_batches"]


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """An endless, seeded sequence of crops for a segmentation network.

    A crop lies somewhere within a larger one around a positive or a negative point, and is flipped, scaled, rotated
    and made noisy (:mod:`edgelung.converters.datasets.augmentation`). Slices are packed and intensities mapped by the
    network's own rules.

    Args:
        scans: Where to crop.
        spec: The network's input; its plane is not used, the crop has its own.
        crop: Height and width in pixels of the region around a point that a crop lies in.
        inner: Height and width of the crop in pixels, at most ``crop``.
        positives: Share of crops around nodules, 0..1.
        seed: Of all choices.

    Raises:
        InputError: If no scan holds a nodule, or ``inner`` does not fit.
    """

    def __init__(
        self,
        scans: Sequence[LabelledScan],
        spec: NetworkInput,
        *,
        crop: int = 96,
        inner: int = 64,
        positives: float = 0.5,
        seed: int = 0,
    ) -> None:
        if not 0 < inner <= crop:
            raise InputError(f"{inner} pixels do not lie within {crop}", field="inner")
        self._scans = scans
        self._with_nodules = [scan for scan in scans if len(scan.positives)]
        if not self._with_nodules:
            raise InputError("no scan holds a nodule to train on")
        self._spec = spec
        self._inner = inner
        self._most_offset = (crop - inner) // 2
        self._positives = positives
        self._seed = seed

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """(slices, inner, inner) float32 input and (outputs, inner, inner) float32 mask, 0 or 1."""
        random = np.random.default_rng([self._seed, number])
        positive = random.random() < self._positives
        scans = self._with_nodules if positive else self._scans
        scan = scans[int(random.integers(len(scans)))]
        points = scan.positives if positive else scan.negatives
        depth, row, column = (int(place) for place in points[random.integers(len(points))])
        packing = self._spec.packing
        first = depth - int(random.integers(packing.outputs)) - packing.before
        view = draw_view(random, self._most_offset, may_reverse=packing.before == packing.after)
        slices = np.arange(first, first + packing.slices)
        answered = slices[packing.before : packing.before + packing.outputs]
        middle = (row + view.offset[0], column + view.offset[1])
        hu = view.resample(self._window(scan.hu, slices, middle), self._inner)
        mask = view.resample(self._window(scan.mask, answered, middle), self._inner)
        noisy = hu + view.noise_hu * random.standard_normal(hu.shape, dtype=np.float32)
        values = apply_intensity(noisy, self._spec.intensity)
        return torch.from_numpy(values), torch.from_numpy((mask > 0.5).astype(np.float32))

    def _window(
        self, array: npt.NDArray[Any], slices: npt.NDArray[np.int64], middle: tuple[int, int]
    ) -> npt.NDArray[np.float32]:
        """What a view can see; beyond the ends of the scan its last voxels are repeated."""
        size = window_size(self._inner)
        rows, columns = (np.arange(size) + place - size // 2 for place in middle)
        places = [
            np.clip(index, 0, length - 1) for index, length in zip((slices, rows, columns), array.shape, strict=True)
        ]
        return np.asarray(array[np.ix_(*places)], dtype=np.float32)


def crop_batches(
    crops: Crops, batch: int, *, first: int = 0, rank: int = 0, ranks: int = 1, workers: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """One process's share of an endless row of batches.

    Args:
        crops: Where they come from.
        batch: Crops of all processes together, in one step; a multiple of ``ranks``.
        first: Step to begin with, counted from 0.
        rank: Which process this is.
        ranks: How many there are.
        workers: Extra processes that prepare crops; 0 prepares them here.

    Returns:
        (batch / ranks, slices, inner, inner) inputs and (batch / ranks, outputs, inner, inner) masks, without end.
    """
    numbers = (range(step * batch + rank, (step + 1) * batch, ranks) for step in itertools.count(first))
    return iter(DataLoader(crops, batch_sampler=numbers, num_workers=workers))  # type: ignore[arg-type]
