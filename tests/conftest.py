"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def realdata():
    """The folder of real samples: EDGELUNG_REALDATA, or ../shared/realdata beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "realdata"
    folder = Path(os.environ.get("EDGELUNG_REALDATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real samples at {folder} (set EDGELUNG_REALDATA)")
    return folder
