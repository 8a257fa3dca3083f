"""The stages between a read network and its verified artefacts; each returns a new record or what it measured."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgelung.bundle import FidelityRow, LatencyRecord
from edgelung.converters.fidelity import (
    LIMITS,
    NO_LIMITS,
    RETRAINED,
    TRAINED_LIMITS,
    measure_fidelity,
    measure_nodules,
    to_probability,
)
from edgelung.converters.passes import RK3588_FP16, RK3588_INT8, restructure
from edgelung.converters.passes.probe import find_probe
from edgelung.converters.quantisation import RK3588_RULES, export_qdq
from edgelung.converters.record import ConversionRecord
from edgelung.converters.route import Precision, Route
from edgelung.converters.slabs import Slabs
from edgelung.converters.targets.onnxruntime import OnnxFile, adopt_onnx, export_onnx
from edgelung.converters.verify import FP32_LIMIT, onnx_function, torch_function, verify_onnx
from edgelung.errors import ConversionError, VerificationError
from edgelung.spec import NetworkInput

__all__ = [
    "Answers",
    "answer_with_original",
    "check_artefact",
    "export",
    "probe_of",
    "restructure_network",
    "run_on_host",
]

EXPORTED_HINT = "nothing that is read elsewhere may be changed in place (+=, relu_), and nothing may be random"
PROBE_PX = 192  # least height and width of a slab's middle: restructuring is proven in float64, which takes its time
FLAT_LIMIT = 0.01  # relative: where all pixels are alike, a normalisation by the input's own variance enlarges rounding
GOLDEN_MARGIN = 1.5  # an engine's own rounding may add half of what its arithmetic was measured to differ by
GOLDEN_FLOOR = 1e-3

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Answers:
    """What the original network says.

    Attributes:
        verify: To the slabs that everything is verified on, as probabilities.
        retrained: What the network says to them that was made of the original, before it was compiled, if it was
            retrained; otherwise empty.
        golden: To the golden slab, in the unit of the converted network's output.
    """

    verify: tuple[Array, ...]
    retrained: tuple[Array, ...]
    golden: Array


def restructure_network(record: ConversionRecord, golden: Array, route: Route) -> ConversionRecord:
    """Fold BatchNorms where that is free for the NPU, and split the sigmoid off; proven on the golden slab.

    A BatchNorm that cannot be folded for nothing stays: docs/restructuring.md has the measurements. A ready graph is
    left as it came.

    Raises:
        ConversionError: When the network cannot be followed; --no-restructure is the way out.
        VerificationError: When the result computes something else; this would be an error of edgelung.
    """
    if record.model is None:
        return record.after("restructure", "a ready graph is left as it came")
    probe = probe_of(record.model, golden, record.spec.input)
    room = RK3588_INT8 if route.precision == "int8" else RK3588_FP16
    made = restructure(record.model, probe, room=room, otherwise="keep", output=record.spec.output.quantity)
    spec = replace(record.spec, output=replace(record.spec.output, quantity=made.output))
    return record.after("restructure", made.describe(), model=made.model, spec=spec)


def probe_of(model: nn.Module, slab: Array, spec: NetworkInput, wanted: int = PROBE_PX) -> torch.Tensor:
    """The middle of a slab, small enough to prove something on it in float64, as far as the network permits it."""
    still = copy.deepcopy(model).to("cpu").eval()
    return find_probe(still, torch.from_numpy(slab), spec.in_plane.align_px, wanted)


def export(
    record: ConversionRecord,
    golden: Array,
    path: Path,
    *,
    others: Sequence[Array] = (),
    note: Callable[[str], None] | None = None,
) -> tuple[ConversionRecord, OnnxFile]:
    """Write the network as ONNX and see that the file computes what the network does, on the golden slab.

    Where torch warns that a choice of the traced run became a part of the graph, inputs that differ in every respect
    are compared as well, and the user is told.

    Raises:
        ConversionError: When the network cannot be exported, or a choice that depends on the input was frozen.
        VerificationError: When the file computes something else.
    """
    if record.rounding is not None:
        file = export_qdq(record.rounding, record.spec, path, RK3588_RULES)
        return record.after("onnx", f"exported as QDQ with torch {torch.__version__}, opset {file.opset}"), file
    if record.model is not None:
        report = export_onnx(record.model, record.spec, path)
        summary = f"exported with torch {torch.__version__}"
        limit = FP32_LIMIT if record.spec.output.quantity == "probability" else math.inf
        if report.warnings:
            _require_no_choice(record, (golden, *others), path, report.warnings)
            if note is not None:
                note(f"torch froze what it saw once, and nothing that was tried differs: {'; '.join(report.warnings)}")
        try:
            verify_onnx(record.model, path, [golden], limit=limit)
        except VerificationError as error:
            error.hint = f"{error.hint}; {EXPORTED_HINT}"
            raise
    elif record.graph is not None:
        report = adopt_onnx(record.graph, record.spec, path, output=record.graph_output)
        summary = "taken over"
    else:
        raise ConversionError("export", "the record holds neither a network nor a graph")
    file = report.file
    summary = f"{summary}, opset {file.opset}, {report.removed_nodes} nodes simplified away"
    return record.after("onnx", summary, parameters=record.parameters or file.parameters), file


def _require_no_choice(record: ConversionRecord, slabs: Sequence[Array], path: Path, warnings: Sequence[str]) -> None:
    """Compare file and network on what differs from a slab: mirrored, upside down, air, bone, water, and noise."""
    low, high = (
        record.spec.input.intensity.scale * hu + record.spec.input.intensity.offset
        for hu in record.spec.input.intensity.clip_hu
    )
    slab = slabs[0]
    flat = [np.full_like(slab, value) for value in (low, high, (low + high) / 2, 0.0)]
    noise = np.random.default_rng(0).uniform(min(low, high), max(low, high), slab.shape).astype(slab.dtype)
    turned = [slab[..., ::-1], slab[..., ::-1, :], low + high - slab, noise]
    inputs = [*slabs, *(np.ascontiguousarray(tensor) for tensor in turned)]
    original = record.model or record.reference
    try:
        verify_onnx(original, path, inputs, limit=math.inf)
        verify_onnx(original, path, [slab, *flat], limit=math.inf, relative_limit=FLAT_LIMIT)
    except VerificationError as error:
        told = f"a choice that depends on the input became fixed in the graph: {'; '.join(warnings)}"
        hint = "write it with tensors: torch.where(condition, a, b)"
        raise ConversionError("export", told, hint=hint) from error


def answer_with_original(record: ConversionRecord, slabs: Slabs, original: Sequence[Array]) -> Answers:
    """What the original network said, and for the golden slab, as it is now, since its unit may be another.

    Args:
        record: With the network as it is now.
        slabs: What it is asked.
        original: Of the network as it was read, to the slabs that are verified on.
    """
    now = record.reference if record.model is None else torch_function(record.model)
    before, quantity = record.reference_quantity, record.spec.output.quantity
    verify = tuple(to_probability(output, before) for output in original)
    retrained = tuple(to_probability(now(slab), quantity) for slab in slabs.verify) if slabs.retrains else ()
    return Answers(verify, retrained, now(slabs.golden))


def run_on_host(graph: Path, inputs: Sequence[Array], slices_per_run: int) -> tuple[list[Array], LatencyRecord]:
    """Outputs of an ONNX file on this computer's CPU, and how long a slice took.

    The interval is that of the fastest and the slowest run after the first.
    """
    run = onnx_function(graph)
    outputs, seconds = [run(inputs[0])], []
    for tensor in inputs:
        start = time.perf_counter()
        output = run(tensor)
        seconds.append(time.perf_counter() - start)
        outputs.append(output)
    per_run_us = np.array(seconds) * 1e6
    low, middle, high = (float(value) for value in np.percentile(per_run_us, (0, 50, 100)))
    latency = LatencyRecord(
        middle / slices_per_run, middle, slices_per_run, (low / slices_per_run, high / slices_per_run), "host", "host"
    )
    return outputs[1:], latency


def check_artefact(
    record: ConversionRecord,
    precision: Precision,
    answers: Answers,
    outputs: Sequence[Array],
    golden: Array,
    slabs: Slabs,
) -> tuple[tuple[FidelityRow, ...], float]:
    """Fidelity rows of an artefact, and the tolerance for its golden output.

    Args:
        record: With the spec of the converted network.
        precision: Of the artefact.
        answers: Of the original.
        outputs: Of the artefact, on the slabs that are verified on.
        golden: Of the artefact, on the golden slab.
        slabs: What it was run on.
    """
    quantity = record.spec.output.quantity
    found = [to_probability(output, quantity) for output in outputs]
    threshold, data = record.spec.thresholds.mask_probability, slabs.verify_words
    if slabs.retrains:
        rows = measure_nodules(answers.verify, found, slabs.nodules, threshold, data)
        rows += measure_fidelity(answers.verify, found, threshold, NO_LIMITS, data)
        limits = TRAINED_LIMITS if record.rounding is not None else LIMITS[precision]
        rows += measure_fidelity(answers.retrained, found, threshold, limits, data, against=RETRAINED)
    else:
        rows = measure_fidelity(answers.verify, found, threshold, LIMITS[precision], data)
    off = float(np.abs(golden - answers.golden).max())
    if not np.isfinite(off):
        raise VerificationError("largest difference from the golden output", off, GOLDEN_FLOOR)
    return rows, GOLDEN_FLOOR + GOLDEN_MARGIN * off
