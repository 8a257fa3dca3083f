"""Which average pooling the exported graph says truly and a board does on the NPU."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from edgelung.converters.passes.graph import layer

__all__ = ["average_problem"]

_ARGUMENTS = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


def average_problem(network: fx.GraphModule, node: fx.Node) -> tuple[str, str]:
    """Why an average pooling has no int8 form, and the way out; both empty when it has one.

    torch exports no divisor of one's own, and toolkit 2.3.2 gives a mean without the padding to the CPU (docs/qat.md).
    """
    given = _options(network, node)
    if given.get("divisor_override") is not None:
        return "has a divisor of its own, which the exported graph does not say", "scale in the convolution behind it"
    if given.get("padding", 0) not in (0, (0, 0), [0, 0]) and not given.get("count_include_pad", True):
        return "leaves its padding out of the mean, which runs on the CPU", "set count_include_pad=True and train again"
    return "", ""


def _options(network: fx.GraphModule, node: fx.Node) -> dict[str, Any]:
    pool = layer(network, node)
    if isinstance(pool, nn.AvgPool2d):
        return {name: getattr(pool, name) for name in _ARGUMENTS[1:]}
    return {**dict(zip(_ARGUMENTS, node.args, strict=False)), **node.kwargs}
