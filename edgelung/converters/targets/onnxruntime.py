"""Target onnxruntime: the ONNX file that runs everywhere and that every other target starts from."""

from __future__ import annotations

import copy
import inspect
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from onnx import ModelProto
from torch import nn

from edgelung.converters.spec_file import NetworkSpec
from edgelung.converters.targets import _onnx_file
from edgelung.converters.targets._onnx_file import OPSETS, OnnxFile
from edgelung.errors import ConversionError, InputError

__all__ = ["ExportReport", "OnnxFile", "adopt_onnx", "export_onnx"]

STAGE = _onnx_file.STAGE
DEFAULT_OPSET = 17
TRACER_WARNING: type[Warning] = torch.jit.TracerWarning  # type: ignore[attr-defined]
EXPORT_HINT = "the network must run on one float32 tensor and return one, without choices that depend on the data"
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
    raw, told = _trace(model, spec, opset)
    traced = _onnx_file.parse(raw)
    if traced is None:
        raise ConversionError(STAGE, "torch wrote an ONNX file that cannot be read back")
    differences = _onnx_file.border_differences(traced, spec)
    if differences:
        raise ConversionError(STAGE, f"the network does not fit its spec: {'; '.join(differences)}", hint=EXPORT_HINT)
    simple = _onnx_file.checked_simplification(traced)
    _check_borders_kept(simple, spec)
    removed = len(traced.graph.node) - len(simple.graph.node)
    return ExportReport(_onnx_file.write(simple, Path(path)), removed, told)


def adopt_onnx(source: Path | str, spec: NetworkSpec, path: Path | str) -> ExportReport:
    """Take over a ready ONNX model: checked against its spec, simplified, stripped of its origin, written anew.

    Nothing is guessed: a dynamic axis or another name is refused, not repaired. The file may not refer to other
    files, is limited in size, and holds standard operators only.

    Args:
        source: The user's ONNX file; it is not changed.
        spec: Names and static shapes that it has to have.
        path: The file to write.

    Raises:
        InputError: If the file is unsafe, invalid, or differs from the spec; says where.
        ConversionError: If it cannot be simplified or written.
    """
    given = _onnx_file.read(Path(source), str(source))
    differences = _onnx_file.border_differences(given, spec)
    if differences:
        raise InputError(f"does not fit the spec: {'; '.join(differences)}", source=source, hint=ADOPT_HINT)
    simple = _onnx_file.checked_simplification(given)
    _check_borders_kept(simple, spec)
    return ExportReport(_onnx_file.write(simple, Path(path)), len(given.graph.node) - len(simple.graph.node))


def _trace(model: nn.Module, spec: NetworkSpec, opset: int) -> tuple[bytes, tuple[str, ...]]:
    """The network as ONNX bytes, and what the tracer had to say."""
    buffer = io.BytesIO()
    tracing: dict[str, Any] = (
        {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    )  # torch 2.4
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            still = copy.deepcopy(model).to("cpu").eval()
            torch.onnx.export(
                still,
                (torch.zeros(spec.input.tensor.shape),),
                buffer,  # type: ignore[arg-type]  # the tracing exporter takes streams, its signature says otherwise
                input_names=[spec.input.tensor.name],
                output_names=[spec.output.tensor.name],
                opset_version=opset,
                **tracing,
            )
        except Exception as error:  # whatever the user's forward or the tracer raises
            reason = f"the network cannot be traced: {type(error).__name__}: {error}"
            raise ConversionError(STAGE, reason, hint=EXPORT_HINT) from error
    told = (str(warning.message) for warning in caught if issubclass(warning.category, TRACER_WARNING))
    return buffer.getvalue(), tuple(dict.fromkeys(told))


def _check_borders_kept(model: ModelProto, spec: NetworkSpec) -> None:
    differences = _onnx_file.border_differences(model, spec)
    if differences:
        raise ConversionError(STAGE, f"simplification changed the borders of the graph: {'; '.join(differences)}")
