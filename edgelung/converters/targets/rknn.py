"""Targets with a Rockchip NPU: compiled and simulated by the vendor's toolkit in its own environment."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgelung.boards import LayerRecord, estimate, get_board
from edgelung.bundle import LatencyRecord, LayerCounts
from edgelung.converters.route import Algorithm
from edgelung.converters.toolkit import Quantisation, ToolkitEnvironment, ToolkitJob, run_job
from edgelung.errors import ConversionError

__all__ = ["RknnBuild", "build_rknn", "count_layers", "estimate_latency"]

STAGE = "toolkit"
TIMEOUT_S = 3 * 3600.0  # mmse on twelve slabs of 512x512 takes a quarter of an hour on one core
_BORDERS = ("InputOperator", "OutputOperator")
_CONVERSIONS = ("exDataConvert", "Cast")

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class RknnBuild:
    """A compiled network and what the toolkit said of it.

    Attributes:
        path: The .rknn file.
        layers: All rows of the compiler's table, input and output operators included.
        weight_memory_kib: "Total Weight Memory Size".
        outputs: What the simulator answered to each input, in the unit of the network's output.
        seconds_per_slab: Median time of the simulator.
        versions: Of the toolkit and its libraries.
    """

    path: Path
    layers: tuple[LayerRecord, ...]
    weight_memory_kib: float
    outputs: tuple[Array, ...]
    seconds_per_slab: float
    versions: dict[str, str]


def build_rknn(
    graph: Path,
    environment: ToolkitEnvironment,
    *,
    folder: Path,
    algorithm: Algorithm | None,
    fit: Sequence[Array] = (),
    simulate: Sequence[Array] = (),
    float_tensors: tuple[str, ...] = (),
    progress: Callable[[str], None] | None = None,
) -> RknnBuild:
    """Compile an ONNX file and run it in the simulator.

    Args:
        graph: ONNX file with one input and one output.
        environment: The toolkit.
        folder: New or empty folder to work in; what was built lies there.
        algorithm: How int8 ranges are found; None compiles for float16. ``hybrid`` finds them as ``normal`` does and
            keeps the layers of ``float_tensors`` in float16.
        fit: Inputs to find ranges on.
        simulate: Inputs for the simulator.
        float_tensors: Outputs of the operators that stay in float16.
        progress: Called with the toolkit's stages as they go on.

    Raises:
        ConversionError: When the toolkit fails; see :func:`edgelung.converters.toolkit.run_job`.
    """
    inputs = folder / "inputs"
    inputs.mkdir(parents=True)
    quantise = None
    if algorithm is not None:
        samples = _store(fit, inputs, "fit")
        quantise = Quantisation(samples, "normal" if algorithm == "hybrid" else algorithm, float_tensors)
    job = ToolkitJob(graph, quantise, _store(simulate, inputs, "simulate"))
    result = run_job(job, environment, folder=folder / "job", timeout_s=TIMEOUT_S, progress=progress)
    shutil.rmtree(inputs)
    return RknnBuild(
        path=result.rknn,
        layers=result.layers,
        weight_memory_kib=result.weight_memory_kib,
        outputs=tuple(np.array(sample[0]) for sample in result.outputs),
        seconds_per_slab=float(np.median(result.sample_seconds)) if result.sample_seconds else 0.0,
        versions=result.versions,
    )


def count_layers(layers: Sequence[LayerRecord]) -> LayerCounts:
    """Layers by kind, without the input and output operators."""
    inner = [layer for layer in layers if layer.operator not in _BORDERS]
    return LayerCounts(
        total=len(inner),
        npu=sum(layer.target == "NPU" for layer in inner),
        cpu=sum(layer.target == "CPU" for layer in inner),
        float16=sum(layer.dtype == "FLOAT16" for layer in inner),
        convert=sum(layer.operator in _CONVERSIONS for layer in inner),
    )


def estimate_latency(layers: Sequence[LayerRecord], board: str, slices_per_run: int) -> LatencyRecord:
    """What a slice will take on a board, from the compiler's layers (docs/latency.md)."""
    latency = estimate(layers, get_board(board)).per_output_slice(slices_per_run)
    return LatencyRecord(
        latency.us, latency.us_per_run, latency.slices_per_run, latency.interval_us, latency.source, board
    )


def _store(arrays: Sequence[Array], folder: Path, name: str) -> tuple[tuple[Path, ...], ...]:
    paths = []
    for index, array in enumerate(arrays):
        path = folder / f"{name}-{index:04}.npy"
        try:
            np.save(path, array)
        except OSError as error:  # numpy says how many bytes it could not write, and not why
            reason = f"cannot write to {folder} ({error.strerror or 'no space left, most likely'})"
            raise ConversionError(STAGE, reason, hint="free some, or choose an --output on another disk") from None
        paths.append((path,))
    return tuple(paths)
