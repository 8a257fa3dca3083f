"""Whole slices to validate on, prepared as the board prepares them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from edgelung.converters.datasets.labelled import LabelledScan
from edgelung.errors import InputError
from edgelung.runtime.preprocess import prepare_stack
from edgelung.spec import NetworkInput

__all__ = ["SliceSample", "WholeSlices"]

EMPTY_EVERY = 8  # neighbouring slices without a nodule tell the same, and there are fifty times as many


@dataclass(frozen=True, eq=False)
class SliceSample:
    """What one run sees, and what it should answer.

    Attributes:
        values: (1, slices, height, width) float32 input.
        mask: (1, outputs, height, width) bool, grown from annotations.
        exact: The same from a phantom's exact mask, or None.
    """

    values: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    exact: npt.NDArray[np.bool_] | None


class WholeSlices(Dataset[SliceSample]):
    """Every run that answers for a nodule, and every eighth of the others.

    Args:
        scans: Not trained on.
        spec: The network's input; the plane is each scan's own.

    Raises:
        InputError: If no scan holds a nodule, or a plane does not suit the network's stride.
    """

    def __init__(self, scans: Sequence[LabelledScan], spec: NetworkInput) -> None:
        self._scans = scans
        self._spec = spec
        align, outputs = spec.in_plane.align_px, spec.packing.outputs
        self._places: list[tuple[int, int]] = []
        for number, scan in enumerate(scans):
            depth, *plane = scan.hu.shape
            if any(size % align for size in plane):
                raise InputError(f"slices of {plane[0]}x{plane[1]} are no multiple of the network's stride {align}")
            labelled = set(np.flatnonzero(scan.mask.any(axis=(1, 2))) // outputs)
            firsts = range(0, depth, outputs)
            self._places += [(number, first) for first in firsts if first // outputs in labelled]
            self._places += [(number, first) for first in firsts if first // outputs not in labelled][::EMPTY_EVERY]
        if not any(scan.mask.any() for scan in scans):
            raise InputError("no validation scan holds a nodule", hint="give more scans")

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> SliceSample:
        number, first = self._places[index]
        scan, packing = self._scans[number], self._spec.packing
        last = len(scan.hu) - 1
        slices = np.clip(np.arange(first - packing.before, first + packing.outputs + packing.after), 0, last)
        answered = slices[packing.before : packing.before + packing.outputs]
        return SliceSample(
            prepare_stack(scan.hu[slices], self._spec),
            scan.mask[answered][np.newaxis],
            None if scan.exact is None else scan.exact[answered][np.newaxis],
        )
