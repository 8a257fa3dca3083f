"""From a checkpoint to a verified bundle: the one library call behind ``edgelung-convert``."""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from torch import Tensor

from edgelung import __version__
from edgelung.bundle import (
    Artefact,
    BundleWriter,
    CalibrationRecord,
    FileRecord,
    Golden,
    Manifest,
    NetworkRecord,
    PipelineRecord,
    Provenance,
)
from edgelung.converters.artefacts import ArtefactMaker
from edgelung.converters.checkpoint import missing_keys
from edgelung.converters.loading import load_network
from edgelung.converters.original import ask_original
from edgelung.converters.passes import threshold_to_logit
from edgelung.converters.pruning import GroupSensitivity, LayerCut
from edgelung.converters.recipe import Recipe
from edgelung.converters.recipe_file import write_recipe
from edgelung.converters.record import ConversionRecord
from edgelung.converters.retrain import RetrainedRecord, identify_slabs, retrain
from edgelung.converters.slabs import Slabs, gather_slabs
from edgelung.converters.stages import Answers, answer_with_original, export, restructure_network
from edgelung.converters.tiling import measure_tiling, require_tiling
from edgelung.converters.toolkit import DEFAULT_VERSION, find
from edgelung.converters.workspace import open_workspace

__all__ = ["Conversion", "convert"]

PHANTOMS_ONLY = "ranges are fitted to phantoms; give real CTs with --data, they are what the network will see"


@dataclass(frozen=True)
class Conversion:
    """What a conversion made.

    Attributes:
        output: The bundle.
        manifest: Its manifest, with what verification measured.
        layers: Every convolution before and after pruning; empty when nothing was pruned.
        scan: What pruning each group of channels alone changes; empty when that was not asked for.
    """

    output: Path
    manifest: Manifest
    layers: tuple[LayerCut, ...] = ()
    scan: tuple[GroupSensitivity, ...] = ()

    @property
    def artefacts(self) -> tuple[Artefact, ...]:
        """All compiled networks."""
        return tuple(artefact for network in self.manifest.networks.values() for artefact in network.artefacts)


def convert(
    recipe: Recipe,
    *,
    stage: Callable[[str], None] | None = None,
    note: Callable[[str], None] | None = None,
    tick: Callable[[str], None] | None = None,
) -> Conversion:
    """Convert, verify against the original and write the bundle; nothing is written when a step fails.

    Args:
        recipe: What to do.
        stage: Called with the name of each step when it begins.
        note: Called with what a user should know.
        tick: Called with what goes on within a long step, many times a second.

    Raises:
        InputError: For a checkpoint, factory, spec or data that cannot be used.
        ConversionError: When a step fails, or the vendor's toolkit is missing.
        VerificationError: When an artefact does not agree with the original network.
        BundleError: When the bundle cannot be written.
    """
    announce, remark = stage or (lambda name: None), note or (lambda text: None)
    with BundleWriter(recipe.output, overwrite=recipe.overwrite) as writer:
        environment = find(recipe.toolkit or DEFAULT_VERSION) if recipe.npu_targets else None
        announce("read the network")
        record = load_network(recipe, remark)
        constants = _constants(record)
        announce("choose slices")
        slabs = gather_slabs(recipe, record.spec, progress=_counted(tick))
        if slabs.data_words:
            remark(f"data: {slabs.data_words}")
        if slabs.fitted is not None and slabs.fitted.provenance.is_phantom:
            remark(PHANTOMS_ONLY)
        original = ask_original(record, slabs, remark)
        record = _check_tiles(record, slabs, remark)
        trained: RetrainedRecord | None = None
        with ExitStack() as stack:
            if recipe.retrains:
                identity = identify_slabs(slabs)
                workspace = stack.enter_context(open_workspace(recipe, record.source_sha256, identity, remark))
                trained = retrain(
                    recipe, record, slabs, workspace, environment=environment, announce=announce, note=remark, tick=tick
                )
                record = trained.record
            elif recipe.restructures:
                announce("restructure")
                record = restructure_network(record, slabs.golden, recipe.route)
            work = Path(
                stack.enter_context(TemporaryDirectory(prefix=".edgelung-", dir=recipe.output.absolute().parent))
            )
            announce("export to ONNX")
            record, graph = export(record, slabs.golden, work / "float32.onnx", others=slabs.verify, note=remark)
            announce("run the original")
            answers = answer_with_original(record, slabs, original)
            maker = ArtefactMaker(writer, recipe, record, graph, slabs, answers, work)
            announce("make and verify: onnxruntime")
            artefacts = [maker.host()]
            if environment is not None:
                announce(f"make and verify: {', '.join(recipe.npu_targets)}")
                artefacts += maker.npu(environment, remark, tick)
            announce("write the bundle")
            golden = _add_golden(writer, record, slabs, answers, recipe.seed)
            weights = None if trained is None else _add_weights(writer, record, trained.weights, constants)
            manifest = _manifest(recipe, record, tuple(artefacts), golden, slabs, weights)
            writer.finish(manifest)
    if trained is None:
        return Conversion(recipe.output, manifest)
    return Conversion(recipe.output, manifest, trained.layers, trained.scan)


