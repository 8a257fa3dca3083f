"""torch's tracing exporter: an ONNX file and what was frozen into it, or one line that says why there is none."""

from __future__ import annotations

import copy
import inspect
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgelung.converters.passes.follow import user_line
from edgelung.converters.spec_file import NetworkSpec
from edgelung.errors import ConversionError

__all__ = ["EXPORT_HINT", "STAGE", "trace_onnx"]

STAGE = "export"
EXPORT_HINT = "the network must run on one float32 tensor and return one, without choices that depend on the data"
_TRACER_WARNING: type[Warning] = torch.jit.TracerWarning  # type: ignore[attr-defined]
_TORCH = str(Path(torch.__file__).parent)
_SWITCH = "_jit_set_onnx_log_enabled"
_NO_FORM = re.compile(r"operator '([\w:.]+)' to ONNX opset version (\d+) is not supported")
_LATER = re.compile(r"added in version (\d+)")
_UNSUPPORTED = re.compile(r"Unsupported: ONNX export of operator ([^.]+)")
_LINE = re.compile(r"([^\s(]+\.py)[(:](\d+)")
_WRITE = "write it with operators that have one"
_WAYS_OUT = {
    "channel_shuffle": "write it as view, transpose and reshape",
    "fft": "no board computes Fourier transforms: train the network without",
    "complex": "train the network with real numbers",
    "affine_grid": "compute the grid once, and keep it as a buffer",
    "col2im": "write F.fold as convolutions or reshapes",
    "bicubic2d_aa": "leave out antialias=True",
    "bilinear2d_aa": "leave out antialias=True",
    "adaptive": "choose an output size that divides the plane, or AvgPool2d with a kernel size",
    "deform": "no board computes deformable convolutions: train the network without",
}


def trace_onnx(model: nn.Module, spec: NetworkSpec, opset: int) -> tuple[bytes, tuple[str, ...]]:
    """The network as the bytes of an ONNX file, and what torch warned of while it traced, with the user's lines.

    Raises:
        ConversionError: In one line, when torch cannot.
    """
    buffer = io.BytesIO()
    tracing: dict[str, Any] = (
        {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    )  # torch 2.4
    with warnings.catch_warnings(record=True) as caught, _without_dumps():
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
            reason, hint = _reason(error)
            raise ConversionError(STAGE, reason, hint=hint) from error
    # Those inside torch are checks of sizes, which are fixed anyway.
    told = (_told(one) for one in caught if issubclass(one.category, _TRACER_WARNING) and _is_users(one.filename))
    return buffer.getvalue(), tuple(dict.fromkeys(told))


@contextmanager
def _without_dumps() -> Iterator[None]:
    """Keep torch from printing its graph: off with the log, and off with the switch, which torch itself sets to on.

    torch takes the function that says whether the log is on for a yes.
    """
    switch = getattr(torch._C, _SWITCH, None)
    if switch is None:
        yield
        return
    switch(False)
    setattr(torch._C, _SWITCH, lambda enabled: None)
    try:
        yield
    finally:
        setattr(torch._C, _SWITCH, switch)


def _reason(error: Exception) -> tuple[str, str]:
    """Why there is no ONNX file, in one line, and the way out."""
    text = str(error)
    if found := _NO_FORM.search(text):
        operator, opset = found.groups()
        later = _LATER.search(text)
        since = f" (only from opset {later[1]} on)" if later else ""
        return f"torch's {operator} has no ONNX form in opset {opset}{since}", _way_out(operator)
    if found := _UNSUPPORTED.search(text):
        return f"there is no ONNX form of {' '.join(found[1].split())}{_where(text)}", _way_out(found[1])
    line = (text.splitlines() or [""])[0].partition("  [Caused by")[0].strip()
    where = _where(text) or _where_raised(error)
    return f"the network cannot be traced: {type(error).__name__}: {line}{where}", EXPORT_HINT


def _way_out(operator: str) -> str:
    return next((hint for part, hint in _WAYS_OUT.items() if part in operator), _WRITE)


def _where(text: str) -> str:
    """The user's line that torch names in a message."""
    own = [(file, line) for file, line in _LINE.findall(text) if not file.startswith(_TORCH)]
    return f", {Path(own[0][0]).name}:{own[0][1]}" if own else ""


def _where_raised(error: Exception) -> str:
    where = user_line(error)
    return f", {where}" if where else ""


def _told(warning: warnings.WarningMessage) -> str:
    first = str(warning.message).partition(". ")[0]
    return f"{first} ({Path(warning.filename).name}:{warning.lineno})"


def _is_users(file: str) -> bool:
    return not file.startswith((_TORCH, "<"))
