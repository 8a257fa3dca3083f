"""Connected components of a mask that arrives slice by slice.

The mask is held as runs (maximal stretches of set voxels along a row), never as a dense label volume: memory follows
the structures that were found, not the volume. Each slice is joined to the one before it by a batched union-find, as
in the run-based two-pass labelling of He, Chao and Suzuki (IEEE Trans. Image Process. 17(5), 2008, 749-756), but with
numpy working on all runs of a slice at once.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from edgelung.errors import InputError
from edgelung.runtime.run_graph import compressed, roots_of, touching

__all__ = ["ComponentBuilder", "Components", "Connectivity"]

Number = TypeVar("Number", bound=np.generic)
Connectivity = Literal[6, 18, 26]
Int16 = npt.NDArray[np.int16]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

MAX_SIDE = 2**15 - 1  # run tables are int16
# 10 million runs are a tenth of the voxels of a 512 x 512 x 400 series as salt noise: far above any lung. Measured, a
# run costs 22 bytes while slices arrive, and in finish() 60 in large components, 115 where each is a component of its
# own: 1.2 GB at the limit, which a board of 4 GB survives.
MAX_RUNS = 10_000_000

NO_RUNS = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int32))

# Which runs touch: (row offset, columns by which a run reaches beyond its ends), in the same and in the last slice.
_IN_SLICE: dict[int, tuple[tuple[int, int], ...]] = {6: ((-1, 0),), 18: ((-1, 1),), 26: ((-1, 1),)}
_ACROSS: dict[int, tuple[tuple[int, int], ...]] = {
    6: ((0, 0),),
    18: ((-1, 0), (0, 1), (1, 0)),
    26: ((-1, 1), (0, 1), (1, 1)),
}


@dataclass(frozen=True, eq=False)
class Components:
    """Connected components as runs, with what was measured of each.

    Components are numbered from 0 by their first voxel in C order (``scipy.ndimage.label`` has the same order, from
    1). Arrays are read-only.

    Attributes:
        shape: (depth, height, width) of the mask.
        runs: (runs, 4) int16: depth, row, first column, last column (inclusive). Component after component, within
            one in C order. Widen before arithmetic.
        offsets: (components + 1,) int64: component ``i`` owns ``runs[offsets[i]:offsets[i + 1]]``.
        voxels: (components,) int64: number of voxels.
        index_sum: (components, 3) int64: exact sum of the (depth, row, column) indices of its voxels.
        peak: (components,) float32: highest probability.
        box: (components, 2, 3) int32: lowest index along each axis, and one more than the highest.
    """

    shape: tuple[int, int, int]
    runs: Int16
    offsets: Int64
    voxels: Int64
    index_sum: Int64
    peak: npt.NDArray[np.float32]
    box: Int32

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                value.setflags(write=False)

    def __len__(self) -> int:
        return len(self.voxels)

    def runs_of(self, component: int) -> Int16:
        """(runs, 4) view of ``runs`` for one component."""
        self._check(component)
        view: Int16 = self.runs[self.offsets[component] : self.offsets[component + 1]]
        return view

    def mask_of(self, component: int) -> npt.NDArray[np.bool_]:
        """The component inside its box: bool of the shape ``box[component, 1] - box[component, 0]``."""
        runs = self.runs_of(component).astype(np.int64)
        low, high = self.box[component].astype(np.int64)
        depth, height, width = (int(side) for side in high - low)
        rows = ((runs[:, 0] - low[0]) * height + (runs[:, 1] - low[1])) * (width + 1) - low[2]
        steps = np.zeros(depth * height * (width + 1), dtype=np.int8)
        steps[rows + runs[:, 2]] = 1
        steps[
            rows + runs[:, 3] + 1
        ] = -1  # never where a run begins: runs are maximal, and rows end with a spare column
        filled = np.cumsum(steps, dtype=np.int8).astype(np.bool_)
        return filled.reshape(depth, height, width + 1)[..., :width]

    def voxels_by_slice(self, component: int) -> Int64:
        """How many voxels the component has in each slice of its box, from its lowest slice on."""
        runs = self.runs_of(component).astype(np.int64)
        low, high = self.box[component, :, 0]
        counts = np.zeros(int(high - low), dtype=np.int64)
        np.add.at(counts, runs[:, 0] - int(low), runs[:, 3] - runs[:, 2] + 1)
        return counts

    def slice_runs(self, depth: int) -> Int32:
        """(runs, 4) int32 of one slice: component, row, first and last column (inclusive); by component."""
        if not 0 <= depth < self.shape[0]:
            raise ValueError(f"slice {depth} is not one of {self.shape[0]}")
        where = np.flatnonzero(self.runs[:, 0] == depth)
        found = np.empty((len(where), 4), dtype=np.int32)
        found[:, 0] = np.searchsorted(self.offsets, where, side="right") - 1
        found[:, 1:] = self.runs[where, 1:]
        return found

    def _check(self, component: int) -> None:
        if not 0 <= component < len(self):
            raise ValueError(f"component {component} is not one of {len(self)}")


class ComponentBuilder:
    """Collects the slices of one volume.

    Args:
        shape_hw: (height, width) of every slice, each 1..32767.
        connectivity: 26 joins voxels that share a corner, 18 an edge, 6 a face.
        max_runs: A mask of more runs is refused.

    Raises:
        ValueError: On another connectivity or shape.
    """

    def __init__(self, shape_hw: tuple[int, int], connectivity: Connectivity = 26, *, max_runs: int = MAX_RUNS) -> None:
        if connectivity not in _ACROSS:
            raise ValueError(f"connectivity is 6, 18 or 26, not {connectivity}")
        height, width = shape_hw
        if not 1 <= min(height, width) <= max(height, width) <= MAX_SIDE:
            raise ValueError(f"slices have sides of 1..{MAX_SIDE}, got {height}x{width}")
        if not 1 <= max_runs < 2**31:
            raise ValueError(f"max_runs lies in 1..2**31 - 1, got {max_runs}")
        self._shape_hw = (height, width)
        self._connectivity = connectivity
        self._max_runs = max_runs
        self._depth = 0
        self._run_count = 0
        self._label_count = 0
        self._runs: list[Int16] = []
        self._labels: list[Int32] = []
        self._peaks: list[npt.NDArray[np.float32]] = []
        self._merged: list[Int32] = []  # (2, n): labels that turned out to be one with an older label
        self._finished = False
        self._last = NO_RUNS
        # A spare column after each row, and one before the first: runs end there, and neighbours look there in vain.
        self._padded = np.zeros(1 + height * (width + 1), dtype=np.bool_)

    def add_slice(self, probability: npt.NDArray[np.float32], threshold: float) -> None:
        """Take the next slice, in order of depth.

        Args:
            probability: (height, width) floats; those at or above the threshold form the mask. Not kept.
            threshold: In the same quantity as ``probability``.

        Raises:
            ValueError: On another shape, on NaN (a network that failed has not found nothing), or after ``finish``.
            InputError: When the mask has more than ``max_runs`` runs.
        """
        self._check_slice(probability, threshold)
        depth = self._depth
        self._depth += 1
        peak = probability.max()
        if np.isnan(peak):
            raise ValueError(f"slice {depth} holds NaN probabilities")
        if not peak >= threshold:
            self._last = NO_RUNS
            return
        mask = probability >= threshold
        starts, ends = self._find_runs(mask)
        self._run_count += len(starts)
        if self._run_count > self._max_runs:
            raise InputError(
                f"the mask of the first {depth + 1} slices has more than {self._max_runs} runs: noise, not structures",
                field="mask_probability",
                hint="raise the threshold, or check that the series fits the network's intensity rule",
            )
        labels = self._join(starts, ends)
        stride = self._shape_hw[1] + 1
        rows = starts // stride
        columns = (np.full_like(rows, depth), rows, starts - rows * stride, ends - rows * stride)
        self._runs.append(np.stack(columns, axis=1).astype(np.int16))
        self._labels.append(labels)
        lengths = ends - starts + 1
        peaks = np.maximum.reduceat(probability[mask], np.cumsum(lengths) - lengths)
        self._peaks.append(peaks.astype(np.float32, copy=False))
        self._last = (starts, ends, labels)

    def finish(self) -> Components:
        """The components of all slices. The builder is empty afterwards.

        Raises:
            ValueError: Without a slice, or when called again.
        """
        if self._finished or self._depth == 0:
            raise ValueError("finish() was called before" if self._finished else "no slice was added")
        self._finished = True
        self._last = NO_RUNS
        components = self._number_components()
        order = np.argsort(components, kind="stable")
        offsets = np.searchsorted(components, np.arange(components.max(initial=-1) + 2), sorter=order)
        del components
        runs = _take_all(self._runs, np.empty((0, 4), dtype=np.int16))[order]
        peaks = _take_all(self._peaks, np.empty(0, dtype=np.float32))[order]
        del order
        return _measure((self._depth, *self._shape_hw), runs, peaks, offsets.astype(np.int64, copy=False))

    def _check_slice(self, probability: npt.NDArray[np.float32], threshold: float) -> None:
        if self._finished:
            raise ValueError("finish() was called before")
        if probability.shape != self._shape_hw or probability.dtype.kind != "f":
            raise ValueError(f"a slice is {self._shape_hw} floats, got {probability.shape} {probability.dtype}")
        if np.isnan(threshold):
            raise ValueError("the threshold is NaN")
        if self._depth == MAX_SIDE:
            raise ValueError(f"a volume has at most {MAX_SIDE} slices")

    def _find_runs(self, mask: npt.NDArray[np.bool_]) -> tuple[Int64, Int64]:
        """First and last position (inclusive) of every run; a position is ``row * (width + 1) + column``."""
        height, width = self._shape_hw
        self._padded[1:].reshape(height, width + 1)[:, :width] = mask
        changes = np.flatnonzero(self._padded[1:] != self._padded[:-1])
        return changes[::2].astype(np.int64, copy=False), changes[1::2] - 1

    def _join(self, starts: Int64, ends: Int64) -> Int32:
        """Labels of the runs of a slice; nodes of the graph are the labels of the last slice, then these runs."""
        last_starts, last_ends, last_labels = self._last
        live, live_of = np.unique(last_labels, return_inverse=True)
        stride = self._shape_hw[1] + 1
        first_node = len(live)
        sides: list[tuple[Int64, Int64]] = []
        for row, reach in _IN_SLICE[self._connectivity]:
            this, other = touching(starts + row * stride - reach, ends + row * stride + reach, starts, ends)
            sides.append((this + first_node, other + first_node))
        if first_node:
            for row, reach in _ACROSS[self._connectivity]:
                shift = row * stride
                this, other = touching(starts + shift - reach, ends + shift + reach, last_starts, last_ends)
                sides.append((this + first_node, live_of[other].astype(np.int64, copy=False)))
        a, b = (np.concatenate(side) for side in zip(*sides, strict=True))
        nodes = first_node + len(starts)
        roots = roots_of(nodes, a, b)
        merged = np.flatnonzero(roots[:first_node] != np.arange(first_node))
        if len(merged):
            self._merged.append(np.stack((live[merged], live[roots[merged]])))
        is_new = roots[first_node:] == np.arange(first_node, nodes)
        new = self._label_count + np.cumsum(is_new) - 1
        self._label_count += int(np.count_nonzero(is_new))
        labels: Int32 = np.concatenate((live, new.astype(np.int32)))[roots[first_node:]]
        return labels

    def _number_components(self) -> Int32:
        """Component of every run, numbered by first voxel: labels rise in C order, and a merger keeps the older."""
        parents = np.arange(self._label_count, dtype=np.int32)
        merged = _take_all(self._merged, np.empty((2, 0), dtype=np.int32), axis=1)
        parents[merged[0]] = merged[1]
        parents = compressed(parents)
        numbers = np.cumsum(parents == np.arange(self._label_count), dtype=np.int32) - np.int32(1)
        numbered: Int32 = numbers[parents][_take_all(self._labels, np.empty(0, dtype=np.int32))]
        return numbered


def _take_all(parts: list[npt.NDArray[Number]], empty: npt.NDArray[Number], axis: int = 0) -> npt.NDArray[Number]:
    """The parts joined along an axis; the list is emptied, so that they do not stay in memory twice for long."""
    joined = np.concatenate([empty, *parts], axis=axis)
    parts.clear()
    return joined


def _measure(shape: tuple[int, int, int], runs: Int16, peaks: npt.NDArray[np.float32], offsets: Int64) -> Components:
    """Sums and extremes over the runs of each component; columns one at a time, to hold few wide copies."""
    firsts = offsets[:-1]
    count = len(firsts)
    box = np.empty((count, 2, 3), dtype=np.int32)
    index_sum = np.empty((count, 3), dtype=np.int64)
    voxels = np.empty(count, dtype=np.int64)
    peak = np.empty(count, dtype=np.float32)
    if count:
        for axis, (low, high) in enumerate(((0, 0), (1, 1), (2, 3))):
            box[:, 0, axis] = np.minimum.reduceat(runs[:, low], firsts)
            box[:, 1, axis] = np.maximum.reduceat(runs[:, high], firsts)
        box[:, 1] += 1
        lengths = runs[:, 3].astype(np.int64) - runs[:, 2] + 1
        np.add.reduceat(lengths, firsts, out=voxels)
        for axis in (0, 1):
            index_sum[:, axis] = np.add.reduceat(lengths * runs[:, axis], firsts)
        ends_sum = runs[:, 2].astype(np.int64) + runs[:, 3]
        index_sum[:, 2] = np.add.reduceat(lengths * ends_sum // 2, firsts)  # length * (first + last) is always even
        np.maximum.reduceat(peaks, firsts, out=peak)
    return Components(shape, runs, offsets, voxels, index_sum, peak, box)
