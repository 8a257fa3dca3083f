"""Fewer channels: which ones, what they leave behind, and the network without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from edgelung.converters.pruning.channel_groups import ONE_CHANNEL
from edgelung.converters.pruning.layer_table import DTYPES, LayerCut, compare_layers
from edgelung.converters.pruning.proof import KEPT, MAKES_OUTPUT
from edgelung.converters.pruning.pruner import Pruner
from edgelung.converters.pruning.selection import Scope
from edgelung.errors import ConversionError, VerificationError

__all__ = ["Pruned", "prune"]


@dataclass(frozen=True, eq=False)
class Pruned:
    """A network with fewer channels.

    Attributes:
        model: In eval mode, on the CPU, in the dtype of the original, gradients on where they were on. A ``UNetLuna``
            is one again, with its new ``widths``; any other network is of its own class, and ``shrink_to_state``
            makes such a one of a fresh network and the state_dict.
        layers: Every convolution before and after.
        kept: By convolution and linear layer, the indices of its output channels that stayed.
        dropped: By the layer that stands for a group of channels, the indices that went; () where all stayed.
        left: Layers whose channels were not up for choice, each with the reason.
        parameters_before: Of the original.
        parameters_after: Of ``model``.
        constants: Where the means of the dropped channels came from, which are now in the biases of their readers:
            ``measured`` on calibration inputs, or ``statistics`` of the BatchNorms.
        cut_error: Cutting the channels out changed the output of a network that no longer reads them by this much,
            relative, in float64.
    """

    model: nn.Module
    layers: tuple[LayerCut, ...]
    kept: dict[str, tuple[int, ...]]
    dropped: dict[str, tuple[int, ...]]
    left: tuple[tuple[str, str], ...]
    parameters_before: int
    parameters_after: int
    constants: Literal["measured", "statistics"]
    cut_error: float

    def describe(self) -> str:
        """One line for people."""
        channels = sum(len(indices) for indices in self.dropped.values())
        saved = {dtype: [layer.verdict(dtype) for layer in self.layers] for dtype in DTYPES}
        told = "; ".join(
            f"{dtype}: {verdicts.count('time')} layers save time, {verdicts.count('bytes')} only bytes, "
            f"{verdicts.count('neither')} neither"
            for dtype, verdicts in saved.items()
        )
        return f"{self.parameters_before} -> {self.parameters_after} parameters, {channels} channels less; {told}"

    def describe_left(self) -> str:
        """The layers that were left whole though nobody asked for it, by their reasons; empty when there are none."""
        layers: dict[str, list[str]] = {}
        for name, reason in self.left:
            if not reason.startswith((KEPT, MAKES_OUTPUT, ONE_CHANNEL)):
                layers.setdefault(reason, []).append(name)
        return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in layers.items())


def prune(
    model: nn.Module,
    example_input: Tensor,
    *,
    ratio: float,
    round_to: int = 1,
    importance: str = "l1",
    scope: Scope = "layer",
    keep: Sequence[str] = (),
    calibration: Sequence[Tensor] = (),
    plane: tuple[int, int] | None = None,
) -> Pruned:
    """Take the least important channels out of a network, together with everything that belongs to them.

    What a skip, an addition or a concatenation couples goes together. Input and output channels stay. What the
    channels added on average goes into the biases of their readers, so that only what varied is lost
    (docs/pruning.md).

    Args:
        model: In eval mode or not; it is left as it is. All its weights have one float dtype.
        example_input: (N, C, height, width) input in the unit of the network, on which the cut is proven; a plane
            some times the network's stride is enough.
        ratio: Share of the channels that goes, from 0 to below 1.
        round_to: The number that stays in a layer is rounded up to a multiple of this: 16 for int8 and 8 for fp16 on
            an RK3588.
        importance: A name in ``IMPORTANCES``.
        scope: ``layer`` takes the share from each group of channels, ``global`` from all together.
        keep: Names of layers, or of modules with layers in them, whose channels all stay.
        calibration: Inputs on which the means of the channels are measured. Without any they come from the BatchNorms'
            statistics.
        plane: (height, width) that ``layers`` counts NPU cycles for; that of ``example_input`` by default.

    Raises:
        InputError: If an argument is out of range, or names nothing in the network.
        ConversionError: If no channels can go at all, with the reasons. Groups that cannot go are in ``left``.
    """
    pruner = Pruner(model, example_input, importance=importance, keep=keep, calibration=calibration)
    dropped = pruner.choose(ratio, round_to=round_to, scope=scope)
    try:
        cut, error = pruner.cut(dropped)
    except (ConversionError, VerificationError):
        dropped = pruner.spare(dropped)
        cut, error = pruner.cut(dropped)
    shown = torch.zeros(1, *example_input.shape[1:-2], *(plane or example_input.shape[-2:]))
    return Pruned(
        model=cut,
        layers=compare_layers(pruner.original(), cut, shown.to(next(cut.parameters()).dtype)),
        kept=pruner.kept(dropped),
        dropped=dropped,
        left=pruner.left,
        parameters_before=_count_parameters(model),
        parameters_after=_count_parameters(cut),
        constants="measured" if calibration else "statistics",
        cut_error=error,
    )


def _count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
