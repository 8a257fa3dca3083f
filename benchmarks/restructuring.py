"""A restructured checkpoint beside the original on a real CT: largest differences, and time on this host.

    python benchmarks/restructuring.py CHECKPOINT SERIES

Every row compares with the original in float64, over whole planes with their borders.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgelung.converters.checkpoint import apply_state, load_state_dict
from edgelung.converters.models import get_model_entry
from edgelung.converters.passes import RK3588_FP16, RK3588_INT8, Restructured, restructure
from edgelung.converters.targets.onnxruntime import export_onnx
from edgelung.converters.tasks.nodule_segmentation import nodule_segmentation_spec
from edgelung.converters.verify import onnx_function
from edgelung.runtime import read_series

CLIP_HU = (-1000, 1000)
SLICES = 7
WAYS = {
    "exact": {},
    "exact, int8 room, keep": {"room": RK3588_INT8, "otherwise": "keep"},
    "exact, fp16 room, keep": {"room": RK3588_FP16, "otherwise": "keep"},
    "interior": {"border": "interior", "training_follows": True},
    "interior, int8 room": {"border": "interior", "training_follows": True, "room": RK3588_INT8},
}


def real_slabs(series: Path, count: int) -> torch.Tensor:
    """(count, 7, height, width) float32 clipped HU, spread over the depth."""
    hu = read_series(series).to_axial().hu
    starts = np.linspace(0, len(hu) - SLICES, count + 2)[1:-1].astype(int)
    stacks = np.stack([hu[start : start + SLICES] for start in starts])
    return torch.from_numpy(np.clip(stacks, *CLIP_HU).astype(np.float32))


@torch.inference_mode()
def probabilities(model: nn.Module, slabs: torch.Tensor, dtype: torch.dtype, logits: bool) -> torch.Tensor:
    """(count, 1, height, width) float64."""
    model = model.to(dtype).eval()
    outputs = torch.cat([model(slab[None].to(dtype)).double() for slab in slabs])
    return torch.sigmoid(outputs) if logits else outputs


def show(name: str, found: torch.Tensor, reference: torch.Tensor) -> None:
    error = (found - reference).abs()
    ring = torch.ones_like(error, dtype=torch.bool)
    ring[..., 32:-32, 32:-32] = False
    differing = int(((found >= 0.5) != (reference >= 0.5)).sum())
    print(f"{name:38} {float(error.max()):9.2e} {float(error[~ring].max()):13.2e} {differing:12d}")


def milliseconds(functions: dict[str, object], tensor: np.ndarray, rounds: int) -> dict[str, float]:
    """Median time of each, in turn, round by round."""
    seen: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function(tensor)  # type: ignore[operator]
            seen[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(times[1:]) for name, times in seen.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("series", type=Path)
    parser.add_argument("--slabs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7, help="timed runs of each network; 0 = no times")
    args = parser.parse_args()
    loaded = load_state_dict(args.checkpoint)
    model = get_model_entry("unet-luna").build_from_state(loaded.state)
    apply_state(model, loaded.state, loaded.source)
    slabs = real_slabs(args.series, args.slabs)
    height, width = slabs.shape[2:]
    reference = probabilities(model, slabs, torch.float64, logits=False)
    print(f"{len(slabs)} slabs of {height}x{width}; {int((reference >= 0.5).sum())} pixels of the original's mask")
    print(f"{'probabilities against float64':38} {'largest':>9} {'32 px inside':>13} {'mask differs':>12}")
    show("original, float32", probabilities(model, slabs, torch.float32, logits=False), reference)
    results: dict[str, Restructured] = {}
    for name, options in WAYS.items():
        results[name] = result = restructure(model, slabs[:1, :, :256, :256], **options)
        for dtype in (torch.float64, torch.float32):
            found = probabilities(result.model, slabs, dtype, logits=True)
            show(f"{name}, {str(dtype).partition('.')[2]}", found, reference)
    for name, result in results.items():
        print(f"{name}: {result.describe()}")
    if not args.rounds:
        return
    spec = nodule_segmentation_spec(height, width)
    with tempfile.TemporaryDirectory() as folder:
        functions: dict[str, object] = {}
        for index, (name, network) in enumerate(
            {"original": model, **{n: r.model for n, r in results.items()}}.items()
        ):
            functions[name] = onnx_function(
                export_onnx(network.float(), spec, Path(folder) / f"{index}.onnx").file.path
            )
        for name, median in milliseconds(functions, slabs[:1].numpy(), args.rounds).items():
            print(f"onnxruntime, this host, {name:24} {median:7.1f} ms a slice")


if __name__ == "__main__":
    main()
