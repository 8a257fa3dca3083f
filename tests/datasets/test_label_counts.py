"""Annotations that no voxel answers are counted and named, never background without a word."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgelung.calibration import write_luna16
from edgelung.converters.datasets import (
    Annotation,
    LabelCounts,
    Outcome,
    cache_scan,
    is_complete,
    label_scan,
    open_cached_scan,
    read_luna16,
)
from edgelung.errors import InputError
from edgelung.runtime import read_series


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("luna") / "phantoms"
    write_luna16(folder, scans=1, seed=6, shape=(20, 96, 96), spacing_mm=(2.5, 3.5, 3.5))
    (scan,) = read_luna16(folder)
    assert scan.nodules
    return scan


@pytest.fixture(scope="module")
def volume(scan):
    return read_series(scan.path).to_axial()


def at(volume, index, diameter_mm=6.0, line=9):
    return Annotation(tuple(volume.index_to_lps_mm(index)), diameter_mm, line)


def test_phantoms_have_a_voxel_for_each_nodule(scan):
    labelled = label_scan(scan)
    assert set(labelled.outcomes) <= {Outcome.LABELLED, Outcome.CUT} and is_complete(labelled)
    assert len(labelled.strays) == 0 and len(scan.look_alike_lines) == len(scan.look_alikes_lps_mm)


@pytest.mark.parametrize(
    ("place", "outcome"),
    [
        (lambda v: at(v, (-5, 40, 40)), Outcome.OUTSIDE),
        (lambda v: at(v, (10, 40, 95.6)), Outcome.OUTSIDE),  # the center is past the last voxel, half of it is within
        (lambda v: Annotation((1e300, -1e300, 0.0), 6.0), Outcome.OUTSIDE),
        (lambda v: at(v, (10, 2, 2)), Outcome.EMPTY),  # air of the room
        (lambda v: at(v, (0, *np.argwhere(v.hu[0] > 0)[500]), 8.0), Outcome.CUT),
        (lambda v: at(v, np.argwhere(v.hu[8:12] > 0)[500] + (8, 0, 0), 4.0), Outcome.LABELLED),
    ],
)
def test_each_nodule_has_an_outcome(scan, volume, place, outcome):
    labelled = label_scan(replace(scan, nodules=(place(volume),)))
    assert list(labelled.outcomes) == [outcome]
    assert is_complete(labelled) == (outcome in (Outcome.LABELLED, Outcome.CUT)) == labelled.mask.any()


def test_the_cache_keeps_the_outcomes(scan, volume, tmp_path):
    changed = replace(scan, nodules=(*scan.nodules, at(volume, (-5, 40, 40))))
    kept = open_cached_scan(cache_scan(changed, tmp_path))
    assert np.array_equal(kept.outcomes, label_scan(changed).outcomes) and not is_complete(kept)
    moved = replace(scan, nodules=tuple(replace(nodule, line=nodule.line + 7) for nodule in changed.nodules))
    assert cache_scan(moved, tmp_path) == cache_scan(changed, tmp_path)  # a line is no property of a label


def test_what_has_no_voxel_is_named_by_its_line(scan, volume):
    nodules = (*scan.nodules, at(volume, (-5, 40, 40), line=17), at(volume, (10, 2, 2), line=4))
    far = tuple(volume.index_to_lps_mm((10, 500, 40)))
    stray = replace(scan, nodules=nodules, look_alikes_lps_mm=(*scan.look_alikes_lps_mm, far), look_alike_lines=())
    counts = LabelCounts().with_scan(scan, label_scan(scan)).with_scan(stray, label_scan(stray))
    total = 2 * len(scan.nodules) + 2
    counts.check("luna16")
    missing, *_, strays = counts.notes()
    assert missing == (
        f"annotations.csv: 2 of {total} nodules have no voxel in their scan (lines 4 and 17): outside of the volume "
        "(1), nothing as dense as a nodule there (1); their scan is left out"
    )
    assert strays.startswith("candidates: 1 of ") and strays.endswith("outside of their scan; they are not used")
    numbers = counts.to_json()
    assert (numbers["nodules"], numbers["outside"], numbers["empty"], numbers["scans_left_out"]) == (total, 1, 1, 1)
    assert numbers["strays"] == 1


@pytest.mark.parametrize(
    ("counts", "refused"),
    [
        (LabelCounts(nodules=120, outside=(4, 17), empty=(30,)), False),
        (LabelCounts(nodules=3, outside=(2, 3)), False),
        (LabelCounts(nodules=3, outside=(2, 3, 4)), True),
        (LabelCounts(nodules=120, outside=tuple(range(2, 15))), True),
        (LabelCounts(nodules=120, empty=tuple(range(2, 15))), False),
        (LabelCounts(nodules=120, empty=tuple(range(2, 33))), True),
    ],
)
def test_few_are_named_and_many_are_refused(counts, refused):
    if not refused:
        counts.check("luna16")
        return
    with pytest.raises(InputError, match=r"nodules have no voxel in their scan \(lines 2, .*LPS millimetres") as caught:
        counts.check("luna16")
    assert Path(caught.value.source) == Path("luna16/annotations.csv")


def test_it_is_known_early_that_there_will_be_too_many():
    counts = LabelCounts(nodules=13, outside=tuple(range(2, 15)))
    counts.check("luna16", 1000)
    with pytest.raises(InputError, match="13 of 120 nodules"):
        counts.check("luna16", 120)
