"""The variants of one checkpoint that the published report has, on nodules of known shape in held-out slices.

    python benchmarks/published_report.py CHECKPOINT CT --holdout LOW:HIGH --output DIR [--variants original ptq]

Each variant becomes a bundle, is evaluated and enters DIR/report beside the published columns. Bundles and counts that
are there already are used again. The lower third of the held-out block fixes thresholds, the upper part evaluates;
nothing is fitted to either. int8 is what the toolkit's simulator says to every slab; float16 networks answer in
float32, by onnxruntime from the graph that was compiled (docs/verification.md has how little float16 changes).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from edgelung._codec import to_json
from edgelung.bundle import Bundle, open_bundle
from edgelung.calibration import Holdout
from edgelung.cli.progress import status_line
from edgelung.converters import Recipe, convert
from edgelung.converters.evaluation import (
    LEVELS,
    Counts,
    EvaluationSet,
    compare_metrics,
    count_answers,
    iter_slabs,
    make_evaluation_set,
    measure_metrics,
    measure_with_intervals,
    split_block,
    threshold_at_volume,
)
from edgelung.converters.fidelity import to_probability
from edgelung.converters.loading import load_network
from edgelung.converters.report import EvaluationRecord, Published, Report, ReportRow, rows_of_manifest, write_report
from edgelung.converters.slabs import gather_slabs
from edgelung.converters.targets.rknn import build_rknn
from edgelung.converters.toolkit import find
from edgelung.converters.verify import onnx_function
from edgelung.errors import InputError
from edgelung.runtime import read_series
from edgelung.runtime.preprocess import prepare_stack

TITLE = "Variants of one checkpoint beside the published report"
ORIGINAL = "original"
BOARD = "rk3588s"
SEED = 7_000_000  # of the nodules evaluated on; far from every seed of training and of phantoms
THRESHOLD_SEED = 8_000_000
FALSE_VOLUME = "false-positive volume mm3"
SLABS_PER_JOB = 48  # inputs of one run of the toolkit: 350 MB
LIMITS_OF_THIS = (
    "This is one patient with a sharp kernel: the intervals are about other nodules in this CT, not other people.",
    "Nodules are inserted, so precision and false-positive volume depend on how many were, and on this CT's own "
    "unlabelled structures, which all count as false.",
)


@dataclass(frozen=True)
class Variant:
    """A published variant: what a recipe for it has beyond source and data, and the published columns."""

    title: str
    options: Mapping[str, Any]
    published: Published | None = None


# The published sizes and measured times: docs/toolkit.md and docs/latency.md; those of pruned networks are not known.
BY_AUTHORS = "published report; latency measured by its authors on an RK3588S"
INT8 = Published(BY_AUTHORS, weight_memory_kib=125.44, model_size_kib=561.83, latency_ms=31.536)
PRUNED = {"prune": 0.5, "round_to": 8}  # by L1, as published
BY_VARIANCE = {**PRUNED, "importance": "variance"}
VARIANTS = {
    ORIGINAL: Variant(
        "original, as published",
        {"precision": "fp16", "restructure": False},
        Published(BY_AUTHORS, weight_memory_kib=236.81, model_size_kib=1005.18, latency_ms=49.079),
    ),
    "pruned": Variant("pruned", {**PRUNED, "precision": "fp16"}),
    "ptq-as-published": Variant("PTQ, graph as published", {"ptq": "normal", "restructure": False}, INT8),
    "ptq": Variant("PTQ", {"ptq": "normal"}, INT8),
    "pruned-ptq": Variant("pruned + PTQ", {**PRUNED, "ptq": "normal"}, Published(BY_AUTHORS, latency_ms=29.7)),
    "pruned-qat": Variant("pruned + QAT", {**PRUNED, "qat": True}),
    "pruned-qat-variance": Variant("pruned by variance + QAT", {**BY_VARIANCE, "qat": True}),
}


@dataclass(frozen=True)
class Blocks:
    """Nodules in the block that evaluates and in the one that fixes thresholds."""

    evaluation: EvaluationSet
    threshold: EvaluationSet


@dataclass(frozen=True)
class Evaluated:
    """A variant's row, still without evaluation, and its counts on both blocks."""

    row: ReportRow
    engine: str
    mask_probability: float
    evaluation: Counts
    threshold: Counts


