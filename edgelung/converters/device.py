"""Measuring a bundle's networks on a board that is attached to this machine, layer by layer.

The toolkit runs them there. Tested over a stand-in for it; no board was at hand to prove it.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np

from edgelung._codec import to_json
from edgelung.boards import LayerEstimate, LayerRecord
from edgelung.bundle import Bundle, open_bundle
from edgelung.converters.toolkit import DeviceJob, DeviceResult, ToolkitEnvironment, find, run_device_job
from edgelung.errors import BundleError, ConversionError, VerificationError
from edgelung.runtime.estimates import ArtefactEstimate, estimate_bundle
from edgelung.runtime.preprocess import prepare_stack

__all__ = ["DeviceLayer", "DeviceReport", "measure_on_device"]

TIMEOUT_S = 600.0  # of one network: the toolkit starts in 5 s, and 30 calls of 50 ms with their transfer take seconds


@dataclass(frozen=True)
class DeviceLayer:
    """A measured layer, beside the estimate of the same one.

    Attributes:
        layer: As the board ran it.
        measured_us: Microseconds on the board.
        estimated: None where the compiler's table has no such layer in this place.
    """

    layer: LayerRecord
    measured_us: float
    estimated: LayerEstimate | None


@dataclass(frozen=True)
class DeviceReport:
    """One compiled network on a board.

    Attributes:
        estimated: The artefact, and what was estimated for it.
        device: Serial number of the board.
        runtime: Versions of the runtime on the board.
        toolkit: Version of rknn-toolkit2.
        layers: In the order of execution.
        operator_us: Microseconds of all operators in one run, timed on the board one by one.
        call_us: Median wall-clock microseconds of a call from this machine, its transfers included.
        calls: How many were timed.
        clocks: As in :class:`edgelung.converters.toolkit.DevicePerformance`.
        memory_bytes: Memory on the board, by kind.
        golden_max_abs: Largest difference of the board's answer from the golden output.
    """

    estimated: ArtefactEstimate
    device: str
    runtime: str
    toolkit: str
    layers: tuple[DeviceLayer, ...]
    operator_us: float
    call_us: float
    calls: int
    clocks: dict[str, tuple[str, ...]]
    memory_bytes: dict[str, int]
    golden_max_abs: float

    def to_json(self) -> dict[str, Any]:
        """Plain data; measured and estimated figures have keys of their own."""
        artefact, slices = self.estimated.artefact, self.estimated.slices_per_run
        rows = [
            {
                **to_json(row.layer),
                "measured_us": row.measured_us,
                "estimated_us": row.estimated.us if row.estimated else None,
            }
            for row in self.layers
        ]
        plain = ("device", "runtime", "toolkit", "operator_us", "call_us", "calls", "golden_max_abs")
        return {
            "network": self.estimated.network,
            "target": artefact.target,
            "precision": artefact.precision,
            "source": "measured",
            "slices_per_run": slices,
            "operator_us_per_output_slice": self.operator_us / slices,
            **{name: getattr(self, name) for name in plain},
            "clocks": to_json(self.clocks),
            "memory_bytes": self.memory_bytes,
            "layers": rows,
        }


def measure_on_device(
    path: Path,
    serial: str | None = None,
    *,
    toolkit: str | None = None,
    calls: int = 30,
    warmup: int = 3,
    progress: Callable[[str], None] | None = None,
) -> tuple[DeviceReport, ...]:
    """Measure every rknn artefact of a bundle on an attached board; equal files are measured once.

    Args:
        path: The bundle.
        serial: Which board, as ``adb devices`` lists it; None for the only one.
        toolkit: Version of rknn-toolkit2.
        calls: Timed calls, at least 1.
        warmup: Calls before those.
        progress: Called with the toolkit's stages.

    Raises:
        BundleError: When the bundle cannot be used or has no rknn artefact.
        ConversionError: When there is no toolkit or no board, or measuring fails; see
            :func:`edgelung.converters.toolkit.run_device_job`.
        VerificationError: When the board does not reproduce the golden output.
    """
    with open_bundle(path) as bundle:
        estimates = estimate_bundle(bundle)
        if not estimates:
            hint = "convert with --target rk3588 or rk3588s"
            raise BundleError("has no rknn artefact to measure on a board", source=bundle.source, hint=hint)
        environment = find(toolkit)
        reports: dict[str, DeviceReport] = {}
        measured = []
        for row in estimates:
            same = reports.get(row.artefact.sha256)
            if same is None:
                report = _measure(bundle, row, environment, serial, (calls, warmup), progress)
                reports[row.artefact.sha256] = report
            else:
                layers = _beside([entry.layer for entry in same.layers], [e.measured_us for e in same.layers], row)
                report = replace(same, estimated=row, layers=layers)
            measured.append(report)
    return tuple(measured)


def _measure(
    bundle: Bundle,
    row: ArtefactEstimate,
    environment: ToolkitEnvironment,
    serial: str | None,
    calls: tuple[int, int],
    progress: Callable[[str], None] | None,
) -> DeviceReport:
    stack, golden = bundle.golden(row.network)[0]
    with tempfile.TemporaryDirectory(prefix="edgelung-") as temporary:
        entered = Path(temporary, "input.npy")
        np.save(entered, prepare_stack(stack, bundle.manifest.networks[row.network].input))
        job = DeviceJob(bundle.path(row.artefact), (entered,), serial, *calls)
        folder = Path(temporary, "job")
        result = run_device_job(job, environment, folder=folder, timeout_s=TIMEOUT_S, progress=progress)
        worst = _check_golden(result, golden, row)
    performance = result.performance
    return DeviceReport(
        estimated=row,
        device=result.device,
        runtime=result.runtime,
        toolkit=result.versions["rknn-toolkit2"],
        layers=_beside(performance.layers, performance.layer_us, row),
        operator_us=performance.operator_us,
        call_us=statistics.median(result.call_seconds) * 1e6,
        calls=len(result.call_seconds),
        clocks=performance.clocks,
        memory_bytes=result.memory_bytes,
        golden_max_abs=worst,
    )


def _check_golden(result: DeviceResult, golden: np.ndarray[Any, np.dtype[np.float32]], row: ArtefactEstimate) -> float:
    shapes = [output.shape for output in result.outputs]
    if shapes != [golden.shape]:
        raise ConversionError("toolkit result", f"the board gave outputs of {shapes}, not one of {golden.shape}")
    worst = float(np.abs(result.outputs[0] - golden).max())
    if not worst <= row.artefact.golden_tolerance:
        raise VerificationError(
            f"board {result.device}: the largest difference from the golden output of {row.network}",
            worst,
            row.artefact.golden_tolerance,
            hint="update the board's NPU driver, librknnrt and rknn_server",
        )
    return worst


def _beside(layers: Sequence[LayerRecord], us: Sequence[float], row: ArtefactEstimate) -> tuple[DeviceLayer, ...]:
    """Each measured layer with the estimate of the same operator on the same shapes, in the same order."""
    estimated = row.estimate.layers if row.estimate else ()
    keys = [[_key(layer) for layer in side] for side in (layers, [entry.layer for entry in estimated])]
    partner: dict[int, LayerEstimate] = {}
    for block in SequenceMatcher(None, keys[0], keys[1], autojunk=False).get_matching_blocks():
        partner.update({block.a + step: estimated[block.b + step] for step in range(block.size)})
    return tuple(
        DeviceLayer(layer, time, partner.get(place)) for place, (layer, time) in enumerate(zip(layers, us, strict=True))
    )


def _key(layer: LayerRecord) -> tuple[Any, ...]:
    return layer.operator, layer.input_shapes, layer.output_shape
