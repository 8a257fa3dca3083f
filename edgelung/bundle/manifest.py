"""The records of a manifest, format version 1, and their JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from edgelung._codec import from_json, to_json
from edgelung.errors import BundleError
from edgelung.spec import NetworkInput, NetworkOutput

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST_NAME",
    "Artefact",
    "FidelityRow",
    "FileRecord",
    "Golden",
    "Manifest",
    "NetworkRecord",
    "PipelineRecord",
    "Provenance",
    "StageRecord",
]

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
MAX_FILE_BYTES = 2**32  # no board of this kind has the memory for a larger model
ANY_PLATFORM = "any"

_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
_FILE = re.compile(rf"{_SEGMENT}(/{_SEGMENT}){{0,3}}")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
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
        limit: The value it had to keep.
        against: The reference.
        data: The inputs, by kind (never by patient).
        samples: How many inputs.
    """

    metric: str
    value: float
    limit: float
    against: str
    data: str
    samples: int


@dataclass(frozen=True)
class Artefact(FileRecord):
    """A network compiled for one engine.

    Attributes:
        target: What it was compiled for: ``onnxruntime`` or a board.
        engine: Which backend opens it.
        platforms: SoC families it runs on; ``("any",)`` for a portable one.
        precision: Arithmetic of its layers.
        golden_tolerance: Largest absolute difference from the golden outputs, in the output's own unit.
        fidelity: What verification measured.
    """

    target: str
    engine: Literal["onnxruntime", "rknn"]
    platforms: tuple[str, ...]
    precision: Literal["fp32", "fp16", "int8"]
    golden_tolerance: float
    fidelity: tuple[FidelityRow, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.platforms:
            raise ValueError("an artefact names its platforms")
        if self.golden_tolerance <= 0:
            raise ValueError("golden_tolerance must be positive")

    def runs_on(self, platform: str | None) -> bool:
        """Whether it is made for this SoC family (None: no NPU)."""
        return ANY_PLATFORM in self.platforms or platform in self.platforms


@dataclass(frozen=True)
class Golden:
    """An input with the output of the original network, made from the phantom.

    Attributes:
        input: A .npy of (slices, height, width) int16 Hounsfield units, as the packing rule stacks them.
        output: A .npy of float32 in the shape of the network's output.
        origin: How the input was made.
    """

    input: FileRecord
    output: FileRecord
    origin: str


@dataclass(frozen=True)
class NetworkRecord:
    """One network: what it eats and gives, and its compiled forms."""

    task: str
    architecture: str
    parameters: int
    input: NetworkInput
    output: NetworkOutput
    artefacts: tuple[Artefact, ...]
    golden: tuple[Golden, ...]

    def __post_init__(self) -> None:
        if not any(artefact.engine == "onnxruntime" for artefact in self.artefacts):
            raise ValueError("every network needs an onnxruntime artefact, so that the bundle runs anywhere")
        kinds = [(artefact.target, artefact.precision) for artefact in self.artefacts]
        if len(set(kinds)) != len(kinds):
            raise ValueError("two artefacts share target and precision")
        if not self.golden:
            raise ValueError("every network needs a golden input and output")


@dataclass(frozen=True)
class PipelineRecord:
    """How the networks make findings together.

    Attributes:
        kind: Which pipeline of the runtime.
        networks: Role in the pipeline -> name in ``Manifest.networks``.
        thresholds: Name -> value; each kind of pipeline documents its own.
    """

    kind: str
    networks: dict[str, str]
    thresholds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StageRecord:
    """One stage of the conversion, in words and without paths."""

    stage: str
    summary: str


@dataclass(frozen=True)
class Provenance:
    """Where the networks come from: hashes and counts, no paths and nothing of a patient.

    Attributes:
        checkpoint_sha256: Of the file that was converted.
        checkpoint_format: Its container.
        stages: What was done, in order.
    """

    checkpoint_sha256: str
    checkpoint_format: str
    stages: tuple[StageRecord, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """All that the board has to know."""

    networks: dict[str, NetworkRecord]
    pipeline: PipelineRecord
    provenance: Provenance
    versions: dict[str, str]
    format: Literal["edgelung-bundle"] = "edgelung-bundle"
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        for name in self.networks:
            if not _NAME.fullmatch(name):
                raise ValueError(f"network name {name!r}: use lower-case letters, digits, '.', '_' and '-'")
        for role, name in self.pipeline.networks.items():
            if name not in self.networks:
                raise ValueError(f"pipeline role {role!r} names the unknown network {name!r}")
        files = [record.file for record in self.files()]
        if len(set(files)) != len(files):
            raise ValueError("two records name the same file")

    def files(self) -> Iterator[FileRecord]:
        """Every file of the bundle but the manifest."""
        for network in self.networks.values():
            yield from network.artefacts
            for golden in network.golden:
                yield from (golden.input, golden.output)

    def to_bytes(self) -> bytes:
        """The manifest file: UTF-8 JSON, stable for equal content."""
        return (json.dumps(to_json(self), indent=2, allow_nan=False) + "\n").encode()


def parse_manifest(content: bytes, source: str) -> Manifest:
    """Read a manifest file.

    Raises:
        BundleError: Naming the bundle and the first field that does not fit.
    """
    try:
        data = json.loads(content, parse_constant=_refuse_constant, object_pairs_hook=_refuse_duplicates)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST_NAME} is not valid JSON ({error})", source=source) from None
    if not isinstance(data, dict) or data.get("format") != "edgelung-bundle":
        raise BundleError(f"{MANIFEST_NAME} is not that of an edgelung bundle", source=source)
    version = data.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise BundleError(
            f"format version {version} is newer than version {FORMAT_VERSION}, which this edgelung reads",
            source=source,
            hint="pip install --upgrade edgelung",
        )
    try:
        manifest = from_json(Manifest, data, where=MANIFEST_NAME)
    except ValueError as error:
        raise BundleError(str(error), source=source, hint="make the bundle again with edgelung-convert") from None
    if version != FORMAT_VERSION:
        raise BundleError(f"unknown format version {version!r}", source=source)
    return manifest


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("an object has the same key twice")
    return data
