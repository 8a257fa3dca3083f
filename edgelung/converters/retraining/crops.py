"""Crops of scenes: where there is something to learn, and on the grid that the network pools on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from edgelung.converters.retraining.scenes import Scene
from edgelung.converters.training.loop import Batch
from edgelung.runtime.preprocess import prepare_stack
from edgelung.spec import NetworkInput

__all__ = ["CropStream"]

GRID_PX = 32  # a network that pools answers to a shifted plane differently; crops lie on this grid
NODULES, MARKED = 0.4, 0.2  # shares of crops around nodules, around what the original marks; the others anywhere
POINTS = 20_000  # of each kind and scene that are remembered

Points = npt.NDArray[np.int64]


class CropStream:
    """An endless, seeded stream of batches.

    A batch is (inputs, teacher's logits, mask, known, valid), all float32 of (batch, channels, height, width):
    ``known`` is 1 where the mask is the truth, ``valid`` where a network that sees the crop alone can answer as if it
    saw all of the slice.

    Args:
        scenes: Where to crop.
        spec: The network's input.
        crop: Height and width in pixels.
        margin: Width of the border that is not valid, except where it is the plane's own.
        batch: Crops per batch.
        seed: Of all choices.
    """

    def __init__(
        self, scenes: Sequence[Scene], spec: NetworkInput, *, crop: tuple[int, int], margin: int, batch: int, seed: int
    ) -> None:
        self._scenes, self._spec, self._crop, self._margin, self._batch = scenes, spec, crop, margin, batch
        self._random = np.random.default_rng(seed)
        self._nodules = [self._points(scene, scene.mask[scene.firsts]) for scene in scenes]
        self._marked = [
            self._points(scene, scene.known[scene.firsts] if scene.teacher is None else scene.teacher[:, 0] > 0)
            for scene in scenes
        ]

    def __iter__(self) -> Iterator[Batch]:
        while True:
            parts = zip(*(self._one() for _ in range(self._batch)), strict=True)
            yield tuple(torch.from_numpy(np.stack(part)) for part in parts)

    def _points(self, scene: Scene, wanted: npt.NDArray[np.bool_]) -> Points:
        """(n, 3) index of the run, row and column."""
        points: Points = np.argwhere(wanted)
        return points[self._random.integers(len(points), size=POINTS)] if len(points) > POINTS else points

    def _one(self) -> tuple[npt.NDArray[np.float32], ...]:
        number = int(self._random.integers(len(self._scenes)))
        scene, packing = self._scenes[number], self._spec.packing
        run, *centre = self._choose(number)
        rows, columns = (
            self._span(int(middle), size, length)
            for middle, size, length in zip(centre, self._crop, scene.hu.shape[1:], strict=True)
        )
        first = int(scene.firsts[run])
        start = first - packing.before
        answered = slice(first, first + packing.outputs)
        inputs = prepare_stack(scene.hu[start : start + packing.slices, rows, columns], self._spec)[0]
        mask = scene.mask[answered, rows, columns].astype(np.float32)
        known = scene.known[answered, rows, columns].astype(np.float32)
        if scene.teacher is None:
            teacher = np.zeros_like(mask)
        else:
            teacher = scene.teacher[run][:, rows, columns].astype(np.float32)
        valid = np.zeros_like(mask)
        valid[:, self._inner(rows, scene.hu.shape[1]), self._inner(columns, scene.hu.shape[2])] = 1.0
        return inputs, teacher, mask, known, valid

    def _choose(self, number: int) -> Points:
        scene, draw = self._scenes[number], self._random.random()
        points = self._nodules[number] if draw < NODULES else self._marked[number]
        if draw < NODULES + MARKED and len(points):
            chosen: Points = points[int(self._random.integers(len(points)))]
        else:
            chosen = self._random.integers((0, 0, 0), (len(scene.firsts), *scene.hu.shape[1:]))
        return chosen

    def _span(self, middle: int, size: int, length: int) -> slice:
        shift = int(self._random.integers(-size // 3, size // 3 + 1))
        start = int(np.clip(middle + shift - size // 2, 0, length - size)) // GRID_PX * GRID_PX
        return slice(start, start + size)

    def _inner(self, span: slice, length: int) -> slice:
        size = span.stop - span.start
        low = 0 if span.start == 0 else self._margin
        return slice(low, size if span.stop == length else size - self._margin)
