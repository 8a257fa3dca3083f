"""Crops of scenes: where there is something to learn, seen from either side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from edgelung.converters.retraining.scenes import Points, Scene
from edgelung.converters.training.loop import Batch
from edgelung.runtime.preprocess import prepare_stack
from edgelung.spec import NetworkInput

__all__ = ["CropStream"]

NODULES, MARKED = 0.4, 0.2  # shares of crops around nodules, around what the original marks; the others anywhere
POINTS_OF_NODULE = 500  # that are remembered: a nodule of 20 mm is drawn no more often than one of 4 mm

Array = npt.NDArray[np.float32]


class CropStream:
    """An endless, seeded stream of batches.

    A batch is (inputs, mask, known), all float32 of (batch, channels, height, width): ``known`` is 1 where the mask is
    the truth. Every second crop is mirrored left to right, and every second one has its slices in reverse, as far as
    there is as much context on both sides.

    Args:
        scenes: Where to crop.
        spec: The network's input.
        crop: Height and width in pixels.
        batch: Crops per batch.
        seed: Of all choices.
    """

    def __init__(
        self, scenes: Sequence[Scene], spec: NetworkInput, *, crop: tuple[int, int], batch: int, seed: int
    ) -> None:
        self._scenes, self._spec, self._crop, self._batch = scenes, spec, crop, batch
        self._random = np.random.default_rng(seed)
        self._nodules = [self._points_by_nodule(scene) for scene in scenes]

    def __iter__(self) -> Iterator[Batch]:
        while True:
            parts = zip(*(self._one() for _ in range(self._batch)), strict=True)
            yield tuple(torch.from_numpy(np.stack(part)) for part in parts)

    def _points_by_nodule(self, scene: Scene) -> list[Points]:
        """For each nodule, (n, 3) index of the run, row and column of some of its pixels."""
        nodules, _ = ndimage.label(scene.mask, np.ones((3, 3, 3)))
        points = np.argwhere(nodules[scene.firsts])
        owners = nodules[scene.firsts][tuple(points.T)]
        order = np.argsort(owners, kind="stable")
        parts = np.split(points[order], np.flatnonzero(np.diff(owners[order])) + 1)
        return [self._random.permutation(part)[:POINTS_OF_NODULE] for part in parts if len(part)]

    def _one(self) -> tuple[Array, Array, Array]:
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
        seen = slice(start, start + packing.slices)
        parts = (
            prepare_stack(scene.hu[seen, rows, columns], self._spec)[0],
            scene.mask[answered, rows, columns].astype(np.float32),
            scene.known[answered, rows, columns].astype(np.float32),
        )
        mirrored, reversed_ = self._random.random(2) < 0.5
        columns_step = -1 if mirrored else 1
        slices_step = -1 if reversed_ and packing.before == packing.after else 1
        inputs, mask, known = (np.ascontiguousarray(part[::slices_step, :, ::columns_step]) for part in parts)
        return inputs, mask, known

    def _choose(self, number: int) -> npt.NDArray[np.int64]:
        """(3,) index of the run, row and column."""
        scene, draw = self._scenes[number], self._random.random()
        nodules = self._nodules[number]
        if draw < NODULES and nodules:
            points = nodules[int(self._random.integers(len(nodules)))]
        elif draw < NODULES + MARKED and len(scene.marked):
            points = scene.marked
        else:
            return self._random.integers((0, 0, 0), (len(scene.firsts), *scene.hu.shape[1:]))
        chosen: npt.NDArray[np.int64] = points[int(self._random.integers(len(points)))]
        return chosen

    def _span(self, middle: int, size: int, length: int) -> slice:
        shift = int(self._random.integers(-size // 3, size // 3 + 1))
        start = int(np.clip(middle + shift - size // 2, 0, length - size))
        return slice(start, start + size)
