"""Quantisation-aware training: the network learns while it rounds as the NPU will (docs/qat.md)."""

from __future__ import annotations

import torch
from torch import fx

from edgelung.converters.quantisation import RK3588_RULES, calibrate, freeze_observers, prepare_qat, to_exportable
from edgelung.converters.retraining.operating_point import shift_logits
from edgelung.converters.retraining.recover import Fit, Retrained, Tick, learn, match, summarise
from edgelung.converters.retraining.sources import Scenes
from edgelung.converters.retraining.teacher import Teacher
from edgelung.spec import NetworkInput

__all__ = ["prepare_rounding", "quantise_aware"]

RATE = 0.00001  # of a tensor's own size a step, at most; 0.0001 undid some of what recovery had learnt
FOLLOWED = 2 / 3  # share of the training in which ranges follow; then they are frozen


def prepare_rounding(model: fx.GraphModule, fit: Fit) -> fx.GraphModule:
    """A restructured network that rounds, with ranges calibrated on inputs."""
    network = prepare_qat(model, RK3588_RULES)
    calibrate(network, [torch.from_numpy(tensor) for tensor in fit])
    return network


def quantise_aware(
    model: fx.GraphModule,
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
    """Train a network while it rounds.

    Args:
        model: Restructured, giving logits; left as it is.
        fit: Inputs to calibrate ranges on, and as for ``recover``.
        teacher: The original.
        scenes: What to learn from.
        spec: What the network eats.
        epochs: As for ``recover``.
        threshold: As for ``recover``.
        seed: Of the choice of crops.
        tick: Called with (steps done, steps in all, loss).

    Raises:
        ConversionError: For an operator that the board does not compute in int8, or when the training diverges.
    """
    network = prepare_rounding(model, fit)
    losses: list[float] = []
    for part, share in enumerate((FOLLOWED, 1 - FOLLOWED)):
        network.train()
        if part:
            freeze_observers(network)
        losses += learn(
            network, fit, teacher, scenes, spec, epochs=epochs * share, rate=RATE / 3**part, seed=seed + part, tick=tick
        )
    network.eval()
    amount = match(to_exportable(network), teacher, scenes, spec, threshold)
    shift_logits(network, network, amount)
    return summarise(network, losses, amount)
