"""What a BatchNorm computes once training is over: one factor and one addend per channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from edgelung.converters.passes.graph import layer, unshared

__all__ = ["Affine", "affine_of", "refusal"]


@dataclass(frozen=True, eq=False)
class Affine:
    """``y = scale * x + shift`` with one pair per channel.

    Attributes:
        scale: (channels,) float64, of any sign; 0 where the channel is a constant.
        shift: (channels,) float64.
    """

    scale: Tensor
    shift: Tensor


def refusal(network: fx.GraphModule, node: fx.Node) -> str:
    """Why a node with a BatchNorm is out of reach for every pass; empty when it is not."""
    bn = layer(network, node)
    if not isinstance(bn, nn.BatchNorm2d):
        return f"is a {type(bn).__name__}; only BatchNorm2d is folded"
    if bn.running_mean is None or bn.running_var is None:
        return "keeps no running statistics, so what it computes depends on each input"
    if not unshared(network, node):
        return "is used in several places with one set of weights"
    return ""


def affine_of(bn: nn.BatchNorm2d) -> Affine:
    """Scale and shift of a BatchNorm in eval mode (Ioffe and Szegedy, ICML 2015, algorithm 2).

    ::

        scale = gamma / sqrt(var + eps)      shift = beta - scale * mean
    """
    mean, var = bn.running_mean, bn.running_var
    if mean is None or var is None:
        raise ValueError("a BatchNorm without running statistics has no fixed scale")
    mean, var = mean.detach().double(), var.detach().double()
    gamma = torch.ones_like(mean) if bn.weight is None else bn.weight.detach().double()
    beta = torch.zeros_like(mean) if bn.bias is None else bn.bias.detach().double()
    scale = gamma / torch.sqrt(var + bn.eps)
    return Affine(scale, beta - scale * mean)
