"""Proof that cutting channels out of a network does what no longer reading them does."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from edgelung.converters.pruning.channel_groups import STAGE, ChannelGraph, ChannelGroup, Consumer, Layer
from edgelung.converters.pruning.constants import drop_inputs
from edgelung.errors import ConversionError, EdgelungError, InputError, VerificationError

__all__ = ["CUT_LIMIT", "KEPT", "MAKES_OUTPUT", "cut_and_prove", "describe_passage", "find_prunable"]

CUT_LIMIT = 1e-9  # relative, in float64; rounding alone gave up to 7e-15 (docs/pruning.md)
KEPT, MAKES_OUTPUT = "kept as asked", "gives the network's output"


def cut_and_prove(
    model: nn.Module, example: Tensor, dropped: Mapping[str, Sequence[int]], means: Mapping[str, Tensor] | None
) -> tuple[nn.Module, float]:
    """Cut channels out of a copy of a network.

    The copy is first made deaf to the channels: the weights that read them are 0, their means are in the biases. Then
    they are cut out, which must not change its output any more, border included. A channel that is taken from the
    wrong layer, or that an operator mixes with others, shows here.

    Args:
        model: In eval mode, float64, with gradients on; left as it is.
        example: In float64.
        dropped: By the name of the group, which channels go.
        means: Of the input channels of the layers that read them; None leaves the biases as they are.

    Returns:
        The cut network, and the largest difference between the two outputs over the largest value. The outputs of all
        layers that kept their channels are compared, because a sigmoid at the end may hide a difference.

    Raises:
        VerificationError: When the outputs differ.
        ConversionError: When the cut network does not run, its output has another shape, or a group has lost other
            channels than these.
    """
    work = copy.deepcopy(model)
    graph = ChannelGraph(work, example)
    groups = [group for group in graph.groups if dropped.get(group.name)]
    try:
        for group in groups:
            for consumer in group.consumers:
                _check_reader(work, consumer)
                mean = None if means is None else means[consumer.name]
                drop_inputs(work, graph, consumer, dropped[group.name], mean)
        expected = _values(work, example)
        graph.cut(dropped)
        for group in groups:
            _check_width(work, group, len(dropped[group.name]))
        found = _values(work, example)
    except EdgelungError:
        raise
    except Exception as error:  # whatever torch-pruning raises, or layers that no longer fit each other
        raise ConversionError(STAGE, "the layers no longer fit each other once the channels are cut") from error
    if found[""].shape != expected[""].shape:
        shapes = f"{tuple(found[''].shape)} instead of {tuple(expected[''].shape)}"
        raise ConversionError(STAGE, f"the cut network's output has the shape {shapes}")
    same = [name for name in expected if name in found and expected[name].shape == found[name].shape]
    difference = max(_relative(expected[name], found[name]) for name in same)
    if not difference <= CUT_LIMIT:
        raise VerificationError("relative difference made by cutting channels", difference, CUT_LIMIT)
    return work, difference


def find_prunable(
    model: nn.Module, example: Tensor, keep: Sequence[str]
) -> tuple[tuple[ChannelGroup, ...], tuple[tuple[str, str], ...]]:
    """The groups that can be cut, each tried alone in two ways, and those that are left, with the reason.

    Half of the channels go, and then half of those of the first half: what the network's ``forward`` counts by itself,
    as it does to split a tensor, bears the one but not the other.

    Args:
        model: In eval mode, float64, with gradients on; left as it is.
        example: In float64.
        keep: Layers, or modules with layers in them, whose channels stay.

    Raises:
        InputError: When the network does not run on the example.
        ConversionError: When it gives no tensor, or another one each time, so that nothing can be proven.
    """
    prunable: list[ChannelGroup] = []
    left: list[tuple[str, str]] = []
    _check_steady(model, example)
    groups = ChannelGraph(copy.deepcopy(model), example).groups
    for group in groups:
        reason = group.obstacle or _kept(group, keep)
        if not reason and _makes_output(model, example, group):
            reason = MAKES_OUTPUT
        reason = reason or _try_alone(model, example, group)
        if reason:
            makers = [name for name in group.members if isinstance(model.get_submodule(name), (_ConvNd, nn.Linear))]
            left.extend((name, reason) for name in makers)
        else:
            prunable.append(group)
    return tuple(prunable), tuple(left)


def _check_reader(model: nn.Module, consumer: Consumer) -> None:
    layer: Layer = model.get_submodule(consumer.name)
    channels = int(layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)
    if max(consumer.inputs) >= channels:
        reason = f"{consumer.name} reads {channels} channels, and {max(consumer.inputs) + 1} are thought to reach it"
        raise ConversionError(STAGE, reason)


def _kept(group: ChannelGroup, keep: Sequence[str]) -> str:
    names = [name for name in keep if any(member == name or member.startswith(f"{name}.") for member in group.members)]
    return f"{KEPT} ({', '.join(names)})" if names else ""


def _check_steady(model: nn.Module, example: Tensor) -> None:
    try:
        with torch.no_grad():
            first, second = model(example), model(example)
    except Exception as error:  # whatever the user's forward raises
        problem = f"the network does not run on an input of shape {tuple(example.shape)}"
        hint = "height and width are multiples of its stride (align_px in the spec), weights and inputs of one dtype"
        raise InputError(f"{problem} ({(str(error).splitlines() or [''])[0]})", hint=hint) from error
    if not isinstance(first, Tensor):
        raise ConversionError(STAGE, "the network gives no single tensor", hint="let its forward return one")
    if not torch.equal(first, second):
        reason = "the network answers otherwise each time it is run on the same input, so no cut can be proven"
        hint = "a dropout that is always on, or noise: switch it off in eval mode (F.dropout(x, p, self.training))"
        raise ConversionError(STAGE, reason, hint=hint)


def _check_width(model: nn.Module, group: ChannelGroup, dropped: int) -> None:
    layer: Layer = model.get_submodule(group.name)
    width = int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)
    if width != group.channels - dropped:
        raise ConversionError(STAGE, f"{group.name} has {width} channels left instead of {group.channels - dropped}")


def _half(group: ChannelGroup) -> dict[str, range]:
    return {group.name: range(0, group.channels - 1, 2)}


def _lopsided(group: ChannelGroup) -> dict[str, range]:
    return {group.name: range(0, max(group.channels // 2, 1), 2)}


def _makes_output(model: nn.Module, example: Tensor, group: ChannelGroup) -> bool:
    """Whether the output has fewer channels without these: then they are the answer, not a step on its way."""
    work = copy.deepcopy(model)
    graph = ChannelGraph(work, example)
    with torch.no_grad():
        expected = model(example).shape
        try:
            graph.cut(_half(group))
            return bool(work(example).shape != expected)
        except Exception:  # it does not run; why, and where, is told by the trial that follows
            return False


def _try_alone(model: nn.Module, example: Tensor, group: ChannelGroup) -> str:
    """Why a group cannot be cut; empty when it can."""
    for dropped in (_half(group), _lopsided(group)):
        try:
            cut_and_prove(model, example, dropped, None)
        except (ConversionError, VerificationError):
            return describe_passage(group)
    return ""


def describe_passage(group: ChannelGroup) -> str:
    """The reason to leave a group whose channels are not where the dependency graph takes them for."""
    passed = ", ".join(group.operators) or "no known operator"
    return f"its channels cannot be followed to their readers (through: {passed})"


def _values(model: nn.Module, example: Tensor) -> dict[str, Tensor]:
    """The network's output, under the name "", and those of all its layers that give one tensor."""
    values: dict[str, Tensor] = {}
    hooks = []
    for name, module in model.named_modules():

        def note(_module: nn.Module, _inputs: object, output: object, name: str = name) -> None:
            if isinstance(output, Tensor):
                values[name] = output.clone()  # a layer behind it may work in place

        hooks.append(module.register_forward_hook(note))
    try:
        with torch.no_grad():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return values


def _relative(expected: Tensor, found: Tensor) -> float:
    largest = float(expected.abs().max())
    error = float((found - expected).abs().nan_to_num(nan=math.inf, posinf=math.inf).max())
    return error / largest if largest > 0 else error
