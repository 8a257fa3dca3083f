"""The whole way on one machine: a phantom CT, a bundle for the NPU from a torch U-Net, findings, pictures, latency.

The network loses half of its channels, learns again from phantoms, the second time while it rounds to int8, and is
compiled for an RK3588S and checked in the vendor's simulator. The bundle holds it for onnxruntime too, which is what
runs here. This takes some minutes, most of them the training.

    python examples/demo.py --output build/demo

Every step is a command that works the same on your own data; the commands are printed as they run.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import shlex
import subprocess
import sys
import time
from pathlib import Path

EXAMPLES = Path(__file__).parent


def run(*words: object) -> None:
    """Run one of edgelung's commands from this environment, shown as a person would type it."""
    command = [str(word) for word in words]
    print(f"\n$ {shlex.join(command)}", flush=True)
    program = Path(sys.executable).with_name(command[0])
    subprocess.run([program, *command[1:]], check=True)


def compare(findings: Path, annotations: Path) -> None:
    """Say which of the phantom's nodules were found: LUNA16 counts a hit within the nodule's radius."""
    found = json.loads(findings.read_text())["findings"]
    with annotations.open(newline="") as file:
        nodules = list(csv.DictReader(file))
    hits = set()
    unmatched = []
    for finding in found:
        near = [
            index
            for index, row in enumerate(nodules)
            if math.dist(finding["center_lps_mm"], [float(row[f"coord{axis}"]) for axis in "XYZ"])
            <= float(row["diameter_mm"]) / 2
        ]
        hits.update(near)
        if not near:
            unmatched.append(finding)
    print(f"\nof {len(nodules)} nodules in the phantom {len(hits)} were found, {len(unmatched)} findings are none")
    for index, row in enumerate(nodules):
        print(f"  {'found ' if index in hits else 'missed'}  {float(row['diameter_mm']):5.1f} mm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/demo"))
    parser.add_argument("--slices", type=int, default=96, help="depth of the phantom")
    parser.add_argument("--preset", default="published", help="how long the network learns again: quick is shorter")
    args = parser.parse_args()
    start = time.monotonic()
    phantom, bundle, result = (args.output / name for name in ("phantom", "unet.bundle", "result"))
    run("edgelung", "phantom", phantom, "--scans", 1, "--seed", 7, "--shape", args.slices, 512, 512)
    (series,) = phantom.glob("subset0/*.mhd")
    prune = ("--prune", 0.5, "--qat", "--target", "rk3588s", "--preset", args.preset)
    run("edgelung-convert", EXAMPLES / "unet.pt", *prune, "--output", bundle, "--overwrite")
    run("edgelung", "inspect", bundle)
    run("edgelung", "run", series, "--bundle", bundle, "--output", result, "--overwrite")
    compare(result / "findings.json", phantom / "annotations.csv")
    run("edgelung-perf", bundle)
    print(f"\ndone in {time.monotonic() - start:.0f} s; look at {result / 'overview.png'}")


if __name__ == "__main__":
    main()
