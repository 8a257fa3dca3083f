"""No file, however broken, ends in anything but a result or an EdgelungError.

benchmarks/mutated_inputs.py tries more of them.
"""

import random
import shutil
import tracemalloc

import pytest
from mutation.mutations import mutate
from mutation.subjects import SUBJECTS
from mutation.trial import allowed_bytes, attempt

EACH = 40


@pytest.fixture
def traced():
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("kind", SUBJECTS)
def test_mutated_files_are_read_or_refused(kind, tmp_path, traced):
    (tmp_path / "good").mkdir()
    allowed = allowed_bytes(kind, tmp_path / "good")
    results = set()
    for seed in range(EACH):
        folder = tmp_path / str(seed)
        shutil.copytree(tmp_path / "good", folder)
        subject = SUBJECTS[kind]
        (path,) = folder.iterdir() if len(list(folder.iterdir())) == 1 else [folder / "scan.mhd"]
        mutate(kind, path, random.Random(f"{kind} {seed}"))
        outcome = attempt(subject, path)
        assert not outcome.fault(allowed), f"seed {seed}: {outcome.fault(allowed)}"
        results.add(outcome.result)
    assert "read" not in results or len(results) > 1  # some mutations matter
