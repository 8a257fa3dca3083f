"""Evaluation sets: exact masks by nodule, the promised kinds, and nothing of one part in the other."""

from collections import Counter

import numpy as np
import pytest

from edgelung.calibration import make_phantom
from edgelung.converters.evaluation import iter_slabs, make_evaluation_set, split_block
from edgelung.errors import InputError
from edgelung.spec import SlicePacking

PACKING = SlicePacking(3, 1, 3)


@pytest.fixture(scope="module")
def phantom():
    """Slices of 3 mm, as thick as those of many real CTs."""
    return make_phantom(11, shape=(24, 160, 160), spacing_mm=(3.0, 2.0, 2.0), nodules=0).volume


@pytest.fixture(scope="module")
def evaluation(phantom):
    return make_evaluation_set(phantom, (4, 22), PACKING, seed=7, nodules=12, diameter_mm=(6.0, 14.0))


def test_there_are_enough_and_half_of_them_are_subsolid(evaluation):
    kinds = Counter(nodule.kind for nodule in evaluation.nodules)
    total = len(evaluation.nodules)
    assert total >= 12
    assert abs(2 * kinds["solid"] - total) <= 1
    assert abs(kinds["ground-glass"] - kinds["part-solid"]) <= 1
    assert len({nodule.place for nodule in evaluation.nodules}) > 1


def test_no_two_nodules_are_in_one_place(evaluation):
    assert len({nodule.center_lps_mm for nodule in evaluation.nodules}) == len(evaluation.nodules)
    first, second = evaluation.cases[:2]
    centres = [{tuple(round(x) for x in nodule.center_lps_mm) for nodule in case.nodules} for case in (first, second)]
    assert not centres[0] & centres[1]


def test_every_nodule_has_its_own_voxels(evaluation):
    for case in evaluation.cases:
        voxels = np.bincount(case.ids.ravel(), minlength=len(case.nodules) + 1)[1:]
        volumes = [nodule.volume_mm3 for nodule in case.nodules]
        assert voxels * evaluation.voxel_volume_mm3 == pytest.approx(volumes)


def test_nodules_change_what_is_seen_and_little_else(phantom, evaluation):
    block = phantom.to_axial().hu[4:22]
    for case in evaluation.cases:
        changed = case.hu != np.rint(block)
        assert changed[case.ids > 0].mean() > 0.9
        assert changed[case.ids == 0].mean() < 0.1


def test_every_answered_slice_is_asked_with_its_context(evaluation):
    slabs = list(iter_slabs(evaluation))
    assert len(slabs) == len(evaluation) == len(evaluation.cases) * 12
    assert {slab.shape for slab in slabs} == {(1, 7, 160, 160)}
    assert {slab.dtype for slab in slabs} == {np.dtype("float32")}
    case, index = evaluation.cases[1], evaluation.answered[2]
    assert np.array_equal(slabs[12 + 2][0, PACKING.before], case.hu[index])


def test_every_nodule_is_in_an_answered_slice(evaluation):
    for case in evaluation.cases:
        there = set(np.unique(case.ids[list(evaluation.answered)]))
        assert set(range(1, len(case.nodules) + 1)) <= there


def test_equal_seeds_make_equal_sets_and_others_differ(phantom, evaluation):
    how = {"nodules": 4, "diameter_mm": (6.0, 14.0)}
    same, other = (make_evaluation_set(phantom, (4, 22), PACKING, seed=seed, **how) for seed in (7, 8))
    assert np.array_equal(same.cases[0].ids, evaluation.cases[0].ids)
    assert not np.array_equal(other.cases[0].ids, evaluation.cases[0].ids)


@pytest.mark.parametrize(("holdout", "lower", "upper"), [((0, 36), (0, 10), (16, 36)), ((38, 78), (38, 49), (55, 78))])
def test_the_parts_of_a_block_are_disjoint(holdout, lower, upper):
    assert split_block(holdout) == (lower, upper)
    assert upper[0] - lower[1] == 6


def test_a_small_block_is_not_split():
    with pytest.raises(InputError, match="too small for two parts"):
        split_block((10, 17))


@pytest.mark.parametrize("block", [(4, 10), (20, 30), (-1, 12)])
def test_a_block_that_does_not_fit_is_refused(phantom, block):
    with pytest.raises(InputError, match="cannot be evaluated on"):
        make_evaluation_set(phantom, block, PACKING, seed=1)


def test_several_answers_a_run_are_refused(phantom):
    with pytest.raises(InputError, match="answers 4 slices"):
        make_evaluation_set(phantom, (0, 24), SlicePacking(3, 4, 3), seed=1)
