"""Train unet-luna on phantom CTs, from nothing to a checkpoint of its weights.

This made examples/unet.pt:

    python examples/train_phantom.py --output examples/unet.pt

A plain loop on seeded phantoms: half of the crops around nodules, half around vessels and anything else. It takes about
a quarter of an hour on one core.
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
from edgelung.runtime.preprocess import prepare_stack

FIRST_SEED = 1000  # demo, tests and verification use seeds below
VALIDATION_SEED = 900
POINTS = 100


def make_scan(seed: int, depth: int) -> LabelledScan:
    """A slab of a phantom's chest with points in its nodules, in its vessels and all over it."""
    random = np.random.default_rng(seed)
    spacing_mm = (float(random.choice([1.0, 1.25, 2.0, 2.5])), 0.7, 0.7)
    phantom = make_phantom(seed, shape=(depth, 512, 512), spacing_mm=spacing_mm, nodules=14)
    hu, mask = phantom.volume.hu, phantom.mask
    inside = np.argwhere(mask)
    centers = phantom.volume.lps_mm_to_index([nodule.center_lps_mm for nodule in phantom.nodules])
    owner = ((inside[:, np.newaxis] - centers) ** 2).sum(-1).argmin(1)
    positives = [draw(random, inside[owner == index], POINTS) for index in range(len(centers))]
    elsewhere = ~mask
    negatives = [
        draw(random, np.argwhere(phantom.lungs & elsewhere & (hu > -600)), 40 * POINTS),  # vessels, bronchial walls
        draw(random, np.argwhere(phantom.lungs & elsewhere), 20 * POINTS),
        random.integers((0, 0, 0), hu.shape, size=(20 * POINTS, 3)),  # ribs, heart, skin, table
    ]
    return LabelledScan(hu, mask, np.concatenate(positives), np.concatenate(negatives))


def draw(random: np.random.Generator, points: np.ndarray, count: int) -> np.ndarray:
    """So many of the points, with repetition; none of none."""
    return points[random.integers(len(points), size=count if len(points) else 0)] if len(points) else points


def validate(model: torch.nn.Module, scan: LabelledScan) -> tuple[float, float]:
    """Pixel recall and precision at 0.5 on every fourth whole slice of a phantom that was not trained on."""
    spec = nodule_segmentation_spec().input
    hits = wanted = marked = 0
    for index in range(0, len(scan.hu), 4):
        neighbours = np.clip(np.arange(index - 3, index + 4), 0, len(scan.hu) - 1)
        with torch.inference_mode():
            found = model(torch.from_numpy(prepare_stack(scan.hu[neighbours], spec))).numpy()[0, 0] >= 0.5
        hits += int((found & scan.mask[index]).sum())
        wanted += int(scan.mask[index].sum())
        marked += int(found.sum())
    return hits / max(wanted, 1), hits / max(marked, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="checkpoint to write (weights only)")
    parser.add_argument("--scans", type=int, default=24, help="phantom slabs to train on")
    parser.add_argument("--depth", type=int, default=48, help="slices of each")
    parser.add_argument("--steps", type=int, default=2500, help="batches of 32 crops")
    parser.add_argument("--seed", type=int, default=0, help="of crops and initial weights")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves it to torch")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    if args.threads:
        torch.set_num_threads(args.threads)
    start = time.monotonic()
    scans = []
    for index in range(args.scans):
        scans.append(make_scan(FIRST_SEED + index, args.depth))
        print(f"phantom {index + 1} of {args.scans}, {time.monotonic() - start:.0f} s")
    model = UNetLuna().to(memory_format=torch.channels_last)
    sampler = CropSampler(scans, nodule_segmentation_spec().input, batch=32, seed=args.seed)
    recent: list[float] = []

    def progress(done: int, total: int, loss: float) -> None:
        recent.append(loss)
        if done % 25 == 0 or done == total:
            left = (time.monotonic() - begin) / done * (total - done)
            print(f"step {done} of {total}: loss {np.mean(recent[-25:]):.3f}, {left:.0f} s left", flush=True)

    begin = time.monotonic()
    train_segmentation(model, sampler, steps=args.steps, learning_rate=3e-3, progress=progress)
    for seed in (VALIDATION_SEED, VALIDATION_SEED + 1):
        recall, precision = validate(model, make_scan(seed, args.depth))
        print(f"phantom {seed}, not trained on: pixel recall {recall:.3f}, precision {precision:.3f}")
    torch.save(model.state_dict(), args.output)
    print(f"wrote {args.output}, {args.output.stat().st_size / 1024:.0f} KiB, in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
