"""Recovery: a network learns from scenes, by the one loop that QAT uses too."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from torch import fx, nn

from edgelung.converters.retraining.crops import CropStream
from edgelung.converters.retraining.losses import DistillationLoss, LabelLoss
from edgelung.converters.retraining.operating_point import match_false_positives, shift_logits
from edgelung.converters.retraining.sources import Scenes
from edgelung.converters.retraining.teacher import STAGE, Teacher, to_logits
from edgelung.converters.retraining.whitened_adam import WhitenedAdam, read_moments
from edgelung.converters.training.loop import Batch, run_steps
from edgelung.errors import ConversionError
from edgelung.spec import NetworkInput

__all__ = ["Retrained", "learn", "match", "recover", "summarise"]

BATCH = 4
RATE = 0.005  # of a tensor's own size a step, at most; 0.02 diverged (docs/retraining.md)
WARM_UP = 0.15
SLICES = 64  # of a scene that count for an epoch: a CT of 300 slices shows little more than one of 64

Fit = Sequence[npt.NDArray[np.float32]]
Tick = Callable[[int, int, float], None]


@dataclass(frozen=True, eq=False)
class Retrained:
    """A network that has learnt.

    Attributes:
        model: In eval mode, on the CPU.
        steps: Batches it learnt from.
        first: Mean loss of the first tenth of them.
        last: Mean loss of the last tenth.
        shift: What was then added to the logits, see ``match_false_positives``.
    """

    model: nn.Module
    steps: int
    first: float
    last: float
    shift: float

    def describe(self) -> str:
        """One line for people."""
        return f"{self.steps} steps, loss {self.first:.3f} -> {self.last:.3f}, logits {self.shift:+.2f}"


def recover(
    model: nn.Module,
    quantity: Literal["probability", "logit"],
    fit: Fit,
    teacher: Teacher,
    scenes: Scenes,
    spec: NetworkInput,
    *,
    epochs: float,
    threshold: float,
    seed: int,
    tick: Tick | None = None,
) -> Retrained:
    """Let a network learn from the scenes.

    BatchNorms keep their statistics: crops around nodules have others than whole slices.

    Args:
        model: Left as it is.
        quantity: What it gives, ``probability`` or ``logit``.
        fit: Inputs by which the optimizer learns what each layer reads.
        teacher: The original.
        scenes: What to learn from.
        spec: What the network eats.
        epochs: As many pixels as the answered slices of all scenes have, so often.
        threshold: Logit from which on a pixel is marked.
        seed: Of the choice of crops.
        tick: Called with (steps done, steps in all, loss).

    Raises:
        ConversionError: When the network cannot be followed, or diverges.
    """
    network = to_logits(model, quantity).eval()
    losses = learn(network, fit, teacher, scenes, spec, epochs=epochs, rate=RATE, seed=seed, tick=tick)
    learnt = copy.deepcopy(model).to("cpu").eval()
    learnt.load_state_dict({**learnt.state_dict(), **network.state_dict()})  # what answers nothing was left out of it
    amount = match(network, teacher, scenes, spec, threshold)
    shift_logits(to_logits(model, quantity), learnt, amount)
    return summarise(learnt, losses, amount)


def learn(
    network: fx.GraphModule,
    fit: Fit,
    teacher: Teacher,
    scenes: Scenes,
    spec: NetworkInput,
    *,
    epochs: float,
    rate: float,
    seed: int,
    tick: Tick | None = None,
) -> list[float]:
    """Train a network that gives logits, in place and in the mode it is in; on a GPU when there is one.

    Returns:
        The loss of every step.
    """
    if not any(tensor.requires_grad for tensor in network.parameters()):
        raise ConversionError(STAGE, "the network has nothing that can be trained")
    batches: Iterator[Batch] = iter(CropStream(scenes.all, spec, crop=teacher.crop, batch=BATCH, seed=seed))
    pixels = sum(min(len(scene.firsts), SLICES) * scene.hu.shape[1] * scene.hu.shape[2] for scene in scenes.all)
    steps = max(round(epochs * pixels / (BATCH * teacher.crop[0] * teacher.crop[1])), 1)
    moments = _moments(network, fit, seed)
    fabric = Fabric(accelerator="auto", devices=1)
    # Channels last: a step takes 0.6 of the time on a CPU. On its device before the optimizer takes up its weights.
    network.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = WhitenedAdam(network, moments, rate)
    peaks = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=steps, pct_start=WARM_UP)
    wrapped, wrapped_optimizer = fabric.setup(network, optimizer)
    loss = _loss(fabric, teacher, scenes)
    losses = run_steps(fabric, wrapped, wrapped_optimizer, batches, loss, steps=steps, schedule=schedule, tick=tick)
    network.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return losses


def match(network: fx.GraphModule, teacher: Teacher, scenes: Scenes, spec: NetworkInput, threshold: float) -> float:
    """What to add to the logits of a network so that it marks as much by mistake as the original; 0 with labels."""
    if scenes.labelled:
        return 0.0
    own = replace(teacher, network=network)
    limit = teacher.temperature
    return match_false_positives(own.answer, teacher.answer, scenes.all, spec, threshold=threshold, limit=limit)


def summarise(model: nn.Module, losses: list[float], shift: float) -> Retrained:
    """What a training came to."""
    tenth = max(len(losses) // 10, 1)
    return Retrained(model, len(losses), float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:])), shift)


def _loss(fabric: Fabric, teacher: Teacher, scenes: Scenes) -> DistillationLoss | LabelLoss:
    if scenes.labelled:
        return LabelLoss()
    original = copy.deepcopy(teacher.network).requires_grad_(False)
    return DistillationLoss(fabric.to_device(original), teacher.temperature)


def _moments(network: fx.GraphModule, fit: Fit, seed: int) -> dict[str, torch.Tensor]:
    training = network.training
    moments = read_moments(network.eval(), [torch.from_numpy(tensor) for tensor in fit], seed=seed)
    network.train(training)
    return moments
