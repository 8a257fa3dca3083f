"""One network, followed and scored once, to be cut as often as one likes."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from edgelung.converters.checkpoint import apply_state
from edgelung.converters.models import UNetLuna, UNetWidths
from edgelung.converters.pruning.channel_groups import STAGE, ChannelGraph, Layer, is_transposed
from edgelung.converters.pruning.constants import measure_inputs
from edgelung.converters.pruning.importance import get_importance
from edgelung.converters.pruning.proof import cut_and_prove, describe_passage, find_prunable
from edgelung.converters.pruning.selection import Scope, choose_dropped
from edgelung.errors import ConversionError, InputError, VerificationError

__all__ = ["Pruner"]

TOLD = 2  # reasons in one line


class Pruner:
    """The channel groups of a network, how much each channel matters, and what each adds on average.

    Args:
        model: Left as it is.
        example_input: As for ``prune``, like the others.
        importance: A name in ``IMPORTANCES``.
        keep: Names of layers, or of modules with layers in them, whose channels all stay.
        calibration: Inputs on which the means of the channels are measured.

    Attributes:
        scores: By group, (channels,) float64; in the order of the network's modules.
        left: Layers whose channels are not up for choice, each with the reason.

    Raises:
        InputError: If an argument is out of range, or names nothing in the network.
        ConversionError: If the network cannot be followed, or no channels can go.
    """

    def __init__(
        self,
        model: nn.Module,
        example_input: Tensor,
        *,
        importance: str,
        keep: Sequence[str],
        calibration: Sequence[Tensor],
    ) -> None:
        self._dtype = _dtype_of(model)
        _check_names(model, keep)
        measure = get_importance(importance, has_data=bool(calibration)).measure
        self._original = copy.deepcopy(model).to("cpu").eval()
        self._double = copy.deepcopy(self._original).double().requires_grad_(True)
        self._example = example_input.detach().to("cpu", torch.float64)
        groups, left = find_prunable(self._double, self._example, keep)
        graph = ChannelGraph(copy.deepcopy(self._double), self._example)
        inputs = [value.detach().to("cpu", self._dtype) for value in (calibration or (example_input,))]
        readers = [consumer.name for group in groups for consumer in group.consumers]
        read = measure_inputs(self._original, readers, inputs, by_statistics=not calibration)
        self._means = {name: statistics.mean for name, statistics in read.items()}
        scores = {group.name: measure(graph, group, read) for group in groups}
        self.scores = {name: values for name, values in scores.items() if values is not None}
        unmeasured = tuple((name, f"{importance} measures nothing in it") for name in scores if name not in self.scores)
        self.left = (*left, *unmeasured)
        self._groups = {group.name: group for group in groups}
        if not self.scores:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.left[:TOLD])
            reasons += f"; and {len(self.left) - TOLD} more" if len(self.left) > TOLD else ""
            raise ConversionError(STAGE, f"no channels can go ({reasons})", hint="convert it without --prune")

    def original(self) -> nn.Module:
        """A copy of the network as it was given, on the CPU, in eval mode."""
        return copy.deepcopy(self._original)

    def choose(
        self, ratio: float, *, round_to: int = 1, scope: Scope = "layer", only: str = ""
    ) -> dict[str, tuple[int, ...]]:
        """By group, the channels that go; () where all stay. ``only`` names a group to choose in alone.

        Raises:
            InputError: If an argument is out of range.
        """
        if not 0 <= ratio < 1:
            hint = "give the share of channels that goes, from 0 to below 1"
            raise InputError(f"is {ratio}", field="ratio", hint=hint)
        if round_to < 1:
            raise InputError(f"is {round_to}", field="round_to", hint="give 1, or the target's block of channels")
        if scope not in ("layer", "global"):
            raise InputError(f"is {scope!r}", field="scope", hint="layer or global")
        scores = {only: self.scores[only]} if only else self.scores
        return choose_dropped(scores, ratio=ratio, round_to=round_to, scope=scope)

    def kept(self, dropped: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
        """By convolution and linear layer, the indices of its output channels that stay without the dropped ones."""
        work = copy.deepcopy(self._double)
        graph = ChannelGraph(work, self._example)
        layers: dict[str, Layer] = {
            name: module for name, module in work.named_modules() if isinstance(module, (_ConvNd, nn.Linear))
        }
        with torch.no_grad():
            for layer in layers.values():  # weights that are their own channel's number show which of them are left
                out = _outputs_first(layer)
                out.copy_(torch.arange(len(out), dtype=out.dtype).view(-1, *[1] * (out.ndim - 1)).expand_as(out))
        graph.cut(dropped)
        return {name: tuple(int(row.flatten()[0]) for row in _outputs_first(layer)) for name, layer in layers.items()}

    def spare(self, dropped: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
        """What can be cut of a choice that cannot be cut as a whole: each group with all before it, or not at all.

        Those that are spared are then in ``left``.
        """
        chosen = {name: tuple(indices) for name, indices in dropped.items()}
        able: dict[str, tuple[int, ...]] = {}
        for name, indices in chosen.items():
            able[name] = indices
            try:
                cut_and_prove(self._double, self._example, able, self._means)
            except (ConversionError, VerificationError):
                able[name] = ()
                self.left = (*self.left, (name, describe_passage(self._groups[name])))
        return able

    def cut(self, dropped: Mapping[str, Sequence[int]]) -> tuple[nn.Module, float]:
        """The network without some channels, their means in the biases of their readers; and the error of the proof.

        Raises:
            ConversionError: If the cut network does not run.
            VerificationError: If cutting does anything else than that.
        """
        cut, error = cut_and_prove(self._double, self._example, dropped, self._means)
        learnt = {name: parameter.requires_grad for name, parameter in self._original.named_parameters()}
        cut = _in_own_class(cut.to(self._dtype))
        for name, parameter in cut.named_parameters():
            parameter.requires_grad_(learnt.get(name, True))  # a new bias learns
        return cut.eval(), error


def _outputs_first(layer: Layer) -> Tensor:
    weight: Tensor = layer.weight.detach()
    return weight.movedim(1, 0) if is_transposed(layer) else weight


def _in_own_class(cut: nn.Module) -> nn.Module:
    """The same network, knowing its widths."""
    if not isinstance(cut, UNetLuna):
        return cut
    state = {key: value.detach() for key, value in cut.state_dict().items()}
    renewed = UNetLuna(UNetWidths.from_state_dict(state)).to(next(cut.parameters()).dtype)
    apply_state(renewed, state, "the pruned network")
    return renewed


def _dtype_of(model: nn.Module) -> torch.dtype:
    dtypes = {parameter.dtype for parameter in model.parameters()}
    if len(dtypes) != 1 or not next(iter(dtypes)).is_floating_point:
        names = ", ".join(sorted(map(str, dtypes))) or "none"
        raise InputError(f"the weights must have one float dtype, these have {names}", hint="save them all in float32")
    return dtypes.pop()


def _check_names(model: nn.Module, keep: Sequence[str]) -> None:
    if isinstance(keep, str):
        raise InputError("is one string", field="keep", hint="give a sequence of names")
    known = dict(model.named_modules())
    for name in keep:
        if not name or name not in known:
            near = difflib.get_close_matches(name, known, 3, 0) or list(known)[1:4]
            raise InputError(f"no layer is called {name!r}", field="keep", hint=f"there are, say, {', '.join(near)}")
