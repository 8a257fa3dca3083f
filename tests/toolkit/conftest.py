"""Fixtures of the toolkit's tests."""

import numpy as np
import pytest
from toolkit.fake_toolkit import make_environment

from edgelung.converters.toolkit import ToolkitJob


@pytest.fixture(scope="session")
def fake(tmp_path_factory):
    """A toolkit environment whose toolkit does what the model file says."""
    return make_environment(tmp_path_factory.mktemp("environments") / "2.3.2")


@pytest.fixture
def job(tmp_path):
    """A function: words for the stand-in -> a job with them, and with two samples of two inputs to simulate."""

    def make(*words, **fields):
        model = tmp_path / "a model.onnx"
        model.write_text(" ".join(words))
        return ToolkitJob(model, **fields)

    return make


@pytest.fixture
def samples(tmp_path):
    """Two samples of two inputs: (1, 1, 2, 2) and (1, 3), float32."""
    rows = []
    for row in range(2):
        files = (tmp_path / f"first {row}.npy", tmp_path / f"second {row}.npy")
        np.save(files[0], np.full((1, 1, 2, 2), row + 0.5, np.float32))
        np.save(files[1], np.full((1, 3), row - 0.5, np.float32))
        rows.append(files)
    return tuple(rows)
