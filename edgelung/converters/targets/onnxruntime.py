"""Target onnxruntime: the ONNX file that runs everywhere and that every other target starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto
from torch import nn

from edgelung.converters.spec_file import NetworkSpec
from edgelung.converters.targets import _onnx_file
from edgelung.converters.targets._onnx_file import OPSETS, OnnxFile
from edgelung.converters.targets._tracing import EXPORT_HINT, STAGE, trace_onnx
from edgelung.errors import ConversionError, InputError

__all__ = ["ExportReport", "OnnxFile", "adopt_onnx", "export_onnx", "graph_of", "read_ready"]

DEFAULT_OPSET = 17
ADOPT_HINT = (
    "correct the spec, export the network as the spec says, or fix dynamic axes with "
    "onnxsim IN.onnx OUT.onnx --overwrite-input-shape NAME:1,C,H,W"
)


@dataclass(frozen=True)
class ExportReport:
    """What an export made.

    Attributes:
        file: The ONNX file.
        removed_nodes: How many nodes simplification took away.
        warnings: What torch said while it traced the network; a warning about Python values means that a choice of
            the traced run became part of the graph.
    """

    file: OnnxFile
    removed_nodes: int
    warnings: tuple[str, ...] = ()


def export_onnx(model: nn.Module, spec: NetworkSpec, path: Path | str, *, opset: int = DEFAULT_OPSET) -> ExportReport:
    """Write a network as a static ONNX file with the tensor names of its spec.

    The tracing exporter of torch (``dynamo=False``) is used on purpose: it needs no further package (the newer one
    stops without onnxscript), writes every opset of 13..19 itself, and is in all of torch 2.4..2.13. It is deprecated,
    which is for us to know and is kept from the user; when torch drops it, this function is what changes. The network
    itself is left as it is, its training mode included.

    Args:
        model: Takes ``spec.input.tensor.shape`` float32 and returns one tensor.
        spec: Names and static shapes.
        path: The file to write.
        opset: ONNX operator set, 13..19.

    Raises:
        InputError: If the opset is out of range.
        ConversionError: If tracing or simplification fails, or the graph's borders are not those of the spec.
    """
    if opset not in OPSETS:
        problem = f"opset {opset} is not one of {OPSETS.start}..{OPSETS.stop - 1}"
        raise InputError(problem, field="opset", hint=f"{DEFAULT_OPSET} suits every target")
    traced, told = graph_of(model, spec, opset=opset)
    simple = _onnx_file.checked_simplification(traced)  # first: torch computes padding in the graph, on open shapes
    differences = _onnx_file.border_differences(simple, spec)
    if differences:
        raise ConversionError(STAGE, f"the network does not fit its spec: {'; '.join(differences)}", hint=EXPORT_HINT)
    removed = len(traced.graph.node) - len(simple.graph.node)
    return ExportReport(_onnx_file.write(simple, Path(path)), removed, told)


def graph_of(model: nn.Module, spec: NetworkSpec, *, opset: int = DEFAULT_OPSET) -> tuple[ModelProto, tuple[str, ...]]:
    """A network's ONNX graph as torch writes it, and what torch warned of.

    Raises:
        ConversionError: If the network cannot be traced.
    """
    raw, told = trace_onnx(model, spec, opset)
    traced = _onnx_file.parse(raw)
    if traced is None:
        raise ConversionError(STAGE, "torch wrote an ONNX file that cannot be read back")
    return traced, told


def adopt_onnx(source: Path | str, spec: NetworkSpec, path: Path | str, *, output: str = "") -> ExportReport:
    """Take over a ready ONNX model: checked against its spec, simplified, stripped of its origin, written anew.

    Nothing is guessed: a dynamic axis or another name is refused, not repaired. The file may not refer to other
    files, is limited in size, and holds standard operators only.

    Args:
        source: The user's ONNX file; it is not changed.
        spec: Names and static shapes that it has to have.
        path: The file to write.
        output: Name of the output that is taken, where there are several; else empty.

    Raises:
        InputError: If the file is unsafe, invalid, or differs from the spec; says where.
        ConversionError: If it cannot be simplified or written.
    """
    given = _onnx_file.read(Path(source), str(source))
    simple = read_ready(source, spec, output)
    return ExportReport(_onnx_file.write(simple, Path(path)), len(given.graph.node) - len(simple.graph.node))


def read_ready(source: Path | str, spec: NetworkSpec, output: str = "") -> ModelProto:
    """A ready ONNX model, simplified, with the one input and output of its spec.

    Args:
        source: The user's ONNX file.
        spec: Names and static shapes that it has to have.
        output: Name of the output that is taken, where there are several; else empty.

    Raises:
        InputError: If the file is unsafe, invalid, quantised already, or differs from the spec; says where.
        ConversionError: If it cannot be simplified.
    """
    given = _onnx_file.read(Path(source), str(source))
    quantised = _onnx_file.quantisers_of(given)
    if quantised:
        problem = f"is quantised already ({', '.join(quantised)}), so there is no float original to compare with"
        raise InputError(problem, source=source, hint="give the float32 model that it was made of, with --ptq for int8")
    _onnx_file.keep_output(given, output, str(source))
    inputs = _onnx_file.border_differences(given, spec, outputs=False)
    simple = None if inputs else _onnx_file.checked_simplification(given)  # shapes of outputs may follow from it
    differences = inputs if simple is None else _onnx_file.border_differences(simple, spec)
    if simple is None or differences:
        both = [*differences, *(_onnx_file.border_differences(given, spec, inputs=False) if simple is None else [])]
        raise InputError(f"does not fit the spec: {'; '.join(both)}", source=source, hint=ADOPT_HINT)
    return simple
