"""Which layers suffer most from int8, measured: each is quantised alone, and the damage to the output is compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx

from edgelung.converters.fidelity import to_probability
from edgelung.converters.record import ConversionRecord
from edgelung.converters.slabs import Slabs
from edgelung.converters.targets.onnx_int8 import quantise_onnx
from edgelung.converters.verify import compare_outputs, onnx_function
from edgelung.errors import ConversionError

__all__ = ["LayerSensitivity", "choose_float_tensors", "measure_sensitivity"]

FLOAT_SHARE = 0.25  # of the convolutions stay in float16: the most sensitive ones
FIT_SLABS = 3
PROBED_SLABS = 2
_CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class LayerSensitivity:
    """What int8 in one layer alone does to the output.

    Attributes:
        node: Name of the operator in the ONNX graph.
        tensors: Its output, and that of the Relu the compiler fuses into it.
        relative_rms: Root mean square difference of the probabilities over the spread of the float ones.
    """

    node: str
    tensors: tuple[str, ...]
    relative_rms: float


def measure_sensitivity(
    graph: Path, record: ConversionRecord, slabs: Slabs, work: Path, tick: Callable[[str], None] | None = None
) -> tuple[LayerSensitivity, ...]:
    """Quantise every convolution alone, with onnxruntime, and compare; the most sensitive first.

    Args:
        graph: Float32 ONNX file.
        record: Its spec.
        slabs: To fit ranges on (the first three) and to compare on (the first two that are fitted to nothing).
        work: Folder for files in between.
        tick: Called with a line as it goes on.

    Raises:
        ConversionError: When the graph has no convolution, or onnxruntime cannot quantise one.
    """
    nodes = onnx.load(graph).graph.node
    fused = {node.input[0]: node.output[0] for node in nodes if node.op_type == "Relu"}
    convolutions = [node for node in nodes if node.op_type in _CONVOLUTIONS]
    if not convolutions:
        raise ConversionError("sensitivity", "the graph has no convolution", hint="choose another --ptq")
    quantity, name = record.spec.output.quantity, record.spec.input.tensor.name
    probes = slabs.verify[:PROBED_SLABS]
    expected = [to_probability(onnx_function(graph)(probe), quantity) for probe in probes]
    found = []
    for index, node in enumerate(convolutions, start=1):
        if tick is not None:
            tick(f"sensitivity {index}/{len(convolutions)}: {node.name}")
        alone = work / "alone.onnx"
        quantise_onnx(graph, name, slabs.fit[:FIT_SLABS], alone, only=[node.name])
        run = onnx_function(alone)
        agreement = compare_outputs(expected, [to_probability(run(probe), quantity) for probe in probes])
        output = node.output[0]
        tensors = (output, fused[output]) if output in fused else (output,)
        found.append(LayerSensitivity(node.name, tensors, agreement.relative_rms))
        alone.unlink()
    return tuple(sorted(found, key=lambda layer: -layer.relative_rms))


def choose_float_tensors(
    graph: Path, record: ConversionRecord, slabs: Slabs, work: Path, tick: Callable[[str], None] | None = None
) -> tuple[str, ...]:
    """Outputs of the most sensitive quarter of the convolutions, as the toolkit's hybrid quantisation wants them."""
    layers = measure_sensitivity(graph, record, slabs, work, tick)
    count = max(1, round(FLOAT_SHARE * len(layers)))
    return tuple(tensor for layer in layers[:count] for tensor in layer.tensors)
