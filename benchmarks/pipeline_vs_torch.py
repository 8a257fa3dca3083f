"""CTPipeline on onnxruntime beside the plain torch loop: equal probabilities, time per slice, memory.

    python benchmarks/pipeline_vs_torch.py CHECKPOINT SERIES

Both sides run in this process, in turn, slice by slice, on the same threads; quote the ratio. Memory is that of a child
process that runs the pipeline alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from edgelung.converters import Recipe, convert
from edgelung.converters.checkpoint import apply_state, load_state_dict
from edgelung.converters.models import get_model_entry
from edgelung.runtime import CTPipeline, read_series

MEMORY = """
import json, sys
from edgelung.runtime import CTPipeline, read_series
from edgelung.runtime.memory import resident_mib
with CTPipeline.load(sys.argv[1]) as pipeline:
    pipeline.check_golden()
    pipeline.check_golden()  # onnxruntime plans its memory in the first run and takes it in the second
    engine, seen = resident_mib(), []
    result = pipeline(read_series(sys.argv[2]), progress=lambda done, total: seen.append(resident_mib()))
    seen.append(resident_mib())
    volume = result.volume.hu.nbytes / 2**20
    print(json.dumps({"engine": engine, "peak": max(seen), "volume": volume, "findings": len(result.findings)}))
"""


def plain_torch(model: torch.nn.Module, hu: np.ndarray, index: int) -> np.ndarray:
    """One slice as a plain loop does it: seven clipped neighbours, one forward call."""
    neighbours = np.clip(np.arange(index - 3, index + 4), 0, len(hu) - 1)
    stack = np.clip(hu[neighbours].astype(np.float32), -1000, 1000)
    with torch.inference_mode():
        return model(torch.from_numpy(stack[np.newaxis])).numpy()[0, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("series", type=Path)
    parser.add_argument("--slices", type=int, default=0, help="only so many, from the first on; 0 = all")
    args = parser.parse_args()
    loaded = load_state_dict(args.checkpoint)
    model = get_model_entry("unet-luna").build_from_state(loaded.state)
    apply_state(model, loaded.state, loaded.source)
    model.eval()
    volume = read_series(args.series).to_axial()
    depth = args.slices or volume.shape[0]
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "unet.bundle"
        convert(Recipe(args.checkpoint, bundle))
        ours, theirs, worst, differing = [], [], 0.0, 0
        with CTPipeline.load(bundle) as pipeline:
            stream = pipeline.iter_probabilities(volume)
            for index in range(depth):
                start = time.perf_counter()
                probability = next(stream)
                middle = time.perf_counter()
                reference = plain_torch(model, volume.hu, index)
                theirs.append(time.perf_counter() - middle)
                ours.append(middle - start)
                worst = max(worst, float(np.abs(probability - reference).max()))
                differing += int(((probability >= 0.5) != (reference >= 0.5)).sum())
        words = [sys.executable, "-c", MEMORY, str(bundle), str(args.series)]
        memory = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    ratios = np.array(theirs[1:]) / np.array(ours[1:])  # the first slice warms both engines up
    print(f"{depth} slices of {volume.shape[1]}x{volume.shape[2]}, {torch.get_num_threads()} threads, this host")
    print(f"largest difference of a probability  {worst:.2e}")
    print(f"mask pixels that differ at 0.5       {differing} of {depth * volume.shape[1] * volume.shape[2]}")
    print(f"CTPipeline, median per slice         {np.median(ours) * 1e3:.1f} ms")
    print(f"plain torch loop, median per slice   {np.median(theirs) * 1e3:.1f} ms")
    print(f"torch / CTPipeline, pair by pair     {np.median(ratios):.2f} ({ratios.min():.2f} .. {ratios.max():.2f})")
    above = memory["peak"] - memory["engine"]
    print(f"memory of the engine                 {memory['engine']:.0f} MiB")
    print(f"peak memory above the engine         {above:.0f} MiB, of which {memory['volume']:.0f} MiB the volume")
    print(f"findings                             {memory['findings']}")


if __name__ == "__main__":
    main()
