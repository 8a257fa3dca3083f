"""Whether an ONNX graph is quantised throughout, as the rules of a board ask for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from edgelung.converters.quantisation.fake_quantise import STAGE
from edgelung.converters.quantisation.rules import WEIGHT_AXES, QuantisationRules
from edgelung.converters.targets import _onnx_file
from edgelung.errors import ConversionError

__all__ = ["QdqCounts", "check_qdq"]

_QUANTISE, _DEQUANTISE = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True)
class QdqCounts:
    """What a checked graph holds.

    Attributes:
        operators: ONNX operator -> how often, without QuantizeLinear and DequantizeLinear.
        ranges: Different (scale, zero point) pairs of activations.
    """

    operators: dict[str, int]
    ranges: int


@dataclass(frozen=True)
class _Step:
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int
    dtype: int


def check_qdq(path: Path, rules: QuantisationRules) -> QdqCounts:
    """Require that every operator of an ONNX file reads and writes integers in the ranges that the rules ask for.

    Raises:
        InputError: If the file is no valid, self-contained ONNX model.
        ConversionError: Naming the first operator that would not be computed in int8, and why.
    """
    graph = _Graph(_onnx_file.read(path, str(path)))
    counts: dict[str, int] = {}
    ranges: set[_Step] = set()
    for node in graph.nodes:
        if node.op_type in (_QUANTISE, _DEQUANTISE):
            continue
        problem = _problem(graph, node, rules)
        if problem:
            name = node.name or (node.output[0] if node.output else "")
            hint = f"this is not what prepare_qat places for {rules.name}"
            raise ConversionError(STAGE, f"{node.op_type} {name}: {problem}", hint=hint)
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
        ranges |= {step for step in (graph.read(name) for name in node.input[:1]) if step}
    return QdqCounts(counts, len(ranges))


class _Graph:
    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self.nodes = list(graph.node)
        self.makers = {name: node for node in graph.node for name in node.output}
        self.users: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        self.borders = {value.name for value in graph.output}

    def read(self, name: str) -> _Step | None:
        """How a tensor that comes from DequantizeLinear was rounded; None for every other, and for a rescaled one."""
        maker = self.makers.get(name)
        if maker is None or maker.op_type != _DEQUANTISE:
            return None
        step, source = self._step(maker), self.makers.get(maker.input[0])
        return step if source is None or self._step(source) == step else None

    def written(self, node: NodeProto, rules: QuantisationRules) -> _Step | None:
        """How the output is rounded, behind the ReLU that is one with it; None when it also stays float."""
        name = node.output[0]
        users = self.users.get(name, [])
        fused = node.op_type in rules.fuses_relu and len(users) == 1 and users[0].op_type == "Relu"
        if fused:
            return self.written(users[0], rules)
        if name in self.borders or not users or any(user.op_type != _QUANTISE for user in users):
            return None
        steps = {self._step(user) for user in users}
        return steps.pop() if len(steps) == 1 else None

    def is_fused(self, node: NodeProto, rules: QuantisationRules) -> bool:
        """Whether a node is a ReLU that is one with the operator before it."""
        maker = self.makers.get(node.input[0])
        return (
            node.op_type == "Relu"
            and maker is not None
            and maker.op_type in rules.fuses_relu
            and len(self.users[node.input[0]]) == 1
            and node.input[0] not in self.borders
        )

    def _step(self, node: NodeProto) -> _Step | None:
        if len(node.input) != 3 or not {node.input[1], node.input[2]} <= set(self.constants):
            return None
        scale, zero_point = (self.constants[name] for name in node.input[1:])
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        return _Step(
            tuple(float(value) for value in scale.ravel()),
            tuple(int(value) for value in zero_point.ravel()),
            axis if scale.ndim else -1,
            _DTYPES.get(zero_point.dtype, TensorProto.UNDEFINED),
        )

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a constant, behind its rounding."""
        while name not in self.constants and name in self.makers:
            name = self.makers[name].input[0]
        return self.constants[name].shape if name in self.constants else ()


_DTYPES: dict[Any, int] = {np.dtype(np.int8): TensorProto.INT8, np.dtype(np.uint8): TensorProto.UINT8}


def _problem(graph: _Graph, node: NodeProto, rules: QuantisationRules) -> str:
    """Why a board would not compute an operator in int8; empty when it would."""
    if node.op_type not in rules.operators:
        return f"the rules know no {node.op_type} in int8"
    fused = graph.is_fused(node, rules)
    weighted = node.op_type in WEIGHT_AXES
    single = weighted or node.op_type == "Resize"  # the other inputs are weights, or the size
    data = [] if fused else list(node.input[:1]) if single else list(node.input)
    read = [graph.read(name) for name in data]
    if not all(map(_is_activation, read)):
        return "an input is not quantised per tensor in int8"
    written = graph.written(node, rules)
    if not _is_activation(written):
        return "its output is not quantised per tensor in int8"
    if node.op_type in rules.keeps_range and any(step != written for step in read):
        return "its inputs and its output do not have one range"
    return _weight_problem(graph, node, WEIGHT_AXES[node.op_type]) if weighted else ""


def _is_activation(step: _Step | None) -> bool:
    return step is not None and step.dtype == TensorProto.INT8 and len(step.scale) == 1 and _is_sound(step)


def _is_sound(step: _Step) -> bool:
    return all(np.isfinite(scale) and scale > 0 for scale in step.scale)


def _weight_problem(graph: _Graph, node: NodeProto, axis: int) -> str:
    step, shape = graph.read(node.input[1]), graph.shape(node.input[1])
    if step is None or step.dtype != TensorProto.INT8 or not _is_sound(step):
        return "its weight is not quantised in int8"
    if step.axis != axis or len(shape) <= axis or len(step.scale) != shape[axis]:
        return f"its weight is quantised along axis {step.axis}, its output channels are on axis {axis}"
    return "its weight has zero points" if any(step.zero_point) else ""
