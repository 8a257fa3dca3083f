"""From a checkpoint to a verified bundle: the one library call behind ``edgelung-convert``."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgelung import __version__
from edgelung.bundle import (
    Artefact,
    BundleWriter,
    FidelityRow,
    FileRecord,
    Golden,
    Manifest,
    NetworkRecord,
    PipelineRecord,
    Provenance,
)
from edgelung.calibration import make_phantom
from edgelung.converters.architecture import load_factory
from edgelung.converters.checkpoint import apply_state, load_state_dict
from edgelung.converters.models import get_model_entry
from edgelung.converters.record import ConversionRecord
from edgelung.converters.spec_file import read_spec
from edgelung.converters.targets.onnxruntime import adopt_onnx, export_onnx
from edgelung.converters.tasks import nodule_segmentation_spec
from edgelung.converters.verify import FP32_LIMIT, FP32_RELATIVE_LIMIT, Agreement, onnx_function, verify_onnx
from edgelung.errors import ConversionError, InputError
from edgelung.runtime.preprocess import prepare_stack

__all__ = ["Conversion", "Recipe", "convert"]

VERIFIED_SLABS = 3  # phantom slabs, each with nodules, on which every artefact is compared with the original
SLAB_NODULES = 6  # some in every slab, so that the network has something to answer to
FIELD_OF_VIEW_MM = 360.0

Slab = npt.NDArray[np.int16]


@dataclass(frozen=True)
class Recipe:
    """What to convert and how.

    Attributes:
        source: A checkpoint, or a ready ``.onnx`` model.
        output: The bundle to write: a folder, or a file ending in ``.zip``.
        model: Registry name of the network.
        arch: ``package.module:factory`` of a network of one's own, instead of ``model``.
        spec: TOML file that describes it; needed for ``arch`` and for a ready model.
        precision: Arithmetic of the artefact.
        plane: (height, width) of a registry network's compiled input; a spec file has its own.
        seed: Of the phantom slabs for verification and golden outputs.
        overwrite: Replace a bundle that is there.
    """

    source: Path
    output: Path
    model: str = "unet-luna"
    arch: str | None = None
    spec: Path | None = None
    precision: Literal["fp32"] = "fp32"
    plane: tuple[int, int] = (512, 512)
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        ready = self.source.suffix == ".onnx"
        if ready and self.arch:
            raise InputError("a ready .onnx model has its own architecture", field="arch", hint="leave out --arch")
        if (ready or self.arch) and self.spec is None:
            what = "a ready .onnx model" if ready else "--arch"
            raise InputError(f"{what} needs a description of its input and output", hint="add --spec FILE.toml")
        if self.spec and not (ready or self.arch):
            raise InputError(f"{self.model} has a spec of its own", field="spec", hint="leave out --spec or add --arch")


@dataclass(frozen=True)
class Conversion:
    """What a conversion made.

    Attributes:
        output: The bundle.
        manifest: Its manifest.
        agreement: The artefact against the original network.
    """

    output: Path
    manifest: Manifest
    agreement: Agreement


def convert(recipe: Recipe, *, stage: Callable[[str], None] | None = None) -> Conversion:
    """Convert, verify against the original and write the bundle; nothing is written when a step fails.

    Args:
        recipe: What to do.
        stage: Called with the name of each step when it begins.

    Raises:
        InputError: For a checkpoint, factory or spec that cannot be used.
        ConversionError: When a step fails.
        VerificationError: When the artefact does not agree with the original network.
        BundleError: When the bundle cannot be written.
    """
    announce = stage or (lambda name: None)
    with BundleWriter(recipe.output, overwrite=recipe.overwrite) as writer:
        announce("read the network")
        record = _load(recipe)
        announce("export to ONNX")
        name = f"networks/{record.name}/onnxruntime-{recipe.precision}.onnx"
        record = _export(record, writer.stage_file(name))
        announce("verify against the original")
        slabs = _slabs(record, recipe.seed)
        inputs = [prepare_stack(slab, record.spec.input) for slab in slabs]
        agreement = verify_onnx(record.reference, writer.stage_file(name), inputs)
        announce("write the bundle")
        artefact = _artefact(writer.add_staged(name), recipe, agreement)
        golden = _add_golden(writer, record, slabs[0], recipe.seed)
        manifest = _manifest(record, artefact, golden)
        writer.finish(manifest)
    return Conversion(recipe.output, manifest, agreement)


def _load(recipe: Recipe) -> ConversionRecord:
    if recipe.source.suffix == ".onnx":
        return _load_onnx(recipe)
    loaded = load_state_dict(recipe.source)
    if recipe.arch:
        model = load_factory(recipe.arch)()
        spec = read_spec(_required(recipe.spec))
        name, architecture = "network", recipe.arch
    else:
        entry = get_model_entry(recipe.model)
        model = entry.build_from_state(loaded.state)
        spec = nodule_segmentation_spec(*recipe.plane, geometry=entry.geometry(model))
        name = architecture = entry.name
    apply_state(model, loaded.state, loaded.source)
    model.eval()
    parameters = sum(tensor.numel() for tensor in model.parameters())
    record = ConversionRecord(
        name, architecture, spec, _torch_function(model), loaded.sha256, loaded.format, parameters, model=model
    )
    return record.after("read", f"{architecture}, {parameters} parameters, from a {loaded.format} checkpoint")


def _load_onnx(recipe: Recipe) -> ConversionRecord:
    spec = read_spec(_required(recipe.spec))
    try:
        content = recipe.source.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", source=recipe.source, hint="check the path") from None
    return ConversionRecord(
        "network",
        "onnx",
        spec,
        reference=lambda tensor: onnx_function(recipe.source)(tensor),  # opened after the file was checked
        source_sha256=hashlib.sha256(content).hexdigest(),
        source_format="onnx",
        parameters=0,
        graph=recipe.source,
    ).after("read", "a ready ONNX model")


def _export(record: ConversionRecord, path: Path) -> ConversionRecord:
    if record.model is not None:
        report = export_onnx(record.model, record.spec, path)
        summary = f"exported with torch {torch.__version__}"
    elif record.graph is not None:
        report = adopt_onnx(record.graph, record.spec, path)
        summary = "taken over"
    else:
        raise ConversionError("export", "the record holds neither a network nor a graph")
    file = report.file
    parameters = record.parameters or file.parameters
    summary = f"{summary}, opset {file.opset}, {report.removed_nodes} nodes simplified away"
    return record.after("onnx", summary, parameters=parameters)


def _slabs(record: ConversionRecord, seed: int) -> list[Slab]:
    """Phantom slabs with nodules in the network's own plane."""
    packing, (height, width) = record.spec.input.packing, record.spec.input.tensor.plane
    pixel_mm = FIELD_OF_VIEW_MM / max(height, width)
    shape, spacing_mm = (packing.slices, height, width), (1.25, pixel_mm, pixel_mm)
    return [
        make_phantom(seed + index, shape=shape, spacing_mm=spacing_mm, nodules=SLAB_NODULES).volume.hu
        for index in range(VERIFIED_SLABS)
    ]


