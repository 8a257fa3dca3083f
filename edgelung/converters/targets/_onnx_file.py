"""ONNX files of one network: read with suspicion, simplified, stripped of their origin, written whole or not at all."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxsim
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, numpy_helper

from edgelung.converters.spec_file import NetworkSpec
from edgelung.errors import ConversionError, InputError
from edgelung.spec import TensorSpec

__all__ = [
    "OPSETS",
    "OnnxFile",
    "border_differences",
    "checked_simplification",
    "keep_output",
    "parse",
    "quantisers_of",
    "read",
    "write",
]

OPSETS = range(13, 20)  # what rknn-toolkit2 2.3 and 2.5 import, quantised graphs included
MAX_FILE_BYTES = 512 * 2**20
PRODUCER = "edgelung"
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
QUANTISERS = frozenset(
    (
        "ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul",
        "QuantizeLinear",
    )
)  # fmt: skip
STANDARD_DOMAINS = ("", "ai.onnx")
STAGE = "export"
_DTYPES: dict[int, str] = {TensorProto.FLOAT: "float32", TensorProto.DOUBLE: "float64"}  # others are named as here


@dataclass(frozen=True)
class OnnxFile:
    """A written ONNX file.

    Attributes:
        path: Where it lies.
        sha256: Of its bytes, in hexadecimal.
        size_bytes: Of the file.
        opset: Of the standard operators.
        operators: Operator type -> how often, most frequent first.
        parameters: Numbers in its float weights, statistics of normalisation included.
        weight_bytes: Of all its constants.
    """

    path: Path
    sha256: str
    size_bytes: int
    opset: int
    operators: dict[str, int]
    parameters: int
    weight_bytes: int


def read(path: Path, source: str) -> ModelProto:
    """A user's ONNX file that is one file, standard operators only, and valid.

    Raises:
        InputError: Naming the file, what is wrong and the way out.
    """
    hint = "export the network into one file, e.g. torch.onnx.export(..., opset_version=17)"
    try:
        if path.is_dir():
            raise InputError("is a folder, not an ONNX file", source=source, hint=hint)
        if path.stat().st_size > MAX_FILE_BYTES:
            problem = f"is larger than {MAX_FILE_BYTES >> 20} MiB"
            raise InputError(problem, source=source, hint="that is no network for a board")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError("does not exist", source=source, hint="check the path of the ONNX file") from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", source=source, hint="check path and rights") from error
    model = parse(raw)
    if model is None or not model.graph.node:
        raise InputError("is no ONNX model, or is cut short", source=source, hint=hint)
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in _tensors(model)):
        hint = 'put everything into one file: onnx.save(onnx.load("model.onnx"), "one_file.onnx")'
        raise InputError("keeps its weights in other files", source=source, hint=hint)
    foreign = sorted({node.domain for node in _nodes(model) if node.domain not in STANDARD_DOMAINS})
    if foreign or model.functions:
        problem = f"uses operators outside the ONNX standard ({', '.join(foreign) or 'functions of its own'})"
        raise InputError(problem, source=source, hint=hint)
    if opset_of(model) not in OPSETS:
        problem = f"has opset {opset_of(model)}, not {OPSETS.start}..{OPSETS.stop - 1}"
        raise InputError(problem, source=source, hint="export it with opset 17, or use onnx.version_converter")
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # ValidationError, InferenceError and others without a common base
        raise InputError(f"is not a valid ONNX model: {_line(error)}", source=source, hint=hint) from error
    return model


def parse(raw: bytes) -> ModelProto | None:
    """A model from its bytes, or None; external data is never touched."""
    try:
        return onnx.load_model_from_string(raw)
    except Exception:  # protobuf's DecodeError, which has no import path that is the same in all versions
        return None


def opset_of(model: ModelProto) -> int:
    """Opset of the standard operators; 0 when the model names none."""
    return max((entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS), default=0)


def border_differences(model: ModelProto, spec: NetworkSpec, *, inputs: bool = True, outputs: bool = True) -> list[str]:
    """In words, where the graph's inputs and outputs are not those of the spec; empty when they are."""
    weights = {tensor.name for tensor in model.graph.initializer}
    given = [value for value in model.graph.input if value.name not in weights]
    return [
        *(_side_differences("input", given, spec.input.tensor) if inputs else ()),
        *(_side_differences("output", list(model.graph.output), spec.output.tensor) if outputs else ()),
    ]


def quantisers_of(model: ModelProto) -> list[str]:
    """Names of the operators of a graph that round to integers or compute in them."""
    return sorted({node.op_type for node in _nodes(model)} & QUANTISERS)