def _counted(tick: Callable[[str], None] | None) -> Callable[[int, int], None] | None:
    return None if tick is None else lambda done, total: tick(f"slabs {done}/{total}")


def _check_tiles(record: ConversionRecord, slabs: Slabs, remark: Callable[[str], None]) -> ConversionRecord:
    """Measure whether tiles get the answer of the whole slice, and refuse a spec that allows them where they do not."""
    threshold = record.spec.thresholds.mask_probability
    if record.reference_quantity == "logit":
        threshold = threshold_to_logit(threshold)
    network = record.spec.input
    found = measure_tiling(record.reference, network, slabs.golden, threshold)
    require_tiling(found, network.in_plane, network.tensor.plane)
    remark(f"tiles: {found.describe()}")
    return record.after("tiles", found.describe())


def _add_golden(writer: BundleWriter, record: ConversionRecord, slabs: Slabs, answers: Answers, seed: int) -> Golden:
    folder = f"golden/{record.name}"
    return Golden(
        writer.add_array(f"{folder}/input-0.npy", slabs.golden_hu),
        writer.add_array(f"{folder}/output-0.npy", answers.golden),
        origin=f"phantom slab, seed {seed}; output of the network in float32 before it was compiled",
    )


def _constants(record: ConversionRecord) -> dict[str, Tensor]:
    """What the network needs besides what it learns: its buffers of whole numbers."""
    state = {} if record.model is None else record.model.state_dict()
    return {key: state[key].clone() for key in missing_keys(state, ()) if not state[key].is_floating_point()}


def _add_weights(
    writer: BundleWriter, record: ConversionRecord, state: dict[str, Tensor] | None, constants: dict[str, Tensor]
) -> FileRecord | None:
    if state is None:
        return None
    state = {**constants, **state}
    name = f"networks/{record.name}/weights.safetensors"
    # A copy each: safetensors refuses tensors that share memory, as a layer with two names does.
    whole = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in state.items()}
    save_file(whole, writer.stage_file(name))
    return writer.add_staged(name)


def _manifest(
    recipe: Recipe,
    record: ConversionRecord,
    artefacts: tuple[Artefact, ...],
    golden: Golden,
    slabs: Slabs,
    weights: FileRecord | None,
) -> Manifest:
    spec = record.spec
    network = NetworkRecord(
        spec.task, record.architecture, record.parameters, spec.input, spec.output, artefacts, (golden,), weights
    )
    calibration = None if slabs.fitted is None else CalibrationRecord(**slabs.fitted.provenance.as_dict())
    packages = ("numpy", "torch", "onnx", "onnxsim", "onnxruntime")
    return Manifest(
        networks={record.name: network},
        pipeline=PipelineRecord("ct-nodule-segmentation", {"segmentation": record.name}, asdict(spec.thresholds)),
        provenance=Provenance(
            record.source_sha256, record.source_format, record.stages, calibration, write_recipe(recipe)
        ),
        versions={
            "edgelung": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
    )