def make_bundle(recipe: Recipe) -> Path:
    """The bundle of a recipe: the one that is there, if it is whole and of the same file and recipe."""
    stamp = recipe.output.with_suffix(".recipe.json")
    made_of = {"sha256": hashlib.sha256(recipe.source.read_bytes()).hexdigest(), **asdict(recipe)}
    words = json.dumps({name: str(value) for name, value in made_of.items()}, indent=1)
    if stamp.is_file() and stamp.read_text() == words and recipe.output.exists():
        open_bundle(recipe.output).close()
        return recipe.output
    stamp.unlink(missing_ok=True)
    with status_line() as status:
        convert(replace(recipe, overwrite=True), stage=status.tick, tick=status.tick)
    stamp.write_text(words)
    return recipe.output


def answer(bundle: Bundle, recipe: Recipe, evaluation: EvaluationSet, tick: Callable[[str], None]) -> Iterator[Any]:
    """Probabilities for every slab, from the simulator for int8 and from onnxruntime for floating point."""
    (record,) = bundle.manifest.networks.values()
    (graph,) = (artefact for artefact in record.artefacts if artefact.engine == "onnxruntime")
    inputs = (prepare_stack(slab[0], record.input) for slab in iter_slabs(evaluation))
    if recipe.route.precision == "int8":
        outputs = simulate(bundle, recipe, inputs, tick)
    else:
        outputs = map(onnx_function(bundle.path(graph)), inputs)
    for done, output in enumerate(outputs, 1):
        tick(f"{done}/{len(evaluation)}")
        yield to_probability(output, record.output.quantity)


def simulate(
    bundle: Bundle, recipe: Recipe, inputs: Iterator[np.ndarray], tick: Callable[[str], None]
) -> Iterator[np.ndarray]:
    """What the simulator says: it exists only in the process that builds, so the bundle's graph is compiled again."""
    (record,) = bundle.manifest.networks.values()
    (graph,) = (artefact for artefact in record.artefacts if artefact.engine == "onnxruntime")
    (compiled,) = (artefact for artefact in record.artefacts if artefact.engine == "rknn")
    if compiled.layer_table is None:
        raise InputError("has no table of layers to compare with", source=bundle.source, hint="remove the bundle")
    table = json.loads(bundle.path(compiled.layer_table).read_text())
    fit = gather_slabs(recipe, load_network(recipe).spec).fit
    while chunk := list(islice(inputs, SLABS_PER_JOB)):
        with tempfile.TemporaryDirectory(dir=recipe.output.parent) as folder:
            build = build_rknn(
                bundle.path(graph),
                find(),
                folder=Path(folder) / "job",
                algorithm=recipe.route.algorithm,
                fit=fit,
                simulate=chunk,
                progress=tick,
            )
            if to_json(build.layers) != table or build.weight_memory_kib != compiled.weight_memory_kib:
                raise InputError("compiled again it has other layers", source=recipe.output, hint="remove the bundle")
            yield from build.outputs


def count(bundle: Bundle, recipe: Recipe, evaluation: EvaluationSet, levels: np.ndarray, path: Path) -> Counts:
    """The counts of a bundle, from ``path`` if they were made before from the same bundle and set."""
    digest = hashlib.sha256(bundle.sha256.encode() + levels.tobytes())
    for case in evaluation.cases:
        digest.update(case.hu.tobytes() + case.ids.tobytes())
    if path.is_file():
        with np.load(path) as stored:
            if str(stored["key"]) == digest.hexdigest():
                values = {field.name: stored[field.name] for field in fields(Counts)}
                return Counts(**{name: value.item() if value.ndim == 0 else value for name, value in values.items()})
    with status_line() as status:
        made = count_answers(evaluation, answer(bundle, recipe, evaluation, status.tick), levels)
    work = path.with_suffix(".part.npz")
    np.savez(work, key=digest.hexdigest(), **{field.name: getattr(made, field.name) for field in fields(Counts)})
    work.replace(path)
    return made


