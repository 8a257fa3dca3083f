"""Train unet-luna on phantom CTs, from nothing to a checkpoint of its weights.

This made examples/unet.pt:

    python examples/train_phantom.py --output examples/unet.pt

A plain loop on seeded phantoms: half of the crops around nodules, half around points in the lungs.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from edgelung.calibration import make_phantom
from edgelung.converters.datasets import CropSampler, LabelledScan
from edgelung.converters.models import UNetLuna
from edgelung.converters.tasks import nodule_segmentation_spec
from edgelung.converters.training import train_segmentation

FIRST_SEED = 1000  # demo, tests and verification use seeds below


def make_scan(seed: int, depth: int) -> LabelledScan:
    """A slab of a phantom's chest with a mask of its nodules."""
    spacing_mm = (float(np.random.default_rng(seed).choice([1.0, 1.25, 2.0, 2.5])), 0.7, 0.7)
    phantom = make_phantom(seed, shape=(depth, 512, 512), spacing_mm=spacing_mm, nodules=14)
    lungs = np.argwhere(phantom.lungs & ~phantom.mask)
    chosen = np.random.default_rng(seed).choice(len(lungs), size=min(len(lungs), 20_000), replace=False)
    return LabelledScan(phantom.volume.hu, phantom.mask, lungs[chosen])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="checkpoint to write (weights only)")
    parser.add_argument("--scans", type=int, default=16, help="phantom slabs to train on")
    parser.add_argument("--depth", type=int, default=64, help="slices of each")
    parser.add_argument("--steps", type=int, default=700, help="batches of 32 crops")
    parser.add_argument("--seed", type=int, default=0, help="of crops and initial weights")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    start = time.monotonic()
    scans = []
    for index in range(args.scans):
        scans.append(make_scan(FIRST_SEED + index, args.depth))
        print(f"phantom {index + 1} of {args.scans}, {time.monotonic() - start:.0f} s")
    model = UNetLuna()
    sampler = CropSampler(scans, nodule_segmentation_spec().input, batch=32, seed=args.seed)
    recent: list[float] = []

    def progress(done: int, total: int, loss: float) -> None:
        recent.append(loss)
        if done % 25 == 0 or done == total:
            left = (time.monotonic() - begin) / done * (total - done)
            print(f"step {done} of {total}: loss {np.mean(recent[-25:]):.3f}, {left:.0f} s left", flush=True)

    begin = time.monotonic()
    train_segmentation(model, sampler, steps=args.steps, learning_rate=3e-3, progress=progress)
    torch.save(model.state_dict(), args.output)
    print(f"wrote {args.output}, {args.output.stat().st_size / 1024:.0f} KiB, in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
