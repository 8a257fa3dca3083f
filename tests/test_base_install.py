"""The base install runs a bundle: a fresh environment with numpy, onnxruntime and click, and no host side."""

import json
import shutil
import subprocess
import venv
from pathlib import Path

import numpy as np
import pytest
from bundle_builders import make_bundle

PROJECT = Path(__file__).parents[1]
HOST_ONLY = ("torch", "onnx", "scipy", "SimpleITK", "cv2", "pydicom", "imagecodecs", "monai")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Scripts folder of a fresh virtual environment with only `pip install edgelung` in it."""
    folder = tmp_path_factory.mktemp("base")
    venv.create(folder / "env", with_pip=True)
    scripts = folder / "env" / "bin"
    source = folder / "source"  # a build leaves files behind, which do not belong in the checkout
    shutil.copytree(PROJECT / "edgelung", source / "edgelung", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(PROJECT / name, source / name)
    subprocess.run([scripts / "pip", "install", "--quiet", source], check=True, cwd=folder)
    return scripts


def run(environment, *words):
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, cwd=environment)


def test_the_environment_holds_nothing_of_the_host_side(environment):
    code = f"import importlib.util as u; print([n for n in {HOST_ONLY!r} if u.find_spec(n)])"
    assert run(environment, environment / "python", "-c", code).stdout.strip() == "[]"


def test_a_series_runs_through_a_bundle(environment, tmp_path):
    bundle = make_bundle(tmp_path / "unet.zip")
    hu = np.full((9, 64, 64), -900, np.int16)
    hu[3:6, 28:36, 28:36] = 50
    np.savez(tmp_path / "scan.npz", hu=hu, spacing_mm=np.array([1.5, 0.7, 0.7]))
    command = ["run", tmp_path / "scan.npz", "--bundle", bundle, "--output", tmp_path / "out", "--json"]
    done = run(environment, environment / "edgelung", *command)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["findings"]) == 1
    perf = run(environment, environment / "edgelung-perf", bundle, "--frames", "3", "--json")
    assert json.loads(perf.stdout)["backend"] == "onnxruntime"
    assert run(environment, environment / "edgelung", "inspect", bundle).returncode == 0


def test_what_needs_an_extra_names_it(environment, tmp_path):
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "1.dcm").write_bytes(b"\0" * 128 + b"DICM")
    bundle = make_bundle(tmp_path / "b")
    cases = {
        "edgelung[dicom]": ["run", tmp_path / "series", "--bundle", bundle, "--output", tmp_path / "out"],
        "edgelung[convert]": ["convert", "unet.pt"],
    }
    for extra, words in cases.items():
        done = run(environment, environment / "edgelung", *words)
        assert done.returncode == 3
        assert f'pip install "{extra}"' in done.stderr
    phantom = run(environment, environment / "edgelung", "phantom", tmp_path / "phantom", "--scans", "1")
    assert phantom.returncode == 3
    assert 'pip install "edgelung[convert]"' in phantom.stderr
