"""Which layers suffer most from fewer channels, measured: each group is pruned alone and the network is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from edgelung.converters.pruning.pruner import Pruner
from edgelung.errors import ConversionError, InputError, VerificationError

__all__ = ["GroupSensitivity", "scan_rows", "scan_sensitivity"]


@dataclass(frozen=True)
class GroupSensitivity:
    """What pruning one group of channels alone does to the network.

    Attributes:
        group: The first layer that makes the channels; a name for ``keep``.
        ratio: Share of the channels that was asked to go.
        channels: (before, after).
        value: What ``evaluate`` gave.
        change: ``value`` minus what ``evaluate`` gave for the network as it is.
    """

    group: str
    ratio: float
    channels: tuple[int, int]
    value: float
    change: float


def scan_sensitivity(
    model: nn.Module,
    example_input: Tensor,
    evaluate: Callable[[nn.Module], float],
    ratios: Sequence[float],
    *,
    round_to: int = 1,
    importance: str = "l1",
    keep: Sequence[str] = (),
    calibration: Sequence[Tensor] = (),
    tick: Callable[[int, int, str], None] | None = None,
) -> tuple[GroupSensitivity, ...]:
    """Prune every group of channels alone, by every ratio.

    Args:
        model: Left as it is.
        example_input: As for :func:`prune`, like all that is not named here.
        evaluate: Judges a network in eval mode; must not change it. Whether more is better is its own affair.
        ratios: Each from 0 to below 1.
        round_to: Ratios that round to the same number of channels are judged once.
        importance: A name in ``IMPORTANCES``.
        keep: Layers that are not tried.
        calibration: For the means of the dropped channels.
        tick: Called with (done, of how many, group) before each judgement.

    Returns:
        Group by group, in the order of the network's modules, ratios rising. What loses no channel is left out.

    Raises:
        InputError: As :func:`prune`, and when there is no ratio.
        ConversionError: As :func:`prune`.
    """
    if not ratios:
        raise InputError("is empty", field="ratios", hint="give some, such as 0.25 and 0.5")
    pruner = Pruner(model, example_input, importance=importance, keep=keep, calibration=calibration)
    trials: dict[tuple[str, tuple[int, ...]], float] = {}
    for name in pruner.scores:
        for ratio in sorted(ratios):
            dropped = pruner.choose(ratio, round_to=round_to, only=name)[name]
            if dropped:
                trials.setdefault((name, dropped), ratio)
    baseline = evaluate(pruner.original())
    found = []
    for done, ((name, dropped), ratio) in enumerate(trials.items()):
        if tick is not None:
            tick(done, len(trials), name)
        try:
            cut, _ = pruner.cut({name: dropped})
        except (ConversionError, VerificationError):
            continue  # prune() leaves it whole, too
        before, value = len(pruner.scores[name]), evaluate(cut)
        found.append(GroupSensitivity(name, ratio, (before, before - len(dropped)), value, value - baseline))
    return tuple(found)


def scan_rows(found: Sequence[GroupSensitivity]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of a text table, the largest change first: what to keep stands at the top."""
    header = ("group", "channels", "share that goes", "change")
    ordered = sorted(found, key=lambda one: -one.change)
    return header, [
        (one.group, f"{one.channels[0]} -> {one.channels[1]}", f"{one.ratio:g}", f"{one.change:.3f}") for one in ordered
    ]
