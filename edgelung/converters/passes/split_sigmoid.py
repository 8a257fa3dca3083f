"""The sigmoid at the end leaves the network: comparing the logit with a constant asks the same and costs nothing."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, fx, nn

from edgelung.converters.passes.graph import STAGE, is_sigmoid, remove, sole_user, trace
from edgelung.errors import ConversionError, InputError

__all__ = ["cut_sigmoid", "ends_in_sigmoid", "split_sigmoid", "threshold_to_logit"]


def threshold_to_logit(threshold: float) -> float:
    """The logit that a probability threshold becomes: ``log(t / (1 - t))``, so ``sigmoid(x) >= t`` is ``x >= logit``.

    Raises:
        InputError: Unless ``0 < threshold < 1``.
    """
    if not 0.0 < threshold < 1.0:
        raise InputError(f"{threshold} is no threshold on a probability", hint="give one between 0 and 1")
    return math.log(threshold) - math.log1p(-threshold)


def split_sigmoid(model: nn.Module, example: Tensor | None = None) -> tuple[fx.GraphModule, Callable[[float], float]]:
    """A network without the sigmoid that it ends in.

    Args:
        model: Its output is the output of one sigmoid; it is left as it is.
        example: (N, C, height, width) input in the unit of the network, to compare on as ``trace`` does.

    Returns:
        The network that gives logits, and what a threshold on the probability becomes on them.

    Raises:
        ConversionError: If it does not end in a sigmoid, or cannot be followed.
    """
    network = trace(model, example)
    if not ends_in_sigmoid(network):
        hint = "a network that gives logits already says so in its spec"
        raise ConversionError(STAGE, "the network does not end in a sigmoid", hint=hint)
    cut_sigmoid(network)
    return network, threshold_to_logit


def ends_in_sigmoid(network: fx.GraphModule) -> bool:
    """Whether the output is that of a sigmoid which nothing else uses."""
    last = _output(network).args[0]
    return isinstance(last, fx.Node) and is_sigmoid(network, last) and sole_user(last) is not None


def cut_sigmoid(network: fx.GraphModule) -> None:
    """Take the last node, a sigmoid, out of a traced network."""
    (last,) = _output(network).all_input_nodes
    remove(network, last)
    network.delete_all_unused_submodules()
    network.recompile()


def _output(network: fx.GraphModule) -> fx.Node:
    (*_, last) = network.graph.nodes
    if not isinstance(last, fx.Node) or last.op != "output":
        raise ConversionError(STAGE, "the graph of the network has no output")
    return last
