"""The life of the ranges: calibrated, followed through training, frozen, and fixed for the export."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, fx

from edgelung.converters.passes.graph import layer
from edgelung.converters.quantisation.fake_quantise import (
    STAGE,
    FakeQuantise,
    QuantisedConv2d,
    QuantisedConvTranspose2d,
)
from edgelung.errors import ConversionError

__all__ = ["calibrate", "freeze_observers", "to_exportable"]

MOST_BIAS = 2**31 - 2**16  # steps: int32, and room for a float32's rounding


def calibrate(network: fx.GraphModule, batches: Iterable[Tensor]) -> None:
    """Let the float network see some inputs and take over the mean of their extremes as ranges.

    Args:
        network: From :func:`prepare_qat`, changed in place.
        batches: (N, C, height, width) float32 inputs in the unit of the network.

    Raises:
        ConversionError: If there are no batches, the ranges are frozen, or values are not finite.
    """
    roundings = _roundings(network)
    if not all(bool(rounding.observing) for rounding in roundings):
        raise ConversionError(STAGE, "the ranges are frozen", hint="prepare the network anew to calibrate it again")
    training = network.training
    network.eval()
    for rounding in roundings:
        rounding.quantising = False
    try:
        with torch.no_grad():
            for batch in batches:
                network(batch)
    finally:
        network.train(training)
        for rounding in roundings:
            rounding.quantising = True
    for rounding in roundings:
        rounding.parameters_now()  # refuses what was not seen


def freeze_observers(network: fx.GraphModule) -> None:
    """Keep the ranges of activations as they are while training goes on; those of weights follow the weights."""
    for rounding in _roundings(network):
        rounding.observing.fill_(False)


def to_exportable(network: fx.GraphModule) -> fx.GraphModule:
    """A copy in eval mode on the CPU whose ranges are constants, as exporters and boards take them.

    Biases are rounded to steps of input times weight, the unit in which a board adds them to its int32 sums. Training
    goes without that, so the copy's outputs differ from the network's by a step here and there. What the board does not
    round is not rounded here either; an engine that takes the exported file by its word does.

    Raises:
        ConversionError: If a range was never seen, or a weight is not finite.
    """
    for name, parameter in network.named_parameters():
        if not bool(torch.isfinite(parameter).all()):  # rounding to an integer would hide it
            raise ConversionError(STAGE, f"{name} is not finite", hint="the training diverged: lower its learning rate")
    fixed = copy.deepcopy(network).to("cpu").eval()
    for module in fixed.modules():
        if isinstance(module, FakeQuantise):
            module.fix()
        elif isinstance(module, (QuantisedConv2d, QuantisedConvTranspose2d)):
            module.weight_rounding.fix(module.weight)
    for node in fixed.graph.nodes:
        conv = layer(fixed, node)
        if isinstance(conv, (QuantisedConv2d, QuantisedConvTranspose2d)) and conv.bias is not None:
            _round_bias(fixed, node, conv)
    return fixed


def _round_bias(network: fx.GraphModule, node: fx.Node, conv: QuantisedConv2d | QuantisedConvTranspose2d) -> None:
    (source,) = node.all_input_nodes
    rounding = layer(network, source)
    while not isinstance(rounding, FakeQuantise):  # through what passes a tensor on
        (source,) = source.all_input_nodes
        rounding = layer(network, source)
    if conv.bias is None or conv.weight_rounding.fixed is None or rounding.fixed is None:
        raise TypeError(f"{node.target} has nothing to round its bias by")
    # A channel whose weights are next to nothing beside its bias has coarser steps, so that the bias fits int32. What
    # its weights lose by that is below a bias times window times 255 / 2**31.
    bias = conv.bias.detach().double()
    least = (bias.abs() / (MOST_BIAS * rounding.fixed[0])).to(conv.weight_rounding.fixed.dtype)
    conv.weight_rounding.fixed = torch.maximum(conv.weight_rounding.fixed, least)
    step = conv.weight_rounding.fixed.double() * rounding.fixed[0]
    count = torch.round(bias / step)
    conv.bias.data = (count * step).to(conv.bias.dtype)


def _roundings(network: fx.GraphModule) -> list[FakeQuantise]:
    found = [module for module in network.modules() if isinstance(module, FakeQuantise)]
    if not found:
        raise ConversionError(STAGE, "the network has no fake-quantisation", hint="prepare it with prepare_qat")
    return found
