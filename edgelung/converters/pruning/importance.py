"""How much a channel matters: a table of measures, each with its source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch_pruning
from torch import Tensor

from edgelung.converters.pruning.channel_groups import ChannelGraph, ChannelGroup
from edgelung.converters.pruning.constants import InputStatistics
from edgelung.errors import InputError

__all__ = ["IMPORTANCES", "Importance", "get_importance"]

Measure = Callable[[ChannelGraph, ChannelGroup, Mapping[str, InputStatistics]], Tensor | None]


@dataclass(frozen=True)
class Importance:
    """One measure.

    Attributes:
        measure: (graph, group, statistics of what each reader reads) -> (channels,) scores that compare between groups,
            or None where it has no opinion.
        needs_data: Whether the statistics must be measured on calibration inputs.
    """

    measure: Measure
    needs_data: bool = False


def get_importance(name: str, *, has_data: bool) -> Importance:
    """The measure of that name.

    Raises:
        InputError: For a name that is not in the table, or one that needs calibration inputs where there are none.
    """
    if name not in IMPORTANCES:
        known = f"known: {', '.join(IMPORTANCES)}"
        raise InputError(f"no importance is called {name!r}", field="importance", hint=known)
    found = IMPORTANCES[name]
    if found.needs_data and not has_data:
        raise InputError(f"{name} is measured on calibration inputs", field="importance", hint="give some, or take l1")
    return found


def _of_weights(library: Callable[..., Callable[..., Tensor | None]], **options: object) -> Importance:
    """One of torch-pruning's: over all layers that make, normalise or read a channel, divided by the group's mean."""
    return Importance(lambda graph, group, _statistics: graph.score(group, library(**options)))


def _variance(graph: ChannelGraph, group: ChannelGroup, statistics: Mapping[str, InputStatistics]) -> Tensor | None:
    """Share that the channel has in what its readers' outputs vary by: its variance times its squared weights.

    That is what is lost once its mean is in the biases, were the channels independent.
    """
    scores = torch.zeros(group.channels, dtype=torch.float64)
    for consumer in group.consumers:
        varies = statistics[consumer.name].variance * graph.input_energy(consumer.name)
        share = varies / varies.sum().clamp(min=torch.finfo(torch.float64).tiny)
        scores.index_add_(0, torch.tensor(consumer.roots), share[torch.tensor(consumer.inputs)])
    return scores if group.consumers else None


_library = torch_pruning.importance
IMPORTANCES: dict[str, Importance] = {
    # Sum of absolute weights (Li et al., ICLR 2017, arXiv:1608.08710), over the group (Fang et al., CVPR 2023).
    "l1": _of_weights(_library.GroupMagnitudeImportance, p=1),
    # Sum of squared weights.
    "l2": _of_weights(_library.GroupMagnitudeImportance, p=2),
    # Absolute factor of the BatchNorms (Liu et al., ICCV 2017, arXiv:1708.06519).
    "bn_scale": _of_weights(_library.BNScaleImportance),
    # Squared weights over those of all channels that would outlive it (Lee et al., ICLR 2021, arXiv:2010.07611).
    "lamp": _of_weights(_library.LAMPImportance),
    # Distance to the other filters of the layer (He et al., CVPR 2019, arXiv:1811.00250).
    "fpgm": _of_weights(_library.FPGMImportance),
    # What the readers' outputs vary by because of the channel.
    "variance": Importance(_variance, needs_data=True),
}
