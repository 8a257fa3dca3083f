"""BatchNorm behind a ReLU: its scale goes forward into the next convolutions, its shift into their biases."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edgelung.converters.passes.affine import Affine
from edgelung.converters.passes.graph import set_weights
from edgelung.converters.passes.reach import Absorber, Reach

__all__ = ["Landing", "absorb", "landing_of"]


class Landing:
    """Where a shift of a convolution's input arrives as one addend per output channel, that is, as a bias."""

    EVERYWHERE = "everywhere"
    INTERIOR = "interior"  # not where the window reaches into zero padding: what is there is 0, not the shift
    NOWHERE = "nowhere"  # a transposed convolution adds another amount at each tap


def landing_of(reach: Reach, affine: Affine) -> str:
    """The worst landing of all absorbers, one of :class:`Landing`."""
    landings = {_landing(absorber.conv, affine) for absorber in reach.absorbers}
    worst_first = (Landing.NOWHERE, Landing.INTERIOR, Landing.EVERYWHERE)
    return next((landing for landing in worst_first if landing in landings), Landing.EVERYWHERE)


def absorb(absorber: Absorber, affine: Affine, *, constant: float = 0.0) -> None:
    """Let a convolution compute on ``x`` what it computed on ``scale * x + shift``.

    ::

        W (scale x + shift) + b = (W scale) x + (b + sum over taps and channels of W shift)

    With a ``constant`` the input has one more channel, of that value, behind the BatchNorm's. It gets the weights
    ``sum over channels of W shift / constant``, tap by tap, and the bias stays: zero padding then hides the shift
    exactly where it hid it before, and a transposed convolution adds at each tap what it added before. Without one, a
    transposed convolution adds everywhere what it added to an output on average (docs/retraining.md).
    """
    conv, count = absorber.conv, len(affine.scale)
    if conv.groups != 1 and constant:
        raise ValueError("a constant channel cannot serve a convolution with groups")
    own = slice(absorber.first, absorber.first + count)
    weight = conv.weight.detach().double()
    bias = torch.zeros(conv.out_channels, dtype=torch.float64) if conv.bias is None else conv.bias.detach().double()
    scale = torch.ones(conv.in_channels, dtype=torch.float64)
    shift = torch.zeros(conv.in_channels, dtype=torch.float64)
    scale[own], shift[own] = affine.scale, affine.shift
    scaled = _times_inputs(conv, weight, scale)
    shifts = _times_inputs(conv, weight, shift)
    if constant:
        axis = 0 if conv.transposed else 1
        carrier = shifts.sum(dim=axis, keepdim=True) / constant
        head = scaled.narrow(axis, 0, own.stop)
        tail = scaled.narrow(axis, own.stop, scaled.shape[axis] - own.stop)
        set_weights(conv, torch.cat([head, carrier, tail], dim=axis), bias)
    else:
        set_weights(conv, scaled, bias + _sum_to_outputs(conv, shifts))


def _landing(conv: nn.Conv2d | nn.ConvTranspose2d, affine: Affine) -> str:
    if not affine.shift.any():
        return Landing.EVERYWHERE
    if isinstance(conv, nn.ConvTranspose2d):
        return Landing.NOWHERE
    unpadded = conv.padding == "valid" or not any(_padding(conv))
    return Landing.EVERYWHERE if unpadded or conv.padding_mode != "zeros" else Landing.INTERIOR


def _padding(conv: nn.Conv2d) -> tuple[int, ...]:
    if isinstance(conv.padding, str):  # "same"
        return tuple(size - 1 for size in conv.kernel_size)
    return tuple(conv.padding)


def _times_inputs(conv: nn.Conv2d | nn.ConvTranspose2d, weight: Tensor, factors: Tensor) -> Tensor:
    if conv.transposed:
        return weight * factors.view(-1, 1, 1, 1)
    groups = weight.view(conv.groups, -1, *weight.shape[1:])
    return (groups * factors.view(conv.groups, 1, -1, 1, 1)).view_as(weight)


def _sum_to_outputs(conv: nn.Conv2d | nn.ConvTranspose2d, weight: Tensor) -> Tensor:
    """(out_channels,) sums over taps and inputs; of a transposed convolution the mean over its outputs' phases."""
    if isinstance(conv, nn.ConvTranspose2d):
        return weight.view(conv.groups, -1, *weight.shape[1:]).sum(dim=(1, 3, 4)).flatten() / math.prod(conv.stride)
    return weight.sum(dim=(1, 2, 3))