def keep_output(model: ModelProto, name: str, source: str) -> None:
    """Leave one of several outputs; in place.

    Raises:
        InputError: When there are several and none is named, or the name is none of them.
    """
    found = list(model.graph.output)
    listed = ", ".join(f"{value.name} {shape_of(value)}" for value in found)
    if not name:
        if len(found) > 1:
            problem = f"has {len(found)} outputs: {listed}"
            raise InputError(problem, source=source, hint=f"choose one with --output-key {found[0].name}, say")
        return
    kept = [value for value in found if value.name == name]
    if not kept:
        raise InputError(f"gives no {name!r}", source=source, field="output-key", hint=f"it gives {listed}")
    del model.graph.output[:]
    model.graph.output.extend(kept)


def shape_of(value: ValueInfoProto) -> tuple[int | str, ...]:
    """Of an input or output; an axis that is open has a name, or a question mark."""
    return tuple(axis.dim_value or axis.dim_param or "?" for axis in value.type.tensor_type.shape.dim)


def checked_simplification(model: ModelProto) -> ModelProto:
    """Constants folded, BatchNorm folded into convolutions before it, dead nodes gone; then checked.

    Raises:
        ConversionError: If simplification or the checker fails.
    """
    try:
        simple, _ = onnxsim.simplify(model, tensor_size_threshold="64MB")
        simplified: ModelProto = simple
        _strip_origin(simplified)
        onnx.checker.check_model(simplified, full_check=True)
    except Exception as error:  # C++ errors of several libraries
        raise ConversionError(STAGE, f"the ONNX graph cannot be simplified: {_line(error)}") from error
    return simplified


def write(model: ModelProto, path: Path) -> OnnxFile:
    """Write a model; the same model gives the same bytes.

    Raises:
        ConversionError: If it cannot be written; nothing is left behind then.
    """
    raw = model.SerializeToString(deterministic=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(raw)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ConversionError(STAGE, f"{path} cannot be written: {error.strerror}") from error
    operators = dict(Counter(node.op_type for node in model.graph.node).most_common())
    weights = (tensor for tensor in model.graph.initializer if tensor.data_type in FLOATS)
    parameters = sum(math.prod(tensor.dims) for tensor in weights)
    weight_bytes = sum(numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer)
    sha256 = hashlib.sha256(raw).hexdigest()
    return OnnxFile(path, sha256, len(raw), opset_of(model), operators, parameters, weight_bytes)


def _side_differences(side: str, values: list[ValueInfoProto], wanted: TensorSpec) -> list[str]:
    if len(values) != 1:
        found = ", ".join(value.name for value in values) or "none"
        return [f"it has {len(values)} {side}s ({found}), the spec has one, {wanted.name!r}"]
    (value,) = values
    tensor = value.type.tensor_type
    shape = shape_of(value)
    dtype = _DTYPES.get(tensor.elem_type) or TensorProto.DataType.Name(tensor.elem_type).lower()
    differences = []
    if value.name != wanted.name:
        differences.append(f"its {side} is called {value.name!r}, in the spec {wanted.name!r}")
    if shape != wanted.shape:
        differences.append(f"its {side} has the shape {shape}, in the spec {wanted.shape}")
    if tensor.elem_type != TensorProto.FLOAT:
        differences.append(f"its {side} is {dtype}, in the spec {wanted.dtype}")
    return differences


def _strip_origin(model: ModelProto) -> None:
    """Take out what tells of the machine and the moment: names of producers, source lines, stack traces."""
    model.producer_name, model.producer_version, model.domain, model.model_version = PRODUCER, "", "", 0
    model.graph.name = PRODUCER
    for part in _parts(model):
        if hasattr(part, "doc_string"):
            part.ClearField("doc_string")
        if hasattr(part, "metadata_props"):
            part.ClearField("metadata_props")
    graph = model.graph
    for field in (graph.initializer, graph.value_info):
        field.sort(key=lambda item: item.name)


def _parts(model: ModelProto) -> Iterator[Any]:
    yield model
    for graph in _graphs(model.graph):
        yield graph
        yield from (*graph.input, *graph.output, *graph.value_info, *graph.initializer, *graph.node)
        yield from (attribute for node in graph.node for attribute in node.attribute)


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _graphs(inner)


def _nodes(model: ModelProto) -> Iterator[Any]:
    for graph in _graphs(model.graph):
        yield from graph.node


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    for graph in _graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in _nodes(model):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
