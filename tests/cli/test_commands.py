"""The commands as a person types them: help, results, errors in one line, exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bundle_builders import make_bundle

COMMANDS = ["run", "perf", "inspect", "phantom", "convert", "toolkit"]


def edgelung(*words, program="edgelung", **options):
    """Run an installed command; returns the finished process."""
    command = [str(Path(sys.executable).with_name(program)), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("cli") / "unet.bundle")


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """A .npz series of 64x64 slices with one bright ball."""
    path = tmp_path_factory.mktemp("series") / "scan.npz"
    hu = np.full((12, 64, 64), -900, np.int16)
    grid = np.stack(np.meshgrid(*map(np.arange, hu.shape), indexing="ij"), axis=-1)
    hu[(((grid - (6, 30, 30)) * (1.5, 0.7, 0.7)) ** 2).sum(-1) < 16] = 50
    np.savez(path, hu=hu, spacing_mm=np.array([1.5, 0.7, 0.7]))
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_teaches_itself(command):
    done = edgelung(command, "--help")
    assert done.returncode == 0
    assert "Example" in done.stdout
    assert command in edgelung("--help").stdout


def test_run_writes_findings_and_prints_them(bundle, series, tmp_path):
    done = edgelung("run", series, "--bundle", bundle, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "1 finding in 12 slices" in done.stdout
    for stage in ("read", "prepare", "infer", "components", "measure"):
        assert stage in done.stdout
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"findings.json", "findings.csv", "overview.png", "finding-001.png"}


def test_json_is_the_whole_standard_output(bundle, series, tmp_path):
    done = edgelung("run", series, "--bundle", bundle, "--output", tmp_path, "--json")
    assert json.loads(done.stdout) == json.loads((tmp_path / "findings.json").read_text())
    assert json.loads(edgelung("inspect", bundle, "--json").stdout)["artefacts"][0]["network"] == "bright"
    perf = json.loads(edgelung(bundle, "--frames", 3, "--json", program="edgelung-perf").stdout)
    assert perf["source"] == "host"


def test_inspect_and_perf_speak_to_people(bundle):
    assert "all hashes match" in edgelung("inspect", bundle).stdout
    done = edgelung("perf", bundle, "--frames", 3)
    assert "frames per second" in done.stdout
    assert "source: host" in done.stdout


def test_other_numbers_than_hounsfield_units_are_refused_unless_a_word_takes_them(bundle, series, tmp_path):
    wrong = tmp_path / "unsigned.npz"
    np.savez(wrong, hu=(np.load(series)["hu"] + 1024).astype(np.uint16), spacing_mm=np.array([1.5, 0.7, 0.7]))
    words = ["run", wrong, "--bundle", bundle, "--output", tmp_path / "out"]
    refused = edgelung(*words)
    assert refused.returncode == 3
    assert "unsigned.npz: values lie in 124..1074, none is air" in refused.stderr
    assert "--allow-implausible" in refused.stderr
    assert not (tmp_path / "out" / "findings.json").exists()
    taken = edgelung(*words, "--allow-implausible", "--json")
    assert taken.returncode == 0
    assert "warning: taken as it is by --allow-implausible: values lie in 124..1074" in taken.stderr
    assert json.loads(taken.stdout)["implausible"].startswith("values lie in 124..1074")


def bad_calls(bundle, series, tmp_path):
    """Name -> (words, exit code, part of the one line)."""
    out = ["--output", tmp_path / "out"]
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    truncated = tmp_path / "cut.npz"
    truncated.write_bytes(series.read_bytes()[:200])
    npu = ["convert", "x.pt", "--target", "rk3588s", *out]
    return {
        "no such series": (["run", tmp_path / "none.mhd", "--bundle", bundle, *out], 3, "there is no such file"),
        "unreadable kind": (["run", text, "--bundle", bundle, *out], 3, "this kind of file is not read"),
        "truncated": (["run", truncated, "--bundle", bundle, *out], 3, "cut.npz"),
        "no such bundle": (["run", series, "--bundle", tmp_path / "none", *out], 4, "No such file"),
        "no bundle": (["inspect", text], 4, "neither a bundle folder nor a zip file"),
        "unknown backend": (["run", series, "--bundle", bundle, *out, "--backend", "tpu"], 3, "unknown backend 'tpu'"),
        "no such checkpoint": (["convert", tmp_path / "none.pt", *out], 3, "does not exist"),
        "no checkpoint": (["convert", text, *out], 3, "notes.txt"),
        "arch without spec": (["convert", "x.pt", "--arch", "a:b", *out], 3, "--arch needs a description"),
        "float32 on an NPU": ([*npu, "--precision", "fp32"], 3, "choose --precision fp16, --ptq or --qat"),
        "two routes": ([*npu, "--precision", "fp16", "--ptq"], 3, "two routes"),
        "epochs of nothing": ([*npu, "--epochs", "3"], 3, "epochs: nothing is trained; add --prune R or --qat"),
        "no recipe": ([*npu, "--recipe", text], 3, "notes.txt: is not valid TOML"),
        "unknown target": (["convert", "x.pt", "--target", "rk9", *out], 3, "known targets: onnxruntime, rk3588"),
        "no toolkit": (npu, 8, "edgelung toolkit install 2.3.2"),
        "no block of slices": ([*npu, "--data", text, "--holdout", "9-12"], 2, "give LOW:HIGH"),
        "wrong usage": (["run", series], 2, "Missing option"),
    }


BAD_CALLS = (
    "no such series",
    "unreadable kind",
    "truncated",
    "no such bundle",
    "no bundle",
    "unknown backend",
    "no such checkpoint",
    "no checkpoint",
    "arch without spec",
    "float32 on an NPU",
    "two routes",
    "epochs of nothing",
    "no recipe",
    "unknown target",
    "no toolkit",
    "no block of slices",
    "wrong usage",
)


@pytest.mark.parametrize("case", BAD_CALLS)
def test_an_error_is_one_line_with_its_own_exit_code(case, bundle, series, tmp_path):
    words, code, part = bad_calls(bundle, series, tmp_path)[case]
    done = edgelung(*words, env={**os.environ, "EDGELUNG_HOME": str(tmp_path / "home")})
    assert done.returncode == code, done.stderr
    assert part in done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.lower().startswith("error")]
    assert len(errors) == 1
    assert not (tmp_path / "out" / "findings.json").exists()


def test_a_failure_is_json_when_asked_for(bundle, tmp_path):
    done = edgelung("run", tmp_path / "none.mhd", "--bundle", bundle, "--output", tmp_path / "out", "--json")
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "InputError"
    assert error["hint"]


def test_an_earlier_result_is_kept_unless_told_otherwise(bundle, series, tmp_path):
    words = ["run", series, "--bundle", bundle, "--output", tmp_path]
    assert edgelung(*words).returncode == 0
    refused = edgelung(*words)
    assert refused.returncode == 3
    assert "--overwrite" in refused.stderr
    assert edgelung(*words, "--overwrite").returncode == 0
    failed = edgelung("run", tmp_path / "none.mhd", "--bundle", bundle, "--output", tmp_path, "--overwrite")
    assert failed.returncode == 3
    assert not (tmp_path / "findings.json").exists()  # an old result must not look like the failed run's


def test_convert_without_the_host_side_says_what_to_install(tmp_path):
    # A folder that shadows torch with a module that cannot be imported stands for an environment without it.
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    done = edgelung("convert", "x.pt", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 3
    assert 'the package torch is not installed; pip install "edgelung[convert]"' in done.stderr
