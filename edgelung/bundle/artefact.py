"""The records of one compiled network: its file, what the compiler said, and what verification measured."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

__all__ = ["MANIFEST_NAME", "Artefact", "FidelityRow", "FileRecord", "LatencyRecord", "LayerCounts"]

MANIFEST_NAME = "manifest.json"
MAX_FILE_BYTES = 2**32  # no board of this kind has the memory for a larger model
ANY_PLATFORM = "any"

_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
_FILE = re.compile(rf"{_SEGMENT}(/{_SEGMENT}){{0,3}}")
_PROCESSOR = re.compile(r"[A-Za-z0-9_:. -]{1,200}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileRecord:
    """One file of a bundle.

    Attributes:
        file: Path within the bundle, with forward slashes.
        sha256: Of its content, lower-case hexadecimal.
        size: In bytes.
    """

    file: str
    sha256: str
    size: int

    def __post_init__(self) -> None:
        if not _FILE.fullmatch(self.file) or self.file == MANIFEST_NAME:
            raise ValueError(f"{self.file!r} is not a plain path within the bundle")
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError("sha256 must be 64 lower-case hexadecimal digits")
        if not 0 <= self.size <= MAX_FILE_BYTES:
            raise ValueError(f"size must lie in 0..{MAX_FILE_BYTES}, got {self.size}")


@dataclass(frozen=True)
class FidelityRow:
    """One measured agreement of an artefact with the original network.

    Attributes:
        metric: What was compared.
        value: The value found.
        against: The reference.
        data: The inputs, by kind (never by patient).
        samples: How many inputs.
        limit: The value it had to keep; None for what is only reported.
        bound: On which side of the limit it had to stay.
    """

    metric: str
    value: float
    against: str
    data: str
    samples: int
    limit: float | None = None
    bound: Literal["at most", "at least"] = "at most"

    @property
    def kept(self) -> bool:
        """Whether the value keeps its limit."""
        if self.limit is None:
            return True
        return self.value <= self.limit if self.bound == "at most" else self.value >= self.limit


@dataclass(frozen=True)
class LayerCounts:
    """Layers of a compiled network, its input and output operators left out.

    Attributes:
        total: All.
        npu: Those on the NPU.
        cpu: Those on a CPU.
        float16: Those that compute in float16.
        convert: Those that only change the data type or layout.
    """

    total: int
    npu: int
    cpu: int
    float16: int
    convert: int


@dataclass(frozen=True)
class LatencyRecord:
    """What one output slice costs, in microseconds, and where the figure comes from.

    Attributes:
        us: Per output slice.
        us_per_run: Per run of the network.
        slices_per_run: Output slices of a run.
        interval_us: Where ``us`` is believed to lie: (low, high).
        source: ``measured`` on a board, ``estimated`` from the compiler's layers and a board's profile, or ``host``:
            run on the computer that converted.
        board: Profile of the board, or ``host``.
    """

    us: float
    us_per_run: float
    slices_per_run: int
    interval_us: tuple[float, float]
    source: Literal["measured", "estimated", "host"]
    board: str

    def __post_init__(self) -> None:
        low, high = self.interval_us
        if self.slices_per_run < 1 or not 0 <= low <= self.us <= high:
            raise ValueError(f"a latency of {self.us} us does not lie in its interval {low}..{high}")


@dataclass(frozen=True)
class Artefact(FileRecord):
    """A network compiled for one engine.

    Attributes:
        target: What it was compiled for: ``onnxruntime`` or a board.
        engine: Which backend opens it.
        platforms: SoC families it runs on; ``("any",)`` for a portable one.
        precision: Arithmetic of its layers.
        golden_tolerance: Largest absolute difference from the golden outputs, in the output's own unit.
        weight_memory_kib: Constants as the engine holds them.
        model_size_kib: Of the file.
        layers: How many the compiler made, by kind.
        latency: Of one output slice.
        fidelity: What verification measured.
        verified: Whether every fidelity row kept its limit; False only when the user asked to keep the bundle anyway.
        layer_table: JSON file with one record per compiled layer; what estimates are made from.
        processor: What verification ran on, with its instruction sets; for an .rknn, what the simulator ran on. None
            in bundles of before this was kept.
    """

    target: str
    engine: Literal["onnxruntime", "rknn"]
    platforms: tuple[str, ...]
    precision: Literal["fp32", "fp16", "int8"]
    golden_tolerance: float
    weight_memory_kib: float
    model_size_kib: float
    layers: LayerCounts
    latency: LatencyRecord
    fidelity: tuple[FidelityRow, ...] = ()
    verified: bool = True
    layer_table: FileRecord | None = None
    processor: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.verified != all(row.kept for row in self.fidelity):
            raise ValueError("verified must say whether every fidelity row keeps its limit")
        if not self.platforms:
            raise ValueError("an artefact names its platforms")
        if self.golden_tolerance <= 0:
            raise ValueError("golden_tolerance must be positive")
        if self.processor is not None and not _PROCESSOR.fullmatch(self.processor):
            raise ValueError("processor must be one short line of plain words")

    def runs_on(self, platform: str | None) -> bool:
        """Whether it is made for this SoC family (None: no NPU)."""
        return ANY_PLATFORM in self.platforms or platform in self.platforms
