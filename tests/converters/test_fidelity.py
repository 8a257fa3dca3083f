"""Masks and probabilities of an artefact against the original: wrong networks are not let pass."""

import math
from dataclasses import replace

import numpy as np
import pytest

from edgelung.converters.fidelity import (
    LIMITS,
    RETRAINED,
    TRUTH,
    find_ways_out,
    measure_fidelity,
    require_fidelity,
    to_probability,
)
from edgelung.errors import ConversionError, VerificationError

DATA = "made-up slabs"


def originals():
    """Probabilities as a segmentation network gives them: almost all near 0, blobs near 1 with soft rims."""
    rng = np.random.default_rng(4)
    rows, columns = np.indices((64, 64))
    maps = []
    for _ in range(4):
        probability = rng.random((64, 64)) * 1e-3
        for _ in range(5):
            away = np.hypot(rows - rng.integers(8, 56), columns - rng.integers(8, 56))
            probability = np.maximum(probability, 1 / (1 + np.exp(2.0 * (away - rng.uniform(2, 6)))))
        maps.append(probability[np.newaxis, np.newaxis].astype(np.float32))
    return maps


def values(rows):
    return {row.metric: row.value for row in rows}


def measured(found, precision="int8", threshold=0.5):
    return measure_fidelity(originals(), found, threshold, LIMITS[precision], DATA)


def test_shares_by_hand():
    ours = [np.array([[[[0.9, 0.9, 0.1, 0.1]]]], dtype=np.float32)]
    theirs = [np.array([[[[0.9, 0.1, 0.6, 0.1]]]], dtype=np.float32)]
    rows = values(measure_fidelity(ours, theirs, 0.5, LIMITS["fp32"], DATA))
    assert rows["mask recall"] == rows["mask precision"] == rows["mask Dice"] == 0.5
    assert rows["largest difference"] == pytest.approx(0.8)
    lower = values(measure_fidelity(ours, theirs, 0.05, LIMITS["fp32"], DATA))
    assert lower["mask Dice"] == 1.0


def test_recall_and_precision_are_not_exchanged():
    shrunk = [np.where(p > 0.9, p, 0.0).astype(np.float32) for p in originals()]
    rows = values(measured(shrunk))
    assert rows["mask precision"] == 1.0 > rows["mask recall"]


@pytest.mark.parametrize("precision", LIMITS)
def test_the_original_itself_keeps_every_limit(precision):
    require_fidelity(measured(originals(), precision), "itself")


def test_rounding_like_that_of_each_precision_passes():
    rng = np.random.default_rng(0)
    logits = [np.log(p / (1 - p)) for p in originals()]
    for precision, noise in (("fp32", 1e-6), ("fp16", 2e-3), ("int8", 0.3)):
        noisy = [to_probability(logit + rng.normal(0, noise, logit.shape), "logit") for logit in logits]
        require_fidelity(measured(noisy, precision), precision)


WRONG = {
    "scaled down": lambda maps: [0.5 * p for p in maps],
    "scaled up": lambda maps: [2.0 * p for p in maps],
    "shifted up": lambda maps: [p + 0.2 for p in maps],
    "shifted down": lambda maps: [p - 0.3 for p in maps],
    "zeroed": lambda maps: [np.zeros_like(p) for p in maps],
    "all ones": lambda maps: [np.ones_like(p) for p in maps],
    "one of many zeroed": lambda maps: [np.zeros_like(maps[0]), np.zeros_like(maps[1]), *maps[2:]],
    "slabs permuted": lambda maps: [*maps[1:], maps[0]],
    "mirrored": lambda maps: [p[..., ::-1] for p in maps],
    "moved by three pixels": lambda maps: [np.roll(p, 3, axis=-1) for p in maps],
    "inverted": lambda maps: [1 - p for p in maps],
    "unrelated": lambda maps: [np.random.default_rng(9).random(p.shape).astype(np.float32) for p in maps],
}


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize("case", WRONG)
def test_wrong_networks_miss_a_limit(case, precision):
    with pytest.raises(VerificationError, match="--keep-failing"):
        require_fidelity(measured(WRONG[case](originals()), precision), case)


def test_an_empty_mask_proves_nothing_where_the_mask_has_a_limit():
    faint = [0.4 * p for p in originals()]
    with pytest.raises(VerificationError, match=r"pixels that the original network.*marks.*--holdout"):
        measure_fidelity(faint, faint, 0.5, LIMITS["int8"], DATA)
    with pytest.raises(VerificationError, match=r"pixels that the retrained network.*marks.*--epochs"):
        measure_fidelity(faint, faint, 0.5, LIMITS["int8"], DATA, against=RETRAINED)
    rows = measure_fidelity(faint, faint, 0.5, LIMITS["fp32"], DATA)
    assert "mask Dice" not in values(rows)


def test_values_that_are_no_numbers_and_other_shapes_never_pass():
    broken = originals()
    broken[1][0, 0, 3, 3] = np.nan
    with pytest.raises(VerificationError, match="NaN"):
        measured(broken)
    with pytest.raises(ConversionError, match="shapes"):
        measured(originals()[:3])


def test_logits_become_probabilities_without_overflow():
    logits = np.array([-1e4, -2.0, 0.0, 2.0, 1e4], dtype=np.float32)
    with np.errstate(all="raise"):
        probability = to_probability(logits, "logit")
    expected = [0, 1 / (1 + math.exp(2)), 0.5, 1 / (1 + math.exp(-2)), 1]
    np.testing.assert_allclose(probability, expected, atol=1e-6)
    assert to_probability(logits, "probability") is logits


@pytest.mark.parametrize("against", ["original network in float32", RETRAINED, TRUTH])
@pytest.mark.parametrize("has_data", [True, False])
@pytest.mark.parametrize(
    ("precision", "npu", "trained", "trainable", "says", "never"),
    [
        ("int8", True, False, True, "another --ptq, --qat or --precision fp16", "edgelung"),
        ("int8", False, False, True, "try --qat or --precision fp32", "another --ptq"),
        ("int8", True, False, False, "another --ptq or --precision fp16", "--qat"),
        ("int8", False, True, True, "something else than the network that was trained", "--data"),
        ("fp16", True, False, True, "may not fit float16: try --ptq", "--data"),
        ("fp32", False, False, True, "an error of edgelung", "--data"),
    ],
)
def test_the_way_out_of_a_missed_limit_is_one_that_can_help(
    precision, npu, trained, trainable, says, never, has_data, against
):
    ways = find_ways_out(precision, npu=npu, trained=trained, trainable=trainable, has_data=has_data)
    hint = ways[against]
    if against == TRUTH:  # the network itself, whatever was made of it
        says, never = "train it longer (--preset, --epochs)", "--ptq"
    assert says in hint and never not in hint
    assert not (has_data and "--data" in hint)
    row = replace(measured(originals(), "int8")[0], against=against, value=1.0, limit=0.5)
    with pytest.raises(VerificationError) as caught:
        require_fidelity([row], "onnxruntime int8", ways)
    assert caught.value.hint == f"{hint}; --keep-failing writes the bundle all the same, marked"
    assert caught.value.metric.startswith("onnxruntime int8: ")
