"""The examples do what they say: the checkpoint is small and plain, and the demo goes from nothing to findings."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgelung.converters.models import get_model_entry

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_checkpoint_is_a_small_bare_state_dict():
    path = EXAMPLES / "unet.pt"
    assert path.stat().st_size < 1_000_000
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = get_model_entry("unet-luna").build_from_state(state)
    model.load_state_dict(state)
    assert sum(tensor.numel() for tensor in model.parameters()) == 118_271


@pytest.mark.slow
def test_the_demo_finds_the_large_nodules_of_a_phantom(tmp_path):
    command = [
        sys.executable,
        str(EXAMPLES / "demo.py"),
        "--output",
        str(tmp_path),
        "--slices",
        "32",
        "--preset",
        "quick",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    with (tmp_path / "phantom" / "annotations.csv").open(newline="") as file:
        large = [row for row in csv.DictReader(file) if float(row["diameter_mm"]) > 5]
    assert large
    found = [line.split() for line in done.stdout.splitlines() if line.strip().startswith(("found ", "missed "))]
    hits = [float(words[1]) for words in found if words[0] == "found"]
    assert len([diameter for diameter in hits if diameter > 5]) >= 0.7 * len(large)
    findings = json.loads((tmp_path / "result" / "findings.json").read_text())["findings"]
    assert len(findings) >= len(hits)
    assert (tmp_path / "result" / "overview.png").stat().st_size > 10_000
    assert "frames per second" in done.stdout
