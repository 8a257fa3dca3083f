"""Counting by nodule and by slice, against counting pixel by pixel; answers that are none are refused."""

import numpy as np
import pytest
from evaluation_sets import PLANE, VOXEL_MM3, answers, hand_made

from edgelung.converters.evaluation import LEVELS, METRICS, count_answers, measure_metrics, threshold_at_volume
from edgelung.errors import ConversionError, InputError

HALF = LEVELS.tolist().index(0.5)


def by_pixel(evaluation, given, threshold):
    """Hits and pixels of each nodule, and false-positive pixels of each slice, the slow way."""
    given = list(given)
    false = np.zeros(len(evaluation.answered), dtype=int)
    hits, pixels = [], []
    for number, case in enumerate(evaluation.cases):
        ids = case.ids[list(evaluation.answered)]
        own = given[number * len(ids) : (number + 1) * len(ids)]
        marked = np.stack([answer[0, 0] >= threshold for answer in own])
        for index in range(len(case.nodules)):
            hits.append(int((marked & (ids == index + 1)).sum()))
            pixels.append(int((ids == index + 1).sum()))
        false += (marked & (ids == 0)).sum(axis=(1, 2))
    return hits, pixels, false


@pytest.mark.parametrize("level", [0, 120, HALF, HALF + 1, 333, 640])
def test_counts_are_those_of_every_pixel(level):
    evaluation = hand_made()
    counts = count_answers(evaluation, answers(evaluation))
    hits, pixels, false = by_pixel(evaluation, answers(evaluation), LEVELS[level])
    found, wrong = counts.at(float(LEVELS[level]))
    assert found.tolist() == hits
    assert counts.nodule_pixels.tolist() == pixels
    assert wrong.tolist() == false.tolist()


def test_a_pixel_at_the_threshold_is_marked():
    evaluation = hand_made(copies=1)
    half = (np.full((1, 1, *PLANE), 0.5, dtype=np.float32) for _ in range(len(evaluation)))
    counts = count_answers(evaluation, half)
    assert measure_metrics(counts, 0.5)["pixel recall"] == 1.0
    assert measure_metrics(counts, float(LEVELS[HALF + 1]))["pixel recall"] == 0.0


def test_metrics_by_hand():
    evaluation = hand_made(copies=2)
    counts = count_answers(evaluation, answers(evaluation))
    hits, pixels, false = by_pixel(evaluation, answers(evaluation), 0.5)
    expected = (
        sum(hits) / sum(pixels),
        sum(hits) / (sum(hits) + false.sum()),
        false.sum() * VOXEL_MM3 / 2,
        np.mean(np.array(hits) > 0),
    )
    assert measure_metrics(counts, 0.5) == pytest.approx(dict(zip(METRICS, expected, strict=True)))


def test_an_empty_answer_has_no_precision_and_no_recall():
    evaluation = hand_made()
    nothing = (np.zeros((1, 1, *PLANE), dtype=np.float32) for _ in range(len(evaluation)))
    assert list(measure_metrics(count_answers(evaluation, nothing), 0.5).values()) == [0, 0, 0, 0]


def test_one_hit_pixel_is_a_found_nodule_and_none_is_not():
    evaluation = hand_made(copies=1, per_copy=2)
    maps = [np.zeros((1, 1, *PLANE), dtype=np.float32) for _ in range(len(evaluation))]
    where = np.argwhere(evaluation.cases[0].ids[list(evaluation.answered)] == 2)[0]
    maps[where[0]][0, 0, where[1], where[2]] = 0.9
    assert measure_metrics(count_answers(evaluation, maps), 0.5)["lesion sensitivity"] == 0.5


def test_the_threshold_at_a_volume_is_the_lowest_that_keeps_to_it():
    evaluation = hand_made()
    counts = count_answers(evaluation, answers(evaluation, false=0.3))
    volume = measure_metrics(counts, 0.5)["false-positive volume mm3"]
    threshold = threshold_at_volume(counts, volume / 2)
    index = LEVELS.tolist().index(threshold)
    name = "false-positive volume mm3"
    assert threshold > 0.5
    assert measure_metrics(counts, threshold)[name] <= volume / 2 < measure_metrics(counts, LEVELS[index - 1])[name]


def test_a_volume_that_cannot_be_kept_is_refused():
    evaluation = hand_made(copies=1)
    certain = (np.ones((1, 1, *PLANE), dtype=np.float32) for _ in range(len(evaluation)))
    with pytest.raises(InputError, match="marks too much"):
        threshold_at_volume(count_answers(evaluation, certain), 1.0)


def test_a_threshold_between_the_levels_is_refused_and_can_be_added():
    evaluation = hand_made(copies=1)
    counts = count_answers(evaluation, answers(evaluation))
    with pytest.raises(InputError, match="none of the levels"):
        counts.at(0.51)
    counts = count_answers(evaluation, answers(evaluation), np.union1d(LEVELS, [0.51]))
    assert counts.at(0.51)[0].tolist() == by_pixel(evaluation, answers(evaluation), 0.51)[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda maps: maps[:-1], "fewer answers than slabs"),
        (lambda maps: [*maps, maps[0]], "more answers than the 5 slabs"),
        (lambda maps: [maps[0][:, :, :-1], *maps[1:]], "has the shape"),
        (lambda maps: [maps[0] * np.nan, *maps[1:]], "no probability"),
        (lambda maps: [maps[0] * 8 - 4, *maps[1:]], "no probability"),
    ],
    ids=["missing", "too many", "shape", "nan", "logits"],
)
def test_answers_that_are_none_are_refused(change, reason):
    evaluation = hand_made(copies=1)
    with pytest.raises(ConversionError, match=reason):
        count_answers(evaluation, change(list(answers(evaluation))))
