"""Weights of a restructured network, trained since, back in the layers of the network that it was made of.

So they are a checkpoint of that network, which anyone can read who could read the first one. What was folded away
stays folded: its BatchNorm computes nothing. Zero padding is padding with zeros on both sides then, so the two agree
everywhere.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

from edgelung.converters.passes.graph import trace
from edgelung.converters.passes.proof import measure_difference
from edgelung.converters.passes.split_sigmoid import cut_sigmoid, ends_in_sigmoid
from edgelung.errors import ConversionError, VerificationError

__all__ = ["unfold"]

STAGE = "weights"
LIMIT = 1e-5  # relative, as for what restructuring stores in float32
_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def unfold(model: nn.Module, restructured: fx.GraphModule, probe: Tensor) -> nn.Module:
    """A copy of a network that computes what its restructured form does.

    Args:
        model: What was restructured; left as it is.
        restructured: What ``restructure`` made of it without constant channels, with any weights since.
        probe: (N, C, height, width) input in the unit of the network, on which the result is proven in float64.

    Returns:
        In eval mode. Its convolutions may have biases that ``model`` has not (``pruning.shrink_to_state`` reads them).

    Raises:
        ConversionError: When a layer's weights have no place in ``model``.
        VerificationError: When the result computes something else; this would be an error of edgelung.
    """
    whole = copy.deepcopy(model).to("cpu").eval()
    for name, norm in whole.named_modules():
        if isinstance(norm, nn.BatchNorm2d) and not _has(restructured, name):
            _let_through(norm)
    for name, layer in restructured.named_modules():
        if list(layer.parameters(recurse=False)) or list(layer.buffers(recurse=False)):
            _put_back(whole, name, layer)
    logits = trace(whole, probe, STAGE)
    if ends_in_sigmoid(logits) and not ends_in_sigmoid(restructured):
        cut_sigmoid(logits)
    difference = measure_difference(restructured, logits, probe)
    if not difference.relative <= LIMIT:
        hint = "this is an error of edgelung"
        raise VerificationError("relative difference of the weights put back", difference.relative, LIMIT, hint=hint)
    return whole


def _has(network: nn.Module, name: str) -> bool:
    return any(own == name for own, _ in network.named_modules())


@torch.no_grad()
def _let_through(norm: nn.BatchNorm2d) -> None:
    """Make a BatchNorm the identity."""
    if norm.running_mean is not None and norm.running_var is not None:
        norm.running_mean.zero_()
        norm.running_var.fill_(1 - norm.eps)
    if norm.affine:
        norm.weight.fill_(1)
        norm.bias.zero_()


@torch.no_grad()
def _put_back(whole: nn.Module, name: str, layer: nn.Module) -> None:
    try:
        own = whole.get_submodule(name)
    except AttributeError:
        raise ConversionError(STAGE, f"{name} is no layer of the network") from None
    if isinstance(own, nn.BatchNorm2d) and isinstance(layer, nn.Conv2d):
        if not own.affine or layer.bias is None:
            raise ConversionError(STAGE, f"{name} is a BatchNorm without weights")
        _let_through(own)
        own.weight.copy_(layer.weight.flatten())
        own.bias.copy_(layer.bias)
        return
    if isinstance(own, _CONVOLUTIONS) and isinstance(layer, _CONVOLUTIONS) and own.bias is None:
        own.bias = None if layer.bias is None else nn.Parameter(torch.zeros_like(layer.bias))
    try:
        own.load_state_dict(layer.state_dict())
    except RuntimeError:
        raise ConversionError(STAGE, f"{name} has other shapes than in the network") from None
