"""Where the channels of a BatchNorm go: through pooling and concatenation to the convolutions that can take it over."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import fx, nn

from edgelung.converters.passes.affine import Affine
from edgelung.converters.passes.graph import channels, concatenated, layer, unshared

__all__ = ["Absorber", "Reach", "find_reach"]

_COMMUTING = (nn.Identity, nn.Dropout, nn.Dropout2d)  # in eval mode
_AVERAGING = ("nearest", "bilinear")  # of Upsample: each value is a weighted mean


@dataclass(frozen=True, eq=False)
class Absorber:
    """A convolution that a BatchNorm's channels arrive at.

    Attributes:
        node: Its node.
        conv: The layer; its weights are used nowhere else.
        first: Which of its input channels is the first of them.
    """

    node: fx.Node
    conv: nn.Conv2d | nn.ConvTranspose2d
    first: int


@dataclass(frozen=True, eq=False)
class Reach:
    """Everything downstream of a BatchNorm until something other than a scale and a shift happens.

    Attributes:
        absorbers: The convolutions, those of higher ``first`` first, so that inserting channels disturbs no other.
        refusal: What stands in the way, in words; empty when every path ends in an absorber.
        growth: For every tensor on the way (the name of the node that makes it): its channels, and how often the
            BatchNorm's channels are among them.
    """

    absorbers: tuple[Absorber, ...]
    refusal: str
    growth: dict[str, tuple[int, int]]


def find_reach(network: fx.GraphModule, node: fx.Node, affine: Affine) -> Reach:
    """Follow a BatchNorm's channels downstream.

    A weighted mean with weights that sum to 1 (average pooling, upsampling) passes a scale and a shift on; so does a
    maximum where no factor is negative; concatenation moves the channels.
    """
    absorbers: list[Absorber] = []
    times: Counter[str] = Counter()
    widths: dict[str, int] = {}
    refused: list[str] = []
    pending = [(node, 0)]
    while pending:
        tensor, first = pending.pop()
        width = channels(network, tensor)
        if width is None:
            refused.append(f"the number of channels of {tensor.name} is not known")
            continue
        times[tensor.name] += 1
        widths[tensor.name] = width
        for user in tensor.users:
            conv = layer(network, user)
            parts = concatenated(user)
            if isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d)) and unshared(network, user):
                absorbers.append(Absorber(user, conv, first))
            elif parts is not None:
                for place, part in enumerate(parts):
                    before = [channels(network, other) for other in parts[:place]]
                    if part is tensor and None in before:
                        refused.append(f"a width before it in {user.name} is not known")
                    elif part is tensor:
                        pending.append((user, first + sum(width or 0 for width in before)))
            elif _passes(conv, affine):
                pending.append((user, first))
            else:
                refused.append(f"{user.name} takes it, which is no convolution of its own and no pooling")
    absorbers.sort(key=lambda absorber: -absorber.first)
    growth = {name: (width, times[name]) for name, width in widths.items()}
    return Reach(tuple(absorbers), "; ".join(dict.fromkeys(refused)), growth)


def _passes(module: nn.Module | None, affine: Affine) -> bool:
    if isinstance(module, nn.AvgPool2d):
        inside = module.padding in (0, (0, 0)) and not module.ceil_mode
        return inside and module.divisor_override is None
    if isinstance(module, nn.MaxPool2d):  # its padding is minus infinity, so a border changes nothing
        return not module.return_indices and bool((affine.scale >= 0).all())
    if isinstance(module, nn.Upsample):
        return module.mode in _AVERAGING
    return isinstance(module, _COMMUTING)
