"""Writing a fake-quantised network as ONNX with QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper
from torch import fx

from edgelung.converters.quantisation.fake_quantise import STAGE, FakeQuantise
from edgelung.converters.quantisation.qdq_check import check_qdq
from edgelung.converters.quantisation.ranges import to_exportable
from edgelung.converters.quantisation.rules import WEIGHT_AXES, QuantisationRules
from edgelung.converters.spec_file import NetworkSpec
from edgelung.converters.targets import _onnx_file
from edgelung.converters.targets.onnxruntime import OnnxFile, export_onnx
from edgelung.errors import ConversionError

__all__ = ["export_qdq", "with_all_ranges"]

Array = npt.NDArray[Any]
_BIAS_PARTS = ("int32", "step", "zero_point")


def export_qdq(network: fx.GraphModule, spec: NetworkSpec, path: Path, rules: QuantisationRules) -> OnnxFile:
    """Write a prepared network as QDQ ONNX, and see that every operator of it is quantised.

    Args:
        network: From :func:`prepare_qat`, calibrated; it is left as it is.
        spec: Names and static shapes; its output is what the network gives (logits, most often).
        path: The file to write.
        rules: Those it was prepared with.

    Raises:
        ConversionError: If a range was never seen, the export fails, or the file is not quantised throughout; there is
            no file then.
    """
    export_onnx(with_all_ranges(to_exportable(network)), spec, path, opset=rules.opset)
    model = _onnx_file.parse(path.read_bytes())
    if model is None:
        raise ConversionError(STAGE, "the exported ONNX file cannot be read back")
    try:
        _store_integers(model, rules)
        file = _onnx_file.write(model, path)
        check_qdq(path, rules)
    except ConversionError:
        path.unlink(missing_ok=True)
        raise
    return file


def with_all_ranges(network: fx.GraphModule) -> fx.GraphModule:
    """The network with a rounding at every range: a compiler computes what lies between two ranges in int8."""
    for module in network.modules():
        if isinstance(module, FakeQuantise):
            module.rounds = True
    return network


def _store_integers(model: ModelProto, rules: QuantisationRules) -> None:
    """Keep weights as the int8 and biases as the int32 numbers that they are rounded to.

    A quarter of the size, and the form that onnxruntime makes integer kernels of.
    """
    graph = model.graph
    _make_initialisers(graph)
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type in WEIGHT_AXES:
            entered, weight = (makers.get(name) for name in node.input[:2])
            if entered is None or weight is None or {entered.op_type, weight.op_type} != {"DequantizeLinear"}:
                raise ConversionError(STAGE, f"{node.op_type} {node.name}: input or weight is not quantised")
            rounded = makers[weight.input[0]]
            weight.input[0] = _store(graph, f"{rounded.input[0]}_int8", _weight_integers(rounded, constants, rules))
            if len(node.input) > 2:
                nodes.append(_dequantised_bias(graph, node, [constants[side.input[1]] for side in (entered, weight)]))
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(_used(nodes, {value.name for value in graph.output}))
    named = {name for node in graph.node for name in node.input}
    stored = sorted((tensor for tensor in graph.initializer if tensor.name in named), key=lambda tensor: tensor.name)
    del graph.initializer[:]
    graph.initializer.extend(stored)


def _make_initialisers(graph: GraphProto) -> None:
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        _store(graph, node.output[0], numpy_helper.to_array(node.attribute[0].t))
        graph.node.remove(node)


def _weight_integers(node: NodeProto, constants: dict[str, Array], rules: QuantisationRules) -> Array:
    weight, scale, zero_point = (constants[name] for name in node.input)
    axis = next(attribute.i for attribute in node.attribute if attribute.name == "axis")
    steps = np.rint(weight / scale.reshape([-1 if dim == axis else 1 for dim in range(weight.ndim)]))
    integers: Array = np.clip(steps, *rules.weight_range).astype(zero_point.dtype)
    return integers


def _dequantised_bias(graph: GraphProto, node: NodeProto, scales: list[Array]) -> NodeProto:
    name = node.input[2]
    bias = next(numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name == name)
    step = scales[0] * scales[1]
    arrays = (np.rint(bias.astype(np.float64) / step).astype(np.int32), step, np.zeros(len(step), np.int32))
    parts = [_store(graph, f"{name}_{part}", array) for part, array in zip(_BIAS_PARTS, arrays, strict=True)]
    node.input[2] = f"{name}_dequantised"
    return helper.make_node("DequantizeLinear", parts, [node.input[2]], name=node.input[2], axis=0)


def _store(graph: GraphProto, name: str, array: Array) -> str:
    graph.initializer.append(numpy_helper.from_array(array, name))
    return name


def _used(nodes: list[NodeProto], outputs: set[str]) -> list[NodeProto]:
    """Nodes whose outputs are read; in a graph without other dead ends, one backward look is enough."""
    read, kept = set(outputs), []
    for node in reversed(nodes):
        if read & set(node.output):
            kept.append(node)
            read |= set(node.input)
    return kept[::-1]