def evaluate(variant: Variant, recipe: Recipe, blocks: Blocks) -> Evaluated:
    """Convert a variant and count its answers, as far as that was not done before."""
    print(f"{variant.title}: convert", flush=True)
    path = make_bundle(recipe)
    engine = "simulator" if recipe.route.precision == "int8" else "onnxruntime, float32"
    print(f"{variant.title}: {len(blocks.evaluation) + len(blocks.threshold)} slabs, {engine}", flush=True)
    with open_bundle(path) as bundle:
        rows = rows_of_manifest(variant.title, bundle.manifest, bundle.sha256)
        threshold = bundle.manifest.pipeline.thresholds["mask_probability"]
        levels = np.union1d(LEVELS, [threshold])
        stored = path.parent / "counts" / path.stem
        counts = (
            count(bundle, recipe, blocks.evaluation, levels, stored.with_suffix(".evaluation.npz")),
            count(bundle, recipe, blocks.threshold, levels, stored.with_suffix(".threshold.npz")),
        )
    (row,) = (row for row in rows if row.target == BOARD)
    return Evaluated(replace(row, published=variant.published), engine, threshold, *counts)


def finished_row(one: Evaluated, original: Evaluated, block: tuple[int, int]) -> ReportRow:
    """The row with what the report says of its answers: at its own threshold and at the original's volume."""
    counts, threshold = one.evaluation, one.mask_probability
    own = measure_with_intervals(counts, threshold)
    words = f"slices {block[0]}:{block[1]}"
    record = EvaluationRecord(one.engine, words, len(counts.nodule_pixels), len(counts.slice_false), own)
    if one is original:
        return replace(one.row, evaluation=record)
    reference = (original.evaluation, original.mask_probability)
    record = replace(record, own=compare_metrics(counts, threshold, *reference))
    volume = measure_metrics(original.threshold, original.mask_probability)[FALSE_VOLUME]
    try:
        level = threshold_at_volume(one.threshold, volume)
        record = replace(record, matched=compare_metrics(counts, level, *reference))
    except InputError as error:
        record = replace(record, unmatched=str(error))
    return replace(one.row, evaluation=record)


def describe(blocks: Blocks) -> tuple[str, str]:
    """What was evaluated on, and what fixed the thresholds."""
    nodules = blocks.evaluation.nodules
    kinds = Counter(nodule.kind for nodule in nodules)
    places = Counter(nodule.place for nodule in nodules)
    made_up = ", ".join(f"{count} {word}" for word, count in (*sorted(kinds.items()), *sorted(places.items())))
    diameters = sorted(nodule.diameter_mm for nodule in nodules)
    low, high = blocks.evaluation.block
    fixed_low, fixed_high = blocks.threshold.block
    return (
        f"{len(nodules)} nodules of {diameters[0]:.1f} to {diameters[-1]:.1f} mm inserted into "
        f"{len(blocks.evaluation.cases)} copies of slices {low}:{high} ({len(blocks.evaluation)} slabs): {made_up}.",
        f"Thresholds that keep to the original's false-positive volume are fixed on slices {fixed_low}:{fixed_high} "
        f"with {len(blocks.threshold.nodules)} other nodules ({len(blocks.threshold)} slabs).",
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("series", type=Path)
    parser.add_argument("--holdout", required=True, metavar="LOW:HIGH")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--nodules", type=int, default=60, help="at least so many to evaluate on")
    parser.add_argument("--threshold-nodules", type=int, default=24, help="at least so many in the other block")
    args = parser.parse_args()
    if args.variants[0] != ORIGINAL:
        parser.error(f"everything is compared with {ORIGINAL}: name it first")
    return args


def main() -> None:
    args = parse_arguments()
    holdout = Holdout.parse(args.holdout)
    (args.output / "counts").mkdir(parents=True, exist_ok=True)
    recipe = Recipe(
        args.checkpoint,
        args.output / "unused",
        targets=(BOARD,),
        data=args.series,
        holdout=(holdout.low, holdout.high),
        keep_failing=True,
    )
    lower, upper = split_block((holdout.low, holdout.high))
    volume, packing = read_series(args.series), load_network(recipe).spec.input.packing
    blocks = Blocks(
        make_evaluation_set(volume, upper, packing, seed=SEED, nodules=args.nodules),
        make_evaluation_set(volume, lower, packing, seed=THRESHOLD_SEED, nodules=args.threshold_nodules),
    )
    evaluated = []
    for name in args.variants:
        variant = VARIANTS[name]
        own = replace(recipe, output=args.output / f"{name}.bundle", **variant.options)
        evaluated.append(evaluate(variant, own, blocks))
        rows = tuple(finished_row(one, evaluated[0], upper) for one in evaluated)
        write_report(args.output / "report", Report(TITLE, rows, describe(blocks), LIMITS_OF_THIS))
    print((args.output / "report" / "report.md").read_text())


if __name__ == "__main__":
    main()
