"""How a board computes in int8, as data that the placement of fake-quantisation and the check of its export share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType

__all__ = ["ONNXRUNTIME_RULES", "RK3588_RULES", "WEIGHT_AXES", "QuantisationRules"]

# Operators with weights, and the axis of the weight that counts output channels: ONNX operator specification, W is
# (M, C/group, ...) of a Conv and (C, M/group, ...) of a ConvTranspose.
WEIGHT_AXES = MappingProxyType({"Conv": 0, "ConvTranspose": 1})


@dataclass(frozen=True)
class QuantisationRules:
    """What a board asks of a quantised network. Operators are named as in ONNX.

    Attributes:
        name: Of the platform.
        activation_range: Lowest and highest integer of an activation, which has one scale and zero point per tensor.
        weight_range: The same of a weight, which has a scale per output channel and no zero point.
        own_range: Operators whose output has a range of its own.
        keeps_range: Operators whose inputs and output have one range, because the board moves or compares their
            integers without rescaling them.
        fuses_relu: Operators that a ReLU behind them is one with: what is between the two is never rounded.
        fuses_sum: Operators that an addition behind them is one with, when nothing else reads them: then their output
            is not rounded, but has a range in the file all the same, because the compiler asks for one.
        averaging: Share of the newest batch in the moving average of a range.
        opset: Of the exported graph.
    """

    name: str
    activation_range: tuple[int, int]
    weight_range: tuple[int, int]
    own_range: tuple[str, ...]
    keeps_range: tuple[str, ...]
    fuses_relu: tuple[str, ...]
    fuses_sum: tuple[str, ...]
    averaging: float
    opset: int

    def __post_init__(self) -> None:
        if not 0 < self.averaging <= 1:
            raise ValueError(f"averaging is a share above 0, got {self.averaging}")
        both = set(self.own_range) & set(self.keeps_range)
        if both:
            raise ValueError(f"{', '.join(sorted(both))} cannot have a range of its own and keep its input's")

    @property
    def operators(self) -> tuple[str, ...]:
        """All operators that may stand in a quantised network."""
        return (*self.own_range, *self.keeps_range)


# Integers, axes, shared ranges and opset: what toolkit 2.3.2 compiled to INT8 layers alone (docs/qat.md). Averaging:
# the default of torch's MovingAverageMinMaxObserver, which Rockchip's guide (2.3.2, 6.4.4) asks for.
RK3588_RULES = QuantisationRules(
    name="rk3588",
    activation_range=(-128, 127),
    weight_range=(-128, 127),
    own_range=("Conv", "ConvTranspose", "Relu", "Add"),
    keeps_range=("AveragePool", "MaxPool", "Concat", "Resize"),
    fuses_relu=("Conv", "ConvTranspose", "Add"),
    fuses_sum=("Conv",),
    averaging=0.01,
    opset=13,
)

# onnxruntime takes a ReLU into an integer convolution only where the range begins at 0, as no range does that is shared
# with a branch without a ReLU. Its integer Concat rescales. It rounds a convolution before it adds to it.
ONNXRUNTIME_RULES = replace(
    RK3588_RULES,
    name="onnxruntime",
    own_range=(*RK3588_RULES.own_range, "Concat"),
    keeps_range=("AveragePool", "MaxPool", "Resize"),
    fuses_sum=(),
)
