"""What a user asks a training for, checked before anything is done."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgelung.converters.models import get_model_entry
from edgelung.errors import InputError

__all__ = ["Precision", "TrainRecipe"]

Precision = Literal["32-true", "16-mixed", "bf16-mixed"]
# Where and how fast, but not what is computed: these may change when a training is taken up again.
_PLACES = ("data", "output", "cache", "accelerator", "devices", "workers", "resume", "overwrite")


@dataclass(frozen=True)
class TrainRecipe:
    """How to train a network from zero.

    Attributes:
        data: LUNA16 root, real or a phantom.
        output: Folder for best.pt, last.ckpt, training.json and the TensorBoard curves.
        model: Registry name of the network.
        epochs: How long to train.
        steps_per_epoch: Batches of an epoch; a checkpoint is written after each.
        batch: Crops in a batch, all processes together.
        crop: Height and width in pixels of the region around a point that a crop lies in.
        inner: Height and width of a crop in pixels.
        positives: Share of crops around nodules, 0..1.
        learning_rate: Its peak: a tenth of the steps it rises, then it falls (one cycle).
        recall_weight: Of missed nodule pixels; lower it to punish false positives more.
        validate_every: Epochs from one validation to the next; the last epoch is always validated.
        patience: Stop after so many validations without a better F1; 0 never stops early.
        cache: Folder for labelled scans; None takes one in ``output``.
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        devices: How many; more than one trains in as many processes.
        precision: 32-bit, or mixed with 16 bits.
        workers: Extra processes per device that prepare crops.
        seed: Of weights and crops.
        resume: Go on from last.ckpt where there is one.
        overwrite: Replace a training that is there.

    Raises:
        InputError: If a value makes no sense, or parts contradict each other.
    """

    data: Path
    output: Path
    model: str = "unet-luna"
    epochs: int = 10
    steps_per_epoch: int = 250
    batch: int = 32
    crop: int = 96
    inner: int = 64
    positives: float = 0.5
    learning_rate: float = 3e-3
    recall_weight: float = 8.0
    validate_every: int = 1
    patience: int = 0
    cache: Path | None = None
    accelerator: str = "auto"
    devices: int = 1
    precision: Precision = "32-true"
    workers: int = 0
    seed: int = 0
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        get_model_entry(self.model)
        for name in ("epochs", "steps_per_epoch", "batch", "validate_every", "devices"):
            if getattr(self, name) < 1:
                raise InputError("must be at least 1", field=name)
        for name in ("patience", "workers", "seed"):
            if getattr(self, name) < 0:
                raise InputError("must not be negative", field=name)
        if not 0 < self.inner <= self.crop:
            raise InputError(f"{self.inner} pixels do not lie within {self.crop}", field="inner")
        if not 0 < self.positives <= 1:
            raise InputError(f"{self.positives:g} is no share", field="positives")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError("must be above 0", field="learning_rate")
        if not (math.isfinite(self.recall_weight) and self.recall_weight >= 0):
            raise InputError("must not be negative", field="recall_weight")
        if self.batch % self.devices:
            problem = f"{self.batch} crops cannot be shared by {self.devices} devices"
            raise InputError(problem, field="batch", hint="make it a multiple of the devices")
        if self.resume and self.overwrite:
            raise InputError("a training is taken up or replaced, not both", hint="leave --resume or --overwrite out")

    @property
    def steps(self) -> int:
        """Batches in all."""
        return self.epochs * self.steps_per_epoch

    def decisions(self) -> dict[str, Any]:
        """Everything that decides what is computed, for JSON: equal ones give equal networks on equal data."""
        return {name: value for name, value in vars(self).items() if name not in _PLACES}
