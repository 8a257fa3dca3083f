"""Random crops of packed slices with their nodule masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgelung.errors import InputError
from edgelung.runtime.preprocess import apply_intensity
from edgelung.spec import NetworkInput

__all__ = ["CropSampler", "LabelledScan"]


@dataclass(frozen=True, eq=False)
class LabelledScan:
    """One scan to train on.

    Attributes:
        hu: (depth, height, width) Hounsfield units, axial, depth towards superior.
        mask: (depth, height, width) bool, nodule or not.
        positives: (n, 3) voxel indices in nodules to take crops around.
        negatives: (n, 3) voxel indices elsewhere to take crops around, such as vessels.
    """

    hu: npt.NDArray[Any]
    mask: npt.NDArray[np.bool_]
    positives: npt.NDArray[np.int64]
    negatives: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.mask.shape != self.hu.shape or len(self.negatives) == 0:
            raise InputError("a labelled scan needs a mask of its own shape and points for negative crops")


class CropSampler:
    """An endless, seeded stream of batches for a segmentation network.

    Each batch holds crops around positive and around negative points, in the given share, shifted at random and
    mirrored and turned by quarters. Slices are packed and intensities mapped by the network's own rules.

    Args:
        scans: Where to crop.
        spec: The network's input; its plane is not used, the crop has its own.
        crop: Height and width of a crop in pixels.
        batch: Crops per batch.
        positives: Share of crops around nodules, 0..1.
        seed: Seed of all choices.
    """

    def __init__(
        self,
        scans: Sequence[LabelledScan],
        spec: NetworkInput,
        *,
        crop: int = 64,
        batch: int = 32,
        positives: float = 0.5,
        seed: int = 0,
    ) -> None:
        if not any(len(scan.positives) for scan in scans):
            raise InputError("no scan holds a nodule to train on")
        self._scans = scans
        self._spec = spec
        self._crop = crop
        self._batch = batch
        self._positives = positives
        self._random = np.random.default_rng(seed)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yields (batch, slices, crop, crop) inputs and (batch, outputs, crop, crop) float32 masks, 0 or 1."""
        while True:
            pairs = [self._one() for _ in range(self._batch)]
            inputs, masks = (np.stack(part) for part in zip(*pairs, strict=True))
            yield torch.from_numpy(inputs), torch.from_numpy(masks)

    def _one(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        random, packing = self._random, self._spec.packing
        scan = self._scans[int(random.integers(len(self._scans)))]
        wanted = random.random() < self._positives and len(scan.positives) > 0
        points = scan.positives if wanted else scan.negatives
        depth, *center = points[random.integers(len(points))]
        first = int(depth) - int(random.integers(packing.outputs))
        slices = np.clip(np.arange(first - packing.before, first + packing.outputs + packing.after), 0, None)
        slices = np.minimum(slices, len(scan.hu) - 1)
        rows, columns = (self._span(int(middle), size) for middle, size in zip(center, scan.hu.shape[1:], strict=True))
        answered = slices[packing.before : packing.before + packing.outputs]
        values = apply_intensity(scan.hu[slices, rows, columns], self._spec.intensity)
        mask = scan.mask[answered, rows, columns].astype(np.float32)
        turns, mirror = int(random.integers(4)), bool(random.random() < 0.5)
        return _turned(values, turns, mirror), _turned(mask, turns, mirror)

    def _span(self, middle: int, size: int) -> slice:
        shift = int(self._random.integers(-self._crop // 3, self._crop // 3 + 1))
        start = int(np.clip(middle + shift - self._crop // 2, 0, size - self._crop))
        return slice(start, start + self._crop)


def _turned(array: npt.NDArray[np.float32], turns: int, mirror: bool) -> npt.NDArray[np.float32]:
    turned = np.rot90(array, turns, axes=(1, 2))
    return np.ascontiguousarray(turned[..., ::-1] if mirror else turned)
