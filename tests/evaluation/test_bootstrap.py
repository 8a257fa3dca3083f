"""Intervals see a worse variant and do not see one where there is none."""

import numpy as np
import pytest
from evaluation_sets import answers, hand_made

from edgelung.converters.evaluation import METRICS, compare_metrics, count_answers, measure_with_intervals
from edgelung.errors import InputError


def counts(seed=1, **how):
    evaluation = hand_made(copies=8)
    return count_answers(evaluation, answers(evaluation, seed=seed, **how))


def test_identical_variants_differ_by_nothing():
    found = compare_metrics(counts(), 0.5, counts(), 0.5)
    for name in METRICS:
        difference = found.difference[name]
        assert (difference.value, difference.low, difference.high) == (0, 0, 0)
        assert not difference.is_clear


def test_variants_that_err_alike_are_not_told_apart():
    found = compare_metrics(counts(seed=2), 0.5, counts(seed=3), 0.5)
    assert not any(found.difference[name].is_clear for name in METRICS)
    assert found.difference["pixel recall"].low < 0 < found.difference["pixel recall"].high


@pytest.mark.parametrize(
    ("worse", "metric", "sign"),
    [
        ({"recall": 0.7}, "pixel recall", -1),
        ({"recall": 0.05}, "lesion sensitivity", -1),
        ({"false": 0.04}, "false-positive volume mm3", 1),
        ({"false": 0.04}, "pixel precision", -1),
    ],
)
def test_a_worse_variant_is_seen(worse, metric, sign):
    difference = compare_metrics(counts(seed=4, **worse), 0.5, counts(), 0.5).difference[metric]
    assert difference.is_clear
    assert np.sign([difference.low, difference.value, difference.high]).tolist() == [sign] * 3


def test_pairing_narrows_the_interval():
    """A variant that loses a tenth of each nodule's hits is seen, though nodules differ by far more."""
    evaluation = hand_made(copies=4)
    rng = np.random.default_rng(6)
    original = []
    for case in evaluation.cases:
        share = np.concatenate([[0.0], rng.uniform(0.1, 1.0, len(case.nodules))])
        drawn = [rng.random(case.ids.shape[1:]) < share[case.ids[index]] for index in evaluation.answered]
        original += [np.where(marked, 0.9, 0.1)[np.newaxis, np.newaxis].astype(np.float32) for marked in drawn]
    variant = [np.where(rng.random(answer.shape) < 0.1, 0.1, answer).astype(np.float32) for answer in original]
    ours, theirs = count_answers(evaluation, variant), count_answers(evaluation, original)
    difference = compare_metrics(ours, 0.5, theirs, 0.5).difference["pixel recall"]
    own = measure_with_intervals(theirs, 0.5).metrics["pixel recall"]
    assert difference.high < 0
    assert difference.high - difference.low < 0.5 * (own.high - own.low)


def test_the_interval_of_a_share_is_that_of_the_binomial():
    """300 nodules of equal size, each found or not: the percentile interval is near 1.96 standard errors."""
    found = counts()
    rng = np.random.default_rng(9)
    hits = (rng.random(300) < 0.7).astype(np.int64)
    made = type(found)(np.array([0.5]), np.ones(300, np.int64), hits[:, None], found.slice_false[:, :1], 1, 1.0)
    interval = measure_with_intervals(made, 0.5).metrics["lesion sensitivity"]
    error = 1.96 * np.sqrt(hits.mean() * (1 - hits.mean()) / 300)
    assert interval.value == hits.mean()
    assert (interval.high - interval.low) / 2 == pytest.approx(error, rel=0.15)


def test_equal_seeds_draw_equally_and_others_differ():
    one, same, other = (measure_with_intervals(counts(), 0.5, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_counts_of_different_sets_are_not_compared():
    evaluation = hand_made(copies=8, seed=5)
    foreign = count_answers(evaluation, answers(evaluation))
    with pytest.raises(InputError, match="different sets"):
        compare_metrics(foreign, 0.5, counts(), 0.5)
