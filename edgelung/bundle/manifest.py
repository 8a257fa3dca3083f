"""The records of a manifest, format version 1, and their JSON."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from edgelung._codec import from_json, parse_json, to_json
from edgelung.bundle.artefact import MANIFEST_NAME, Artefact, FileRecord
from edgelung.errors import BundleError
from edgelung.spec import NetworkInput, NetworkOutput

__all__ = [
    "FORMAT_VERSION",
    "CalibrationRecord",
    "Golden",
    "Manifest",
    "NetworkRecord",
    "PipelineRecord",
    "Provenance",
    "StageRecord",
    "parse_manifest",
]

FORMAT_VERSION = 1

MAX_RECIPE_CHARACTERS = 1 << 16  # as long as a recipe file may be

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_UNPRINTABLE = ("Cc", "Cs")  # control characters, and halves of surrogate pairs


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
    """One network: what it eats and gives, and its compiled forms.

    Attributes:
        task: What it is for.
        architecture: Registry name, factory, or ``onnx`` for a ready graph.
        parameters: Trainable numbers in it.
        input: What it eats.
        output: What it gives.
        artefacts: Its compiled forms.
        golden: Inputs with the outputs that are expected.
        weights: A safetensors file with what pruning and training made of the checkpoint, in its architecture's own
            keys; None when neither was done. No board reads it; it is for converting or training further.
    """

    task: str
    architecture: str
    parameters: int
    input: NetworkInput
    output: NetworkOutput
    artefacts: tuple[Artefact, ...]
    golden: tuple[Golden, ...]
    weights: FileRecord | None = None

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
class CalibrationRecord:
    """What slices were fitted to, in counts and keyed hashes: no path, name, date or identifier.

    Attributes:
        kind: How the data lay on disk; ``phantom`` when there were none.
        purpose: What the slices were for.
        series_given: CT series to choose from.
        series_used: Series that slices were taken of.
        series_unsuitable: Series without lungs, or without room for slices.
        slabs: Stacks of consecutive slices.
        slices: Slices of each.
        gap: Slices on both sides of the held-out ones that were kept out as well.
        salt: Hexadecimal key of the hashes.
        hashes: HMAC-SHA256 of each used series.
        seed: Of the choice; None where nothing was drawn.
        holdout: (low, high) axial slices that were kept out.
    """

    kind: str
    purpose: str
    series_given: int
    series_used: int
    series_unsuitable: int
    slabs: int
    slices: int
    gap: int
    salt: str
    hashes: tuple[str, ...]
    seed: int | None = None
    holdout: tuple[int, int] | None = None


@dataclass(frozen=True)
class Provenance:
    """Where the networks come from: hashes and counts, no paths and nothing of a patient.

    Attributes:
        checkpoint_sha256: Of the file that was converted.
        checkpoint_format: Its container.
        stages: What was done, in order.
        calibration: What quantisation was fitted to.
        recipe: TOML from which ``edgelung-convert --recipe`` makes the same network again; None in bundles that were
            not made from a recipe. A board never interprets it, so that options of newer versions do not matter there.
    """

    checkpoint_sha256: str
    checkpoint_format: str
    stages: tuple[StageRecord, ...] = ()
    calibration: CalibrationRecord | None = None
    recipe: str | None = None

    def __post_init__(self) -> None:
        if self.recipe is None:
            return
        if len(self.recipe) > MAX_RECIPE_CHARACTERS:
            raise ValueError(f"the recipe is longer than {MAX_RECIPE_CHARACTERS} characters")
        if any(unicodedata.category(character) in _UNPRINTABLE for character in self.recipe.replace("\n", "")):
            raise ValueError("the recipe holds control characters")  # it is shown on terminals


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
            for artefact in network.artefacts:
                yield artefact
                if artefact.layer_table is not None:
                    yield artefact.layer_table
            for golden in network.golden:
                yield from (golden.input, golden.output)
            if network.weights is not None:
                yield network.weights

    def to_bytes(self) -> bytes:
        """The manifest file: UTF-8 JSON, stable for equal content."""
        return (json.dumps(to_json(self), indent=2, allow_nan=False) + "\n").encode()


def parse_manifest(content: bytes, source: str) -> Manifest:
    """Read a manifest file.

    Raises:
        BundleError: Naming the bundle and the first field that does not fit.
    """
    try:
        data = parse_json(content)
    except ValueError as error:
        raise BundleError(f"{MANIFEST_NAME} is not valid JSON ({error})", source=source) from None
    if not isinstance(data, dict) or data.get("format") != "edgelung-bundle":
        raise BundleError(f"{MANIFEST_NAME} is not that of an edgelung bundle", source=source)
    _check_strings(data, source)
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


def _check_strings(tree: object, source: str, key: str = "") -> None:
    """Refuse texts that a terminal would act on; they are shown by ``inspect`` and in errors. A recipe has lines."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            _check_strings(name, source, key)
            _check_strings(value, source, name)
    elif isinstance(tree, list):
        for value in tree:
            _check_strings(value, source, key)
    elif isinstance(tree, str) and key != "recipe" and not tree.isprintable():
        hint = "make the bundle again with edgelung-convert"
        raise BundleError(f"{MANIFEST_NAME} holds a text with control characters", source=source, hint=hint)
