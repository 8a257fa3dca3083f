"""How many known nodules a bundle finds: inserted into a real CT, or in phantoms.

    python benchmarks/nodule_sensitivity.py BUNDLE --series SERIES [--rounds 5]
    python benchmarks/nodule_sensitivity.py BUNDLE --phantoms 3

A nodule counts as found when any of its pixels reaches the bundle's threshold; pixel recall is over all its pixels.
False-positive volume is what reaches the threshold in the lungs outside every nodule. A real series is one patient.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgelung.calibration import Nodule, insert_nodules, make_phantom, segment_lungs
from edgelung.runtime import CTPipeline, read_series
from edgelung.volume import CtVolume

NODULES = 12  # inserted at once
BIGGER_MM = 4.0  # a nodule's own pixels are those of the mask within its radius and this

Case = tuple[CtVolume, np.ndarray, np.ndarray, tuple[Nodule, ...]]


def inserted(series: Path, rounds: int) -> Iterator[Case]:
    """The same CT with other nodules each time."""
    volume = read_series(series).to_axial()
    lungs = segment_lungs(volume)
    for seed in range(rounds):
        made = insert_nodules(volume, seed=seed, count=NODULES, lungs=lungs)
        yield made.volume, made.mask, lungs, made.nodules


def phantoms(count: int) -> Iterator[Case]:
    """Phantoms of the middle of the chest, with seeds that no training here uses."""
    for seed in range(9_000, 9_000 + count):
        made = make_phantom(seed, shape=(64, 512, 512), nodules=12)
        yield made.volume, made.mask, made.lungs, made.nodules


def size_class(diameter_mm: float) -> str:
    return "< 5 mm" if diameter_mm < 5 else "5..10 mm" if diameter_mm < 10 else ">= 10 mm"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--series", type=Path, help="a real CT to insert nodules into")
    parser.add_argument("--rounds", type=int, default=5, help=f"of {NODULES} inserted nodules each")
    parser.add_argument("--phantoms", type=int, default=0, help="phantoms instead of a series")
    args = parser.parse_args()
    if bool(args.series) == bool(args.phantoms):
        parser.error("give either --series or --phantoms")
    cases = inserted(args.series, args.rounds) if args.series else phantoms(args.phantoms)
    rows: dict[str, list[tuple[bool, int, int]]] = defaultdict(list)
    false_ml, background_ml = 0.0, 0.0
    with CTPipeline.load(args.bundle) as pipeline:
        threshold = pipeline.bundle.manifest.pipeline.thresholds["mask_probability"]
        for volume, mask, lungs, nodules in cases:
            found = np.stack([plane >= threshold for plane in pipeline.iter_probabilities(volume)])
            voxel_ml = volume.voxel_volume_mm3 / 1000
            false_ml += (found & lungs & ~mask).sum() * voxel_ml
            background_ml += (lungs & ~mask).sum() * voxel_ml
            points = np.argwhere(mask)
            places_mm = volume.index_to_lps_mm(points)
            hit = found[tuple(points.T)]
            for nodule in nodules:
                away = np.linalg.norm(places_mm - nodule.center_lps_mm, axis=1)
                own = hit[away < nodule.diameter_mm / 2 + BIGGER_MM]
                for name in ("all", nodule.kind, nodule.place, size_class(nodule.diameter_mm)):
                    rows[name].append((bool(own.any()), int(own.sum()), len(own)))
    print(f"{'nodules':>16} {'count':>6} {'found':>7} {'pixel recall':>13}")
    for name in ("all", "solid", "part-solid", "ground-glass", "free", "juxta-vascular", "juxta-pleural",
                 "< 5 mm", "5..10 mm", ">= 10 mm"):  # fmt: skip
        if row := rows.get(name):
            any_hit, hits, pixels = (np.array(column) for column in zip(*row, strict=True))
            print(f"{name:>16} {len(row):>6} {any_hit.mean():>7.1%} {hits.sum() / pixels.sum():>13.1%}")
    print(f"false-positive volume {false_ml:.2f} ml in {background_ml:.0f} ml of lung")


if __name__ == "__main__":
    main()
