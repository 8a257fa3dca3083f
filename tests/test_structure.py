"""Proofs of the structure: the import order, the lean board side, and the public doors."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_builders import make_bundle
from import_rules import violations

import edgelung

PACKAGE = Path(edgelung.__file__).parent

DOORS = {
    "edgelung": ["__version__"],
    "edgelung.boards": [
        "BOARDS",
        "BoardProfile",
        "LatencyEstimate",
        "LayerEstimate",
        "LayerRecord",
        "SliceLatency",
        "describe_processor",
        "detect_board",
        "estimate",
        "get_board",
    ],
    "edgelung.runtime": [
        "ArtefactEstimate",
        "BACKENDS",
        "CTPipeline",
        "CtResult",
        "CtVolume",
        "Finding",
        "PerfReport",
        "SessionOptions",
        "StageTime",
        "estimate_bundle",
        "measure_latency",
        "prepare_output",
        "read_series",
    ],
    "edgelung.converters": ["Conversion", "Recipe", "convert"],
    "edgelung.converters.evaluation": [
        "Counts",
        "Difference",
        "EvaluationCase",
        "EvaluationSet",
        "Interval",
        "LEVELS",
        "METRICS",
        "OperatingPoint",
        "compare_metrics",
        "count_answers",
        "iter_slabs",
        "make_evaluation_set",
        "measure_metrics",
        "measure_with_intervals",
        "split_block",
        "threshold_at_volume",
    ],
    "edgelung.converters.report": [
        "EvaluationRecord",
        "Published",
        "REPORT_NAME",
        "Report",
        "ReportRow",
        "read_report",
        "rows_of_manifest",
        "write_report",
    ],
}


def test_every_import_keeps_the_order():
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "line", "reason"),
    [
        ("errors.py", "from edgelung.spec import TensorSpec", "edgelung.errors must not import edgelung.spec"),
        ("bundle/writer.py", "import edgelung.runtime", "must not import edgelung.runtime"),
        ("boards/profiles.py", "from edgelung.runtime import pipeline", "must not import"),
        ("runtime/pipeline.py", "from edgelung import calibration", "must not import edgelung.calibration"),
        ("runtime/pipeline.py", "def late():\n    import torch", "torch does not belong in edgelung.runtime.pipeline"),
        ("runtime/plane.py", "import onnxruntime", "onnxruntime does not belong"),
        ("runtime/perf.py", "import click", "click does not belong"),
        ("calibration/new.py", "from edgelung.converters.models import UNetLuna", "must not import"),
        (
            "converters/models/new.py",
            "from ..targets import onnxruntime",
            "must not import edgelung.converters.targets",
        ),
        ("converters/training/new.py", "from edgelung.cli import main", "must not import edgelung.cli"),
        ("converters/pruning/new.py", "import lightning_fabric", "lightning_fabric does not belong"),
        ("cli/run.py", "import torch", "torch does not belong"),
        ("volume.py", "import requests", "requests does not belong"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path, file, line, reason):
    planted = tmp_path / "edgelung" / file
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.write_text(f"{line}\n")
    (found,) = violations(tmp_path / "edgelung")
    assert reason in found


def child(code, *args):
    """Run code in a fresh interpreter and return the JSON it prints."""
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


LOADED = "import json; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules} - start)))"


def foreign(modules):
    return {name for name in modules if name not in sys.stdlib_module_names} - {"numpy", "edgelung"}


def test_importing_the_runtime_loads_nothing_but_numpy():
    loaded = child(f"import sys; start = set(sys.modules)\nimport edgelung.runtime\n{LOADED}")
    assert "edgelung" in loaded
    assert foreign(loaded) == set()


def test_an_open_session_adds_one_engine_and_what_it_imports(tmp_path):
    bundle = make_bundle(tmp_path / "b")
    code = "import sys; start = set(sys.modules)\nfrom edgelung.runtime import CTPipeline\n"
    loaded = child(f"{code}pipeline = CTPipeline.load(sys.argv[1])\n{LOADED}", str(bundle))
    engine = child(f"import sys; start = set(sys.modules)\nimport onnxruntime\n{LOADED}")
    assert "onnxruntime" in loaded
    assert foreign(loaded) - foreign(engine) == set()


def test_the_command_line_starts_without_the_host_side():
    code = "import sys; start = set(sys.modules)\nimport edgelung.cli.main\n"
    assert foreign(child(f"{code}{LOADED}")) <= {"click", "colorama"}


@pytest.mark.parametrize("door", DOORS)
def test_the_public_doors_are_as_documented(door):
    module = importlib.import_module(door)
    assert sorted(module.__all__) == sorted(DOORS[door])
    assert all(hasattr(module, name) for name in module.__all__)
