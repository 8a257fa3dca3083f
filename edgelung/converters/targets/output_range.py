"""The range that the values of a graph's output cannot leave, by its last operators: 0..1 behind a sigmoid, say."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper

__all__ = ["OutputRange", "output_range"]

MAX_DEPTH = 64  # operators behind each other: a chain of such length does not end in a sigmoid

_Range = tuple[float, float]
_ANY: _Range = (-math.inf, math.inf)
_BOUNDED: dict[str, _Range] = {
    "HardSigmoid": (0.0, 1.0),
    "Softmax": (0.0, 1.0),
    "LogSoftmax": (-math.inf, 0.0),
    "Softplus": (0.0, math.inf),
    "Exp": (0.0, math.inf),
}
_KEEPS = frozenset(
    (
        "AveragePool", "Cast", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GlobalAveragePool",
        "Identity", "MaxPool", "ReduceMax", "ReduceMean", "ReduceMin", "Reshape", "Slice", "SpaceToDepth", "Split",
        "Squeeze", "Tile", "Transpose", "Unsqueeze",
    )
)  # fmt: skip
_JOINS = frozenset(("Concat", "Max", "Min", "Mean"))


@dataclass(frozen=True)
class OutputRange:
    """Bounds of an output.

    Attributes:
        low: No value is below; minus infinity when that is not known.
        high: No value is above.
        operator: The last operator that computes something, as ONNX calls it.
    """

    low: float
    high: float
    operator: str

    def within(self, low: float, high: float) -> bool:
        """Whether no value can lie outside of low..high."""
        return low <= self.low and self.high <= high


def output_range(model: ModelProto) -> OutputRange:
    """Bounds of the one output of a graph, simplified or not."""
    walk = _Walk(model.graph)
    name = model.graph.output[0].name
    low, high = walk.range_of(name)
    return OutputRange(low, high, walk.last_operator(name))


class _Walk:
    def __init__(self, graph: GraphProto) -> None:
        self._makers = {name: node for node in graph.node for name in node.output}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._known: dict[str, _Range] = {}

    def last_operator(self, name: str) -> str:
        node = self._makers.get(name)
        while node is not None and node.op_type in _KEEPS and node.input:
            node = self._makers.get(node.input[0])
        return "its input" if node is None else node.op_type

    def range_of(self, name: str, depth: int = 0) -> _Range:
        if name not in self._known:
            self._known[name] = self._find(name, depth)
        return self._known[name]

    def _find(self, name: str, depth: int) -> _Range:
        constant = self._constant(name)
        if constant is not None:
            return constant
        node = self._makers.get(name)
        if node is None or depth > MAX_DEPTH:
            return _ANY
        if node.op_type in _BOUNDED:
            return _BOUNDED[node.op_type]
        sources = [self.range_of(source, depth + 1) if source else _ANY for source in node.input]
        if node.op_type in _KEEPS:
            return sources[0]
        if node.op_type in _JOINS:
            return min(low for low, _ in sources), max(high for _, high in sources)
        if node.op_type == "Where":
            return min(low for low, _ in sources[1:]), max(high for _, high in sources[1:])
        if node.op_type == "Resize":
            return _ANY if _attribute(node, "mode") == b"cubic" else sources[0]
        if node.op_type == "Clip":
            return _clipped(node, sources)
        function = _FUNCTIONS.get(node.op_type)
        low, high = _ANY if function is None else function(*sources)
        return _ANY if math.isnan(low) or math.isnan(high) else (low, high)

    def _constant(self, name: str) -> _Range | None:
        tensor = self._constants.get(name)
        node = self._makers.get(name)
        if tensor is None and node is not None and node.op_type == "Constant":
            tensor = next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
        if tensor is None:
            return None
        values = numpy_helper.to_array(tensor)
        if not values.size or not np.issubdtype(values.dtype, np.number):
            return _ANY
        return float(values.min()), float(values.max())


def _attribute(node: NodeProto, name: str) -> bytes:
    return next((attribute.s for attribute in node.attribute if attribute.name == name), b"")


def _clipped(node: NodeProto, sources: list[_Range]) -> _Range:
    low, high = sources[0]
    given = [bool(name) for name in node.input]
    least = sources[1][0] if len(given) > 1 and given[1] else -math.inf
    most = sources[2][1] if len(given) > 2 and given[2] else math.inf
    return min(max(low, least), most), max(min(high, most), least)


def _sum(a: _Range, b: _Range) -> _Range:
    return a[0] + b[0], a[1] + b[1]


def _product(a: _Range, b: _Range) -> _Range:
    ends = [0.0 if 0.0 in (x, y) else x * y for x in a for y in b]
    return min(ends), max(ends)


def _quotient(a: _Range, b: _Range) -> _Range:
    return _ANY if b[0] <= 0 <= b[1] else _product(a, (1 / b[1], 1 / b[0]))


def _negative(a: _Range) -> _Range:
    return -a[1], -a[0]


def _sigmoid(x: float) -> float:
    return 0.5 * (1.0 + math.tanh(0.5 * x))


def _log(a: _Range) -> _Range:
    return -math.inf, math.log(a[1]) if 0 < a[1] < math.inf else math.inf


_FUNCTIONS: dict[str, Callable[..., _Range]] = {
    "Add": _sum,
    "Sigmoid": lambda a: (_sigmoid(a[0]), _sigmoid(a[1])),
    "Tanh": lambda a: (math.tanh(a[0]), math.tanh(a[1])),
    "Sub": lambda a, b: _sum(a, _negative(b)),
    "Mul": _product,
    "Div": _quotient,
    "Neg": _negative,
    "Log": _log,
    "Relu": lambda a: (max(a[0], 0.0), max(a[1], 0.0)),
    "Abs": lambda a: (0.0, max(abs(a[0]), abs(a[1]))),
    "Sqrt": lambda a: (0.0, math.inf),
}
