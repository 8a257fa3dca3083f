"""Per-frame latency of a bundle, measured where the engine runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from edgelung.boards import describe_processor, detect_board
from edgelung.errors import InputError
from edgelung.runtime.memory import resident_mib
from edgelung.runtime.pipeline import CTPipeline
from edgelung.runtime.timing import StageTime
from edgelung.volume import CtVolume

__all__ = ["PerfReport", "measure_latency"]

ENGINE_RUNS = 2  # onnxruntime plans its memory in the first run and takes it in the second
FRAME_STAGES = ("prepare", "infer", "stitch", "components", "frame")


@dataclass(frozen=True)
class PerfReport:
    """What a frame costs.

    Attributes:
        source: ``measured`` on a board, ``host`` on any other machine.
        board: The machine, as a board profile names it.
        processor: Architecture and instruction sets, which decide how fast integers are.
        backend: The engine.
        stages: Stage -> milliseconds per output slice; ``frame`` is a slice's whole way through the others.
        slices_per_run: Output slices of one call of the engine, among which its time is shared.
        golden_max_abs: Largest difference of the engine from the golden output, checked before measuring.
        frames_per_second: Frames over the time they took one after the other.
        peak_memory_mib: Largest resident set of this process, looked at after every frame.
        memory_above_baseline_mib: How far that is above the engine with its network loaded and run once.
    """

    source: Literal["measured", "host"]
    board: str
    processor: str
    backend: str
    stages: Mapping[str, StageTime]
    slices_per_run: int
    golden_max_abs: float
    frames_per_second: float
    peak_memory_mib: float
    memory_above_baseline_mib: float

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**vars(self), "stages": {name: asdict(time) for name, time in self.stages.items()}}


def measure_latency(
    bundle: str | os.PathLike[str],
    backend: str = "auto",
    *,
    frames: int = 30,
    warmup: int = 3,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> PerfReport:
    """Run golden slices through the whole pipeline and time every stage.

    Args:
        bundle: Folder or zip file.
        backend: An engine or ``auto``.
        frames: Measured output slices, at least 1.
        warmup: Output slices run before, not counted.
        threads: CPU threads of one run; 0 leaves it to the engine.
        progress: Called with (frames done, frames in all).

    Raises:
        VerificationError: When the engine does not reproduce the golden output on this machine.
    """
    if frames < 1 or warmup < 0:
        raise InputError(f"frames must be at least 1 and warmup at least 0, got {frames} and {warmup}")
    total = frames + warmup
    with CTPipeline.load(bundle, backend, threads=threads) as pipeline:
        volume = _to_and_fro(pipeline, total)
        golden_max_abs = max(pipeline.check_golden() for _ in range(ENGINE_RUNS))
        baseline = resident_mib()
        peak = baseline
        if warmup:
            pipeline(_first_slices(volume, warmup), progress=progress, allow_implausible=True)

        def report(done: int, _: int) -> None:
            nonlocal peak
            peak = max(peak, resident_mib())
            if progress is not None:
                progress(warmup + done, total)

        # Golden slices may be noise: what counts here is the time.
        result = pipeline(_first_slices(volume, frames), progress=report, allow_implausible=True)
        stages = {name: time for name, time in result.times.items() if name in FRAME_STAGES}
        board = detect_board()
        return PerfReport(
            source="host" if board.platform is None else "measured",
            board=board.name if board.platform else "this host's CPU",
            processor=describe_processor(),
            backend=pipeline.backend,
            stages=stages,
            slices_per_run=pipeline.slices_per_run,
            golden_max_abs=golden_max_abs,
            frames_per_second=1e3 * frames / result.times["frame"].total_ms,
            peak_memory_mib=peak,
            memory_above_baseline_mib=peak - baseline,
        )


def _to_and_fro(pipeline: CTPipeline, depth: int) -> CtVolume:
    """A volume of any depth from the golden slices, without jumps between neighbours."""
    (network,) = pipeline.bundle.manifest.pipeline.networks.values()
    stack, _ = pipeline.bundle.golden(network)[0]
    period = np.concatenate([np.arange(len(stack)), np.arange(len(stack) - 2, 0, -1)])
    rule = pipeline.bundle.manifest.networks[network].input.in_plane
    slice_mm = sum(rule.slice_spacing_mm) / 2
    pixel_mm = sum(rule.pixel_spacing_mm) / 2
    axial = np.eye(3)[:, ::-1]
    return CtVolume(stack[np.resize(period, depth)], (slice_mm, pixel_mm, pixel_mm), (0.0, 0.0, 0.0), axial)


def _first_slices(volume: CtVolume, count: int) -> CtVolume:
    return CtVolume(volume.hu[:count], volume.spacing_mm, volume.origin_mm, volume.direction)
