"""Recovery: a network learns from scenes, by the one loop that QAT uses too."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, fx, nn

from edgelung.converters.passes import ChannelRoom, restructure
from edgelung.converters.passes.padding import pad_with_shifts
from edgelung.converters.retraining.crops import CropStream
from edgelung.converters.retraining.losses import DistillationLoss, LabelLoss
from edgelung.converters.retraining.operating_point import match_false_positives, shift_logits
from edgelung.converters.retraining.sources import Scenes
from edgelung.converters.retraining.teacher import STAGE, Teacher, to_logits
from edgelung.converters.training.loop import Batch, run_steps
from edgelung.errors import ConversionError
from edgelung.spec import NetworkInput

__all__ = ["Retrained", "learn", "recover"]

BATCH = 4
RATE = 0.01  # of a tensor's own size a step, at most; 0.003 was slower, 0.03 worse (docs/retraining.md)
LEAST_SIZE = 0.05  # of a tensor, for its rate: one that starts at 0 has to move
WARM_UP = 0.15

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
    teacher: Teacher,
    scenes: Scenes,
    spec: NetworkInput,
    *,
    epochs: float,
    threshold: float,
    seed: int,
    probe: Tensor | None = None,
    room: ChannelRoom | None = None,
    tick: Tick | None = None,
) -> Retrained:
    """Let a network learn from the scenes.

    BatchNorms keep their statistics: crops around nodules have others than whole slices. With ``probe`` the network
    learns with the zero padding that ``restructure(..., border="shifts")`` gives it.

    Args:
        model: Left as it is.
        quantity: What it gives, ``probability`` or ``logit``.
        teacher: The original.
        scenes: What to learn from.
        spec: What the network eats.
        epochs: As many pixels as the answered slices of all scenes have, so often.
        threshold: Logit from which on a pixel is marked.
        seed: Of the choice of crops.
        probe: As for ``restructure``; None leaves the padding alone.
        room: As for ``restructure``.
        tick: Called with (steps done, steps in all, loss).

    Raises:
        ConversionError: When the network cannot be followed, or diverges.
    """
    network = to_logits(model, quantity)
    if probe is not None:
        plan = restructure(model, probe, border="shifts", room=room, otherwise="keep", output=quantity)
        pad_with_shifts(network, plan.interior)
    network.eval()
    losses = learn(network, teacher, scenes, spec, epochs=epochs, rate=RATE, seed=seed, tick=tick)
    learnt = copy.deepcopy(model).to("cpu").eval()
    network.to("cpu").eval()
    state = network.state_dict()
    learnt.load_state_dict({name: state[name] for name in learnt.state_dict()})
    logits = replace(teacher, network=network)
    amount = match_false_positives(logits.answer, scenes, spec, threshold=threshold, temperature=teacher.temperature)
    shift_logits(to_logits(model, quantity), learnt, amount)
    return summarise(learnt, losses, amount)


def learn(
    network: fx.GraphModule,
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

    Adam, with a rate for each tensor that is a share of the tensor's size: restructured weights are of sizes from 1e-3
    to 3, and those of pruned ones far from the usual.

    Returns:
        The loss of every step.
    """
    loss: DistillationLoss | LabelLoss = LabelLoss() if scenes.labelled else DistillationLoss(teacher.temperature)
    batches: Iterator[Batch] = iter(
        CropStream(scenes.all, spec, crop=teacher.crop, margin=teacher.margin, batch=BATCH, seed=seed)
    )
    pixels = sum(len(scene.firsts) * scene.hu.shape[1] * scene.hu.shape[2] for scene in scenes.all)
    steps = max(round(epochs * pixels / (BATCH * teacher.crop[0] * teacher.crop[1])), 1)
    fabric = Fabric(accelerator="auto", devices=1)
    tensors = [tensor for tensor in network.parameters() if tensor.requires_grad]
    if not tensors:
        raise ConversionError(STAGE, "the network has nothing that can be trained")
    peaks = [rate * max(float(tensor.detach().square().mean().sqrt()), LEAST_SIZE) for tensor in tensors]
    optimizer = torch.optim.Adam(
        [{"params": [tensor], "lr": peak} for tensor, peak in zip(tensors, peaks, strict=True)]
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=steps, pct_start=WARM_UP)
    wrapped, optimizer = fabric.setup(network, optimizer)
    return run_steps(fabric, wrapped, optimizer, batches, loss, steps=steps, schedule=schedule, tick=tick)


def summarise(model: nn.Module, losses: list[float], shift: float) -> Retrained:
    """What a training came to."""
    tenth = max(len(losses) // 10, 1)
    return Retrained(model, len(losses), float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:])), shift)
