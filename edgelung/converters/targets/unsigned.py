"""int8 for onnxruntime in unsigned numbers, so that no x86 processor can overflow while it adds.

onnxruntime multiplies unsigned activations by signed weights where it can. An x86 processor with VNNI adds four such
products in 32 bits. One without VNNI has ``vpmaddubsw`` for it (Intel, Intrinsics Guide, ``_mm256_maddubs_epi16``): it
adds *two* products in 16 bits and cuts off what does not fit, silently. With activations up to 255 that happens as
soon as two neighbouring weights of one sign add up to more than 128. Where both sides are unsigned, onnxruntime widens
to 16 bits first and adds in 32, on every processor.

The numbers stay the same: ``(q - z) * s`` with 128 added to both ``q`` and ``z``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from edgelung.converters.targets._onnx_file import OnnxFile, write
from edgelung.errors import ConversionError

__all__ = ["largest_pair_sum", "make_unsigned", "overflowing_operators", "write_unsigned"]

STAGE = "quantise"
SHIFT = 128
LARGEST_ACTIVATION = 255
INT16 = np.iinfo(np.int16)
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
# Operators with integer kernels in onnxruntime, and the axis of their constant second input that counts output
# channels; the sum runs over all the others.
_OUTPUT_AXES = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1, "Gemm": -1}


def write_unsigned(model: ModelProto, path: Path) -> OnnxFile:
    """Write a QDQ model in the form that onnxruntime computes alike on every processor; the model is changed.

    Raises:
        ConversionError: When it has no such form, or cannot be written.
    """
    make_unsigned(model)
    left = overflowing_operators(model)
    if left:
        raise ConversionError(STAGE, f"{left[0]}: this would be wrong on processors without VNNI")
    return write(model, path)


def make_unsigned(model: ModelProto) -> None:
    """Turn every int8 tensor of a QDQ model into uint8, in place: 128 is added to its numbers and its zero points.

    Args:
        model: Whose operators all compute on floats between DequantizeLinear and QuantizeLinear; without subgraphs.

    Raises:
        ConversionError: When something else than QuantizeLinear and DequantizeLinear reads an int8 constant.
    """
    graph = model.graph
    signed = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.INT8}
    for node in graph.node:
        read = [name for name in node.input if name in signed]
        if read and node.op_type not in _QUANTIZERS:
            raise ConversionError(STAGE, f"{node.op_type} {node.name} computes on integers itself, not between ranges")
        if node.op_type == "DequantizeLinear" and len(node.input) == 2 and read:  # no zero point means 0
            node.input.append(_zero_point_for(graph, node))
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.INT8:
            continue
        shifted = (numpy_helper.to_array(tensor).astype(np.int16) + SHIFT).astype(np.uint8)
        tensor.CopyFrom(numpy_helper.from_array(shifted, tensor.name))
    for value in graph.value_info:
        if value.type.tensor_type.elem_type == TensorProto.INT8:
            value.type.tensor_type.elem_type = TensorProto.UINT8


def overflowing_operators(model: ModelProto) -> tuple[str, ...]:
    """Operators of a QDQ model whose sums may not fit an x86 processor without VNNI, as ``Conv name: 500 > 128``.

    The bound holds for any order in which a kernel takes the weights of an output channel: the two largest of one
    sign are taken to be neighbours, and activations to be 255 at both.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    found = []
    for node in model.graph.node:
        maker = makers.get(node.input[1]) if node.op_type in _OUTPUT_AXES else None
        weight = constants.get(maker.input[0]) if maker is not None and maker.op_type == "DequantizeLinear" else None
        if weight is None or weight.dtype != np.int8:
            continue
        lowest, highest = largest_pair_sum(weight, _output_axis(node))
        if LARGEST_ACTIVATION * highest > INT16.max or LARGEST_ACTIVATION * lowest < INT16.min:
            found.append(f"{node.op_type} {node.name or node.output[0]}: weights add up to {lowest} and {highest}")
    return tuple(found)


def largest_pair_sum(weight: npt.NDArray[np.int8], axis: int) -> tuple[int, int]:
    """The lowest and the highest sum of two weights that one output channel can meet; the other one may be 0.

    Args:
        weight: Integers of any shape.
        axis: The axis that counts output channels.
    """
    rows = np.sort(np.moveaxis(weight.astype(np.int64), axis, 0).reshape(weight.shape[axis], -1), axis=1)
    pair = rows[:, : min(2, rows.shape[1])], rows[:, -min(2, rows.shape[1]) :]
    return int(np.minimum(pair[0], 0).sum(axis=1).min()), int(np.maximum(pair[1], 0).sum(axis=1).max())


def _output_axis(node: NodeProto) -> int:
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if transposed else _OUTPUT_AXES[node.op_type]


def _zero_point_for(graph: GraphProto, node: NodeProto) -> str:
    """Name of a new int8 zero point in the shape of a node's scale."""
    scale: npt.NDArray[Any] = next(
        numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name == node.input[1]
    )
    name = f"{node.output[0]}_zero_point"
    graph.initializer.append(numpy_helper.from_array(np.zeros(scale.shape, np.int8), name))
    return name
