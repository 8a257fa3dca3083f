"""int8 by every algorithm of post-training quantisation: in the toolkit's simulator and in onnxruntime.

    python benchmarks/ptq_fidelity.py CHECKPOINT SERIES --holdout LOW:HIGH [--algorithms normal kl_divergence]

For the network as it came and restructured: recall, precision and Dice of the mask against the float32 original on the
held-out slabs, and the Dice of simulator and onnxruntime against each other. Sizes are the compiler's, latencies
estimated. mmse takes some ten minutes a network.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgelung.cli.progress import status_line
from edgelung.converters import Recipe
from edgelung.converters.fidelity import LIMITS, measure_fidelity, to_probability
from edgelung.converters.loading import load_network
from edgelung.converters.original import ask_original
from edgelung.converters.route import ALGORITHMS
from edgelung.converters.sensitivity import choose_float_tensors
from edgelung.converters.slabs import gather_slabs
from edgelung.converters.stages import answer_with_original, export, restructure_network
from edgelung.converters.targets.onnx_int8 import quantise_onnx
from edgelung.converters.targets.rknn import build_rknn, count_layers, estimate_latency
from edgelung.converters.toolkit import find
from edgelung.converters.verify import onnx_function

COLUMNS = ("relative", "recall", "precision", "Dice")


def shares(expected: Sequence[np.ndarray], found: Sequence[np.ndarray], threshold: float) -> str:
    rows = {row.metric: row.value for row in measure_fidelity(expected, found, threshold, LIMITS["int8"], "held-out")}
    names = ("difference relative to spread", "mask recall", "mask precision", "mask Dice")
    return " ".join(f"{rows[name]:>9.3f}" for name in names)


def dice(one: Sequence[np.ndarray], other: Sequence[np.ndarray], threshold: float) -> float:
    masks = [np.concatenate([output.ravel() >= threshold for output in outputs]) for outputs in (one, other)]
    return float(2 * (masks[0] & masks[1]).sum() / (masks[0].sum() + masks[1].sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("series", type=Path)
    parser.add_argument("--holdout", required=True, metavar="LOW:HIGH")
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    parser.add_argument("--slabs", type=int, default=8, help="to verify on")
    args = parser.parse_args()
    low, high = map(int, args.holdout.split(":"))
    recipe = Recipe(
        args.checkpoint,
        Path("unused"),
        targets=("rk3588s",),
        data=args.series,
        holdout=(low, high),
        verification_slabs=args.slabs,
    )
    environment = find()
    loaded = load_network(recipe)
    slabs = gather_slabs(recipe, loaded.spec)
    original = ask_original(loaded, slabs, print)
    print(f"{args.slabs} slabs of slices {low}:{high}, ranges fitted to {len(slabs.fit)} slabs outside of them")
    print(f"{'network':13} {'int8 by':24} {'KiB':>7} {'est. ms':>8} {'fp16 layers':>11}", *(f"{c:>9}" for c in COLUMNS))
    for name in ("as it came", "restructured"):
        record = loaded if name == "as it came" else restructure_network(loaded, slabs.golden, recipe.route)
        quantity, threshold = record.spec.output.quantity, record.spec.thresholds.mask_probability
        with tempfile.TemporaryDirectory() as folder, status_line() as status:
            work = Path(folder)
            record, graph = export(record, slabs.golden, work / "float32.onnx")
            expected = answer_with_original(record, slabs, original).verify
            quantise_onnx(graph.path, record.spec.input.tensor.name, slabs.fit, work / "int8.onnx")
            run = onnx_function(work / "int8.onnx")
            host = [to_probability(run(slab), quantity) for slab in slabs.verify]
            print(f"{name:13} {'onnxruntime, extremes':24} {'':>28}", shares(expected, host, threshold), flush=True)
            for algorithm in args.algorithms:
                tensors = ()
                if algorithm == "hybrid":
                    tensors = choose_float_tensors(graph.path, record, slabs, work, status.tick)
                build = build_rknn(
                    graph.path,
                    environment,
                    folder=work / algorithm,
                    algorithm=algorithm,
                    fit=slabs.fit,
                    simulate=slabs.verify,
                    float_tensors=tensors,
                    progress=status.tick,
                )
                status.clear()
                found = [to_probability(output, quantity) for output in build.outputs]
                latency = estimate_latency(build.layers, "rk3588s", record.spec.input.packing.outputs)
                size, float16 = build.path.stat().st_size / 1024, count_layers(build.layers).float16
                print(
                    f"{name:13} {'simulator, ' + algorithm:24} {size:>7.1f} {latency.us / 1e3:>8.1f} {float16:>11}",
                    shares(expected, found, threshold),
                    f" Dice with onnxruntime {dice(found, host, threshold):.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