def _artefact(file: FileRecord, recipe: Recipe, agreement: Agreement) -> Artefact:
    metrics = (
        ("largest difference", agreement.max_abs, FP32_LIMIT),
        ("difference relative to spread", agreement.relative_rms, FP32_RELATIVE_LIMIT),
    )
    rows = tuple(
        FidelityRow(metric, value, limit, "original network in float32", "phantom slabs", agreement.samples)
        for metric, value, limit in metrics
    )
    return Artefact(
        **asdict(file),
        target="onnxruntime",
        engine="onnxruntime",
        platforms=("any",),
        precision=recipe.precision,
        golden_tolerance=FP32_LIMIT,
        fidelity=rows,
    )


def _add_golden(writer: BundleWriter, record: ConversionRecord, slab: Slab, seed: int) -> Golden:
    output = record.reference(prepare_stack(slab, record.spec.input))
    folder = f"golden/{record.name}"
    return Golden(
        writer.add_array(f"{folder}/input-0.npy", slab),
        writer.add_array(f"{folder}/output-0.npy", output),
        origin=f"phantom slab, seed {seed}; output of the original network in float32",
    )


def _manifest(record: ConversionRecord, artefact: Artefact, golden: Golden) -> Manifest:
    spec = record.spec
    network = NetworkRecord(
        spec.task, record.architecture, record.parameters, spec.input, spec.output, (artefact,), (golden,)
    )
    packages = ("numpy", "torch", "onnx", "onnxsim", "onnxruntime")
    return Manifest(
        networks={record.name: network},
        pipeline=PipelineRecord("ct-nodule-segmentation", {"segmentation": record.name}, asdict(spec.thresholds)),
        provenance=Provenance(record.source_sha256, record.source_format, record.stages),
        versions={
            "edgelung": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
    )


def _torch_function(model: nn.Module) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    def run(tensor: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        try:
            with torch.inference_mode():
                output: npt.NDArray[np.float32] = model(torch.from_numpy(tensor)).numpy()
        except Exception as error:  # whatever the user's forward raises
            raise ConversionError("verify", f"the original network fails: {type(error).__name__}: {error}") from error
        return output

    return run


def _required(spec: Path | None) -> Path:
    if spec is None:
        raise InputError("a spec file is needed", field="spec", hint="add --spec FILE.toml")
    return spec
