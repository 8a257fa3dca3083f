"""Connected components of a 512 x 512 x 400 mask: edgelung's slice stream beside scipy.ndimage, time and memory.

    python benchmarks/components.py

Every way runs in a process of its own on the same slices. The time is that spent on components, without making or
reading slices; the memory is the highest resident set (getrusage) above that before the first slice. ``scipy: label``
counts components and no more; ``scipy: all`` adds what a finding needs (find_objects, sum, maximum, center_of_mass on
the whole volume), ``scipy: boxes`` the same from each object's box, which is quicker while objects are few.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SHAPE = (400, 512, 512)
THRESHOLD = 0.5
CONTENTS = {"lung": 0.0, "lung + 0.5 % salt": 0.005, "lung + 5 % salt": 0.05}
WAYS = ("edgelung", "scipy: label", "scipy: boxes", "scipy: all")
SCALE = np.arange(256, dtype=np.float32) / 255


def stamp(volume: np.ndarray, center: np.ndarray, radius: float, value: int) -> None:
    """Set a ball, cut at the borders."""
    low = np.maximum(np.floor(center - radius).astype(int), 0)
    high = np.minimum(np.ceil(center + radius).astype(int) + 1, volume.shape)
    if (low >= high).any():
        return
    d, h, w = np.ogrid[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    inside = (d - center[0]) ** 2 + (h - center[1]) ** 2 + (w - center[2]) ** 2 <= radius**2
    part = volume[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    part[inside] = value


def make(path: Path, salt: float) -> None:
    """400 blobs, 120 winding tubes, and salt; probabilities as uint8 (255 = 1)."""
    rng = np.random.default_rng(0)
    volume = np.full(SHAPE, 10, dtype=np.uint8)
    for _ in range(400):
        stamp(volume, rng.uniform(0, SHAPE), rng.uniform(1.5, 10), int(rng.integers(128, 256)))
    for _ in range(120):
        place, heading, radius = rng.uniform(0, SHAPE), rng.normal(size=3), rng.uniform(1.0, 4.0)
        for _ in range(150):
            heading = heading / np.linalg.norm(heading) + rng.normal(scale=0.2, size=3)
            place = place + heading
            stamp(volume, place, radius, 200)
    if salt:
        for plane in volume:
            plane[rng.random(plane.shape, dtype=np.float32) < salt] = 180
    volume.tofile(path)


def slices(path: Path) -> Iterator[np.ndarray]:
    """float32 slices, one in memory at a time."""
    with path.open("rb") as stream:
        for _ in range(SHAPE[0]):
            yield SCALE[np.frombuffer(stream.read(SHAPE[1] * SHAPE[2]), dtype=np.uint8).reshape(SHAPE[1:])]


def stream(path: Path) -> tuple[float, int, int, int]:
    """(seconds, memory before in KiB, components, sum of sizes of the ten largest) with edgelung."""
    from edgelung.runtime.components import ComponentBuilder

    builder = ComponentBuilder(SHAPE[1:])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = 0.0
    for values in slices(path):
        start = time.perf_counter()
        builder.add_slice(values, THRESHOLD)
        seconds += time.perf_counter() - start
    start = time.perf_counter()
    components = builder.finish()
    seconds += time.perf_counter() - start
    return seconds, before, len(components), int(np.sort(components.voxels)[-10:].sum())


def by_boxes(labels: np.ndarray, probability: np.ndarray, boxes: list[tuple[slice, ...]]) -> list[tuple]:
    """Voxels, centroid and peak of each object, from its box alone."""
    measured = []
    for number, box in enumerate(boxes, start=1):
        own = labels[box] == number
        indices = np.nonzero(own)
        center = [axis.mean() + part.start for axis, part in zip(indices, box, strict=True)]
        measured.append((len(indices[0]), center, probability[box][own].max()))
    return measured


def dense(path: Path, statistics: str) -> tuple[float, int, int, int]:
    """The same with scipy.ndimage on a whole volume."""
    from scipy import ndimage

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mask = np.empty(SHAPE, dtype=bool)
    probability = np.empty(SHAPE, dtype=np.float32) if statistics != "label" else None
    seconds = 0.0
    for depth, values in enumerate(slices(path)):
        start = time.perf_counter()
        mask[depth] = values >= THRESHOLD
        if probability is not None:
            probability[depth] = values
        seconds += time.perf_counter() - start
    start = time.perf_counter()
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if statistics == "boxes":
        by_boxes(labels, probability, ndimage.find_objects(labels))
    if statistics == "all":
        numbers = np.arange(1, count + 1)
        ndimage.find_objects(labels)
        ndimage.sum(mask, labels, numbers)
        ndimage.maximum(probability, labels, numbers)
        ndimage.center_of_mass(mask, labels, numbers)
    seconds += time.perf_counter() - start
    return seconds, before, count, int(np.sort(np.bincount(labels.ravel())[1:])[-10:].sum())


def measure(way: str, path: Path) -> None:
    """One way, in this process; prints one line of JSON."""
    seconds, before, count, largest = stream(path) if way == "edgelung" else dense(path, way.split()[-1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "mib": (peak - before) / 1024, "found": (count, largest)}))


def child(*arguments: str) -> dict:
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout) if done.stdout else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="runs of each way; the fastest counts")
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "FILE"), help=argparse.SUPPRESS)
    parser.add_argument("--make", nargs=2, metavar=("SALT", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure[0], Path(options.measure[1]))
        return
    if options.make:
        make(Path(options.make[1]), float(options.make[0]))
        return
    print(f"{'content':<18} {'way':<13} {'components':>10} {'seconds':>8} {'ratio':>6} {'peak MiB':>9} {'ratio':>6}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slices.raw"
        for content, salt in CONTENTS.items():
            child("--make", str(salt), str(path))
            runs = {way: [child("--measure", way, str(path)) for _ in range(options.repeats)] for way in WAYS}
            if len({tuple(run["found"]) for way in WAYS for run in runs[way]}) != 1:
                raise SystemExit(f"{content}: the ways do not agree")
            best = {way: min(run["seconds"] for run in runs[way]) for way in WAYS}
            peak = {way: max(run["mib"] for run in runs[way]) for way in WAYS}
            for way in WAYS:
                print(
                    f"{content:<18} {way:<13} {runs[way][0]['found'][0]:>10} {best[way]:>8.2f} "
                    f"{best[way] / best['edgelung']:>6.1f} {peak[way]:>9.0f} {peak[way] / peak['edgelung']:>6.1f}"
                )


if __name__ == "__main__":
    main()
