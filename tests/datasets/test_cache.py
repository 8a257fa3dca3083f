"""The cache gives back what was labelled, never something stale, and refuses what was altered."""

import json
import os
import shutil

import numpy as np
import pytest

from edgelung.calibration import write_luna16
from edgelung.converters.datasets import cache, cache_scan, label_scan, open_cached_scan, read_luna16
from edgelung.errors import InputError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("luna") / "phantoms"
    write_luna16(folder, scans=1, seed=6, shape=(20, 96, 96), spacing_mm=(2.5, 3.5, 3.5))
    return folder


@pytest.fixture
def scan(root):
    return read_luna16(root)[0]


def test_a_cached_scan_is_the_labelled_one_through_a_memory_map(scan, tmp_path):
    fresh, kept = label_scan(scan), open_cached_scan(cache_scan(scan, tmp_path))
    for name in ("hu", "mask", "positives", "negatives", "exact"):
        assert np.array_equal(getattr(kept, name), getattr(fresh, name))
        assert isinstance(getattr(kept, name), np.memmap)
    assert fresh.mask.any() and fresh.exact.any()
    assert not np.array_equal(fresh.mask, fresh.exact)
    (entry,) = tmp_path.iterdir()
    assert "2.25" not in str(sorted(path.name for path in entry.iterdir()))


def test_empty_slices_of_a_mask_take_no_room(tmp_path):
    mask = np.zeros((64, 512, 512), dtype=bool)
    mask[3, 4:9, 5:9] = True
    cache._save(tmp_path / "mask.npy", mask)
    assert np.array_equal(np.load(tmp_path / "mask.npy", allow_pickle=False), mask)
    assert (tmp_path / "mask.npy").stat().st_blocks * 512 < mask.nbytes / 4


def test_a_scan_is_labelled_once(scan, tmp_path, monkeypatch):
    entry = cache_scan(scan, tmp_path)
    monkeypatch.setattr(cache, "label_scan", lambda *args, **kwargs: pytest.fail("labelled again"))
    assert cache_scan(scan, tmp_path) == entry


def test_whatever_a_label_depends_on_makes_another_entry(root, scan, tmp_path):
    entries = {cache_scan(scan, tmp_path), cache_scan(scan, tmp_path, seed=1)}
    fewer = type(scan)(scan.uid, scan.path, scan.nodules[1:], scan.look_alikes_lps_mm, scan.exact_mask)
    entries.add(cache_scan(fewer, tmp_path))
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    raw = next(copy.glob("subset?/*.raw"))
    os.utime(raw, ns=(0, 0))
    entries.add(cache_scan(read_luna16(copy)[0], tmp_path))
    assert len(entries) == 4


def test_an_interrupted_entry_leaves_nothing(scan, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "_save", fail)
    with pytest.raises(InputError, match=r"cache: cannot be written .No space left"):
        cache_scan(scan, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("harm", ["record", "missing", "shape", "pickle", "version", "name"])
def test_an_altered_entry_is_refused(scan, tmp_path, harm):
    entry = cache_scan(scan, tmp_path)
    record = json.loads((entry / "scan.json").read_text())
    if harm == "record":
        (entry / "scan.json").write_text("{}")
    elif harm == "missing":
        (entry / "mask.npy").unlink()
    elif harm == "shape":
        np.save(entry / "mask.npy", np.zeros((2, 2, 2), dtype=bool))
    elif harm == "pickle":
        np.save(entry / "hu.npy", np.array([print], dtype=object), allow_pickle=True)
    else:
        record["version" if harm == "version" else "arrays"] = 99 if harm == "version" else []
        (entry / "scan.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"no entry of the cache.*remove the folder"):
        open_cached_scan(entry)
