"""The epochs of a training, as each of its processes runs them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from edgelung.converters.datasets import Crops, WholeSlices, crop_batches, open_cached_scan
from edgelung.converters.models import get_model_entry
from edgelung.converters.tasks import nodule_segmentation_spec
from edgelung.converters.training.checkpoints import Progress, RunFolder
from edgelung.converters.training.curves import Curves, overlay
from edgelung.converters.training.loop import Batch, run_steps
from edgelung.converters.training.losses import SegmentationLoss
from edgelung.converters.training.recipe import TrainRecipe
from edgelung.converters.training.validation import Validation, mark, validate

__all__ = ["Job", "fit"]

PICTURES = 4  # slices that TensorBoard shows
ENTROPY_WEIGHT = 20.0  # of cross-entropy in the first step; it fades to 0 in the last, see docs/training.md


@dataclass(frozen=True)
class Job:
    """What every process has to know; travels between them.

    Attributes:
        recipe: How to train.
        folder: Where results go.
        training: Cache entries of the scans to train on.
        validation: Cache entries of the scans to validate on.
        note: Called in the first process with what a user should know.
        tick: Called there with what goes on.
    """

    recipe: TrainRecipe
    folder: RunFolder
    training: tuple[Path, ...]
    validation: tuple[Path, ...]
    note: Callable[[str], None]
    tick: Callable[[str], None]


def fit(fabric: Fabric, job: Job) -> None:
    """Train and leave the results in the job's folder; called by ``Fabric.launch`` in every process.

    Raises:
        ConversionError: When the network stops giving numbers.
        InputError: When a checkpoint or a cache entry cannot be used.
    """
    training = _Training(fabric, job)
    try:
        while not training.done:
            training.epoch()
    finally:
        training.close()


class _Training:
    """One process's network, optimizer and data, and where the training is."""

    def __init__(self, fabric: Fabric, job: Job) -> None:
        recipe = job.recipe
        self._fabric, self._job, self._recipe = fabric, job, recipe
        torch.manual_seed(recipe.seed)
        entry = get_model_entry(recipe.model)
        # Channels last: a step takes 330 ms instead of 436 on one core, 168 instead of 232 with bfloat16.
        self._network = entry.build_default().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        spec = nodule_segmentation_spec(geometry=entry.geometry(self._network)).input
        self._spec = spec
        self._slices = WholeSlices([open_cached_scan(path) for path in job.validation], spec)
        scans = [open_cached_scan(path) for path in job.training]
        self._crops = Crops(
            scans, spec, crop=recipe.crop, inner=recipe.inner, positives=recipe.positives, seed=recipe.seed
        )
        optimizer = torch.optim.Adam(self._network.parameters(), lr=recipe.learning_rate)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
        )
        self._model, self._optimizer = fabric.setup(self._network, optimizer)
        self.epochs = 0
        self.history: list[Validation] = []
        self._losses: list[float] = []
        self._take_up(job.folder.load() if recipe.resume else None)
        self._batches: Iterator[Batch] = crop_batches(
            self._crops,
            recipe.batch,
            first=self.epochs * recipe.steps_per_epoch,
            rank=fabric.global_rank,
            ranks=fabric.world_size,
            workers=recipe.workers,
        )
        first = fabric.is_global_zero
        self._curves = Curves(job.folder.curves, self._step) if first else None
        self._tick = job.tick if first else None
        self._start, self._first_step, self._taken = time.monotonic(), self._step, self._step

    @property
    def done(self) -> bool:
        """Whether all epochs are done, or validations did not get better for too long."""
        patience = self._recipe.patience
        scores = [row.grown.f1 for row in self.history]
        tired = bool(patience) and bool(scores) and len(scores) - 1 - scores.index(max(scores)) >= patience
        return tired or self.epochs >= self._recipe.epochs

    def epoch(self) -> None:
        """Train for an epoch, validate when it is time, and write the checkpoint."""
        recipe, fabric = self._recipe, self._fabric
        # For networks that draw random numbers: what they draw depends on nothing that came before.
        seeds = np.random.SeedSequence([recipe.seed, self.epochs, fabric.global_rank])
        torch.manual_seed(int(seeds.generate_state(1)[0]))
        self._model.train()
        own = run_steps(
            fabric,
            self._model,
            self._optimizer,
            self._batches,
            self._loss,
            steps=recipe.steps_per_epoch,
            schedule=self._schedule,
            tick=self._tell_step if self._tick else None,
        )
        losses = _mean(fabric, torch.tensor(own, device=fabric.device)).tolist()
        self._average_statistics()
        if self._curves:
            self._curves.losses(self._step + 1, losses)
        self._losses += losses
        self.epochs += 1
        if self.epochs % recipe.validate_every == 0 or self.epochs == recipe.epochs:
            self._validate()
        if fabric.is_global_zero:
            self._job.folder.save(Progress(self.epochs, tuple(self._losses), tuple(self.history), self._states()))
        fabric.barrier()

    def close(self) -> None:
        """Write what is left of the curves."""
        if self._curves:
            self._curves.close()

    @property
    def _step(self) -> int:
        return self.epochs * self._recipe.steps_per_epoch

    def _loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        fading = 1 - self._taken / self._recipe.steps
        self._taken += 1
        return SegmentationLoss(self._recipe.recall_weight, fading * ENTROPY_WEIGHT)(model, batch)

    def _validate(self) -> None:
        grown, exact = validate(self._fabric, self._network, self._slices, self._tell_slice if self._tick else None)
        row = Validation(self._step, float(np.mean(self._losses)), grown, exact)
        best = max((earlier.grown.f1 for earlier in self.history), default=-1.0)
        self.history.append(row)
        self._losses.clear()
        if not self._curves:
            return
        better = grown.f1 > best
        if better:
            self._job.folder.save_best(self._network.state_dict())
        self._curves.validation(row)
        self._show()
        self._job.note(
            f"epoch {self.epochs}: loss {row.loss:.3f}, recall {grown.recall:.3f}, precision {grown.precision:.3f}, "
            f"F1 {grown.f1:.3f}{', best so far' if better else ''}"
        )

    def _show(self) -> None:
        """Pictures of the same few slices each time."""
        before, rule = self._spec.packing.before, self._spec.intensity
        count = len(self._slices)
        for number in range(min(PICTURES, count)):
            sample = self._slices[number * count // PICTURES]
            marked = mark(self._fabric, self._network, torch.from_numpy(sample.values))
            hu = (sample.values[0, before] - rule.offset) / rule.scale
            pixels = overlay(hu, marked[0, 0], torch.from_numpy(sample.mask[0, 0]))
            if self._curves:
                self._curves.picture(number + 1, pixels, self._step)

    def _average_statistics(self) -> None:
        """Give BatchNorms of all processes the mean of what each has seen."""
        for buffer in self._network.buffers():
            if buffer.is_floating_point():
                buffer.copy_(_mean(self._fabric, buffer))

    def _states(self) -> dict[str, Any]:
        return {
            "model": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "precision": self._fabric.strategy.precision.state_dict(),
        }

    def _take_up(self, progress: Progress | None) -> None:
        if progress is None:
            return
        self.epochs, self._losses, self.history = progress.epoch, list(progress.losses), list(progress.history)
        self._network.load_state_dict(progress.states["model"])
        self._optimizer.load_state_dict(progress.states["optimizer"])
        self._schedule.load_state_dict(progress.states["schedule"])
        self._fabric.strategy.precision.load_state_dict(progress.states["precision"])

    def _tell_step(self, done: int, total: int, loss: float) -> None:
        step = self._step + done
        left = (time.monotonic() - self._start) / (step - self._first_step) * (self._recipe.steps - step)
        self._job.tick(f"epoch {self.epochs + 1}, step {done} of {total}: loss {loss:.3f}, {_duration(left)} left")

    def _tell_slice(self, done: int, total: int) -> None:
        self._job.tick(f"epoch {self.epochs}: validating, slice {done} of {total}")


def _mean(fabric: Fabric, value: torch.Tensor) -> torch.Tensor:
    mean = fabric.all_reduce(value, reduce_op="mean")
    if not isinstance(mean, torch.Tensor):
        raise TypeError(f"a tensor was reduced to a {type(mean).__name__}")
    return mean


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
