"""Everything that comes after a training, tried before it: what cannot be exported or compiled costs no hour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from torch import fx

from edgelung.converters.fidelity import TRAINED_LIMITS
from edgelung.converters.quantisation import to_exportable
from edgelung.converters.quantisation.qdq_export import with_all_ranges
from edgelung.converters.recipe import HOST, Recipe
from edgelung.converters.record import ConversionRecord
from edgelung.converters.retraining import prepare_rounding
from edgelung.converters.route import Algorithm
from edgelung.converters.slabs import Slabs
from edgelung.converters.stages import export
from edgelung.converters.targets.onnx_int8 import quantise_onnx
from edgelung.converters.targets.rknn import build_rknn
from edgelung.converters.targets.unsigned import write_unsigned
from edgelung.converters.toolkit import ToolkitEnvironment
from edgelung.converters.verify import compare_outputs, onnx_function, torch_function
from edgelung.errors import ConversionError, VerificationError

__all__ = ["rehearse"]

STAGE = "quantise"
LIMIT = TRAINED_LIMITS.relative or 0.0  # of the spread: what the artefact has to keep in the end
FITTED = 2  # slabs: ranges of a rehearsal are thrown away


def rehearse(
    recipe: Recipe,
    record: ConversionRecord,
    slabs: Slabs,
    environment: ToolkitEnvironment | None,
    tick: Callable[[str], None] | None = None,
) -> None:
    """Export, run and compile a network as it is before it is trained; nothing of it is kept.

    Args:
        recipe: What is asked for.
        record: The network as it will be trained, restructured if it is to be.
        slabs: What ranges are fitted to, and the golden slab that it is run on.
        environment: The vendor's toolkit, when there is a target for it.
        tick: Called with the toolkit's stages as they go on.

    Raises:
        ConversionError: When the network has no int8 form, or cannot be exported or compiled.
        VerificationError: When an engine computes something else than torch.
    """
    with TemporaryDirectory(prefix=".edgelung-", dir=recipe.output.absolute().parent) as folder:
        graph = Path(folder) / "rehearsal.onnx"
        network = _rounding(record, slabs) if recipe.qat else None
        if network is None:
            export(record, slabs.golden, graph)
        else:
            _export_rounding(record, network, slabs, graph)
        if recipe.route.algorithm is not None and HOST in recipe.targets:
            name = record.spec.input.tensor.name
            quantise_onnx(graph, name, slabs.fit[:FITTED], graph.with_name("ptq.onnx"))
        if environment is not None:
            # Every algorithm compiles the same operators; mmse would take a quarter of an hour to find ranges.
            algorithm: Algorithm | None = None if recipe.route.algorithm is None else "normal"
            build_rknn(
                graph,
                environment,
                folder=Path(folder) / "npu",
                algorithm=algorithm,
                fit=slabs.fit[:FITTED] if algorithm else (),
                progress=tick,
            )


def _rounding(record: ConversionRecord, slabs: Slabs) -> fx.GraphModule:
    if not isinstance(record.model, fx.GraphModule):
        raise ConversionError("qat", "the network still has its BatchNorms", hint="leave out --no-restructure")
    return prepare_rounding(record.model, slabs.fit[:FITTED])


def _export_rounding(record: ConversionRecord, network: fx.GraphModule, slabs: Slabs, graph: Path) -> None:
    """Write the rounding network and compare what onnxruntime makes of it with torch, on the golden slab."""
    try:
        export(replace(record, model=to_exportable(network), rounding=network), slabs.golden, graph)
    except ConversionError as error:
        if error.stage != STAGE:
            raise
        reason = f"the network has no int8 form for the NPU: {error.reason}"
        raise ConversionError(STAGE, reason, hint="convert it with --ptq") from error
    rounded = torch_function(with_all_ranges(to_exportable(network)))
    host = write_unsigned(onnx.load(graph), graph.with_name("host.onnx"))
    off = compare_outputs([rounded(slabs.golden)], [onnx_function(host.path)(slabs.golden)]).relative_rms
    if off > LIMIT:
        metric = "difference of the int8 network in onnxruntime from torch, relative to its spread, before any training"
        raise VerificationError(metric, off, LIMIT, hint="convert it with --ptq")
