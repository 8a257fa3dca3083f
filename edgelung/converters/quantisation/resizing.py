"""Which resizing a board does on integers, as it must be for a range that it keeps."""

from __future__ import annotations

import inspect
from typing import Any

from torch import fx, nn

from edgelung.converters.passes.graph import layer

__all__ = ["is_resize", "resize_problem"]

_FUNCTION = nn.functional.interpolate
_OPTIONS = ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor")
_SCALED = "give scale_factor=2"


def is_resize(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is an ``nn.Upsample`` or a call of ``nn.functional.interpolate``."""
    return isinstance(layer(network, node), nn.Upsample) or (node.op == "call_function" and node.target is _FUNCTION)


def resize_problem(network: fx.GraphModule, node: fx.Node) -> tuple[str, str]:
    """Why a board would not do a resizing in int8, and the way out; both empty when it would.

    Measured with toolkit 2.3.2 (docs/qat.md): ``nearest`` and ``bilinear`` without aligned corners are int8 layers of
    the NPU at whole factors. Aligned corners and broken factors go to the CPU, ``bicubic`` ends the toolkit.
    """
    given = _options(network, node)
    mode, factor = given["mode"], given["scale_factor"]
    if mode == "nearest-exact":
        return "has no form in the exported operator set", 'mode="nearest" is the same at whole factors'
    if mode not in ("nearest", "bilinear"):
        return f"resizes by {mode!r}", 'use mode="bilinear" or "nearest"'
    for option in ("align_corners", "antialias"):
        if given.get(option):
            return f"has {option}=True, which runs on the CPU", "set it to False and train the network again with it"
    if given["recompute_scale_factor"]:
        return "has recompute_scale_factor=True, which has no static shape in the exported graph", "leave it out"
    if factor is None:
        return "is given a size, not a factor", _SCALED
    factors = factor if isinstance(factor, (list, tuple)) else (factor,)
    if not all(isinstance(value, (int, float)) and value >= 1 and float(value).is_integer() for value in factors):
        return f"has the factor {factor}, which is no whole number", f"{_SCALED}, or pool to make a map smaller"
    if mode == "bilinear" and not _rounds_alike([int(value) for value in factors]):
        return f"has the factor {factor}, at which torch and the board round halves apart", _SCALED
    return "", ""


def _rounds_alike(factors: list[int]) -> bool:
    """Whether no weighted mean of integers is a half that float32 misses.

    At powers of two the weights are exact. At odd factors they are multiples of one over an odd number, and no half is.
    """
    return all(factor & (factor - 1) == 0 for factor in factors) or all(factor % 2 for factor in factors)


def _options(network: fx.GraphModule, node: fx.Node) -> dict[str, Any]:
    module = layer(network, node)
    if module is not None:
        return {name: getattr(module, name) for name in _OPTIONS}
    bound = inspect.signature(_FUNCTION).bind(*node.args, **node.kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)
