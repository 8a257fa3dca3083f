"""Proof that cutting channels out of a network does what no longer reading them does."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from edgelung.converters.pruning.channel_groups import STAGE, ChannelGraph, ChannelGroup, Consumer, Layer
from edgelung.converters.pruning.constants import drop_inputs
from edgelung.errors import ConversionError, VerificationError

__all__ = ["CUT_LIMIT", "cut_and_prove", "find_prunable"]

CUT_LIMIT = 1e-9  # relative, in float64; rounding alone gave up to 7e-15 (docs/pruning.md)


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
        ConversionError: When the cut network does not run, or its output has another shape.
    """
    work = copy.deepcopy(model)
    graph = ChannelGraph(work, example)
    for group in graph.groups:
        for consumer in group.consumers if dropped.get(group.name) else ():
            _check_reader(work, consumer)
            mean = None if means is None else means[consumer.name]
            drop_inputs(work, graph, consumer, dropped[group.name], mean)
    expected = _values(work, example)
    graph.cut(dropped)
    try:
        found = _values(work, example)
    except Exception as error:  # whatever layers raise that no longer fit each other
        text = (str(error).splitlines() or [""])[0]
        raise ConversionError(STAGE, f"the cut network does not run: {type(error).__name__}: {text}") from error
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
    """The groups that can be cut, each tried alone with half of its channels, and those that are left, with the reason.

    Args:
        model: In eval mode, float64, with gradients on; left as it is.
        example: In float64.
        keep: Layers, or modules with layers in them, whose channels stay.

    Raises:
        ConversionError: Naming a layer whose channels go through an operator that cannot be followed.
    """
    prunable: list[ChannelGroup] = []
    left: list[tuple[str, str]] = []
    groups = ChannelGraph(copy.deepcopy(model), example).groups
    for group in groups:
        reason = group.obstacle or _kept(group, keep)
        if not reason and _makes_output(model, example, group):
            reason = "gives the network's output"
        if reason:
            left.append((group.name, reason))
        else:
            _try_alone(model, example, group)
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
    return f"kept as asked ({', '.join(names)})" if names else ""


def _half(group: ChannelGroup) -> dict[str, range]:
    return {group.name: range(0, group.channels - 1, 2)}


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


def _try_alone(model: nn.Module, example: Tensor, group: ChannelGroup) -> None:
    try:
        cut_and_prove(model, example, _half(group), None)
    except (ConversionError, VerificationError) as error:
        passed = ", ".join(group.operators) or "no known operator"
        reason = f"the channels of {group.name} cannot be followed to their readers (through: {passed}): {error}"
        hint = f"leave them whole with keep=({group.name!r},)"
        raise ConversionError(STAGE, reason, hint=hint) from error


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
