"""Crops belong to their masks, and depend on nothing but their number."""

from itertools import islice

import numpy as np
import pytest
import torch
from bundle_builders import network_input
from datasets.scans import bright_scan

from edgelung.converters.datasets import Crops, LabelledScan, crop_batches
from edgelung.converters.datasets.augmentation import View, draw_view, window_size
from edgelung.errors import InputError


def view(matrix=((1, 0), (0, 1)), reverse=False):
    return View(np.array(matrix, dtype=np.float32), (0, 0), reverse, 0.0)


def middle(window, size):
    start = (window.shape[-1] - size) // 2
    return window[:, start : start + size, start : start + size]


@pytest.fixture(scope="module")
def window():
    size = window_size(16)
    return np.random.default_rng(0).normal(size=(3, size, size)).astype(np.float32)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (((1, 0), (0, 1)), lambda part: part),
        (((-1, 0), (0, 1)), lambda part: part[:, :, ::-1]),
        (((1, 0), (0, -1)), lambda part: part[:, ::-1]),
        (((0, 1), (1, 0)), lambda part: part.transpose(0, 2, 1)),
    ],
)
def test_views_along_the_axes_are_exact(window, matrix, expected):
    seen = view(matrix).resample(window, 16)
    assert np.allclose(seen, expected(middle(window, 16)), atol=1e-4)
    assert not np.allclose(seen, np.roll(expected(middle(window, 16)), 1, axis=1), atol=0.1)


def test_a_scaled_view_sees_so_much_more(window):
    rising = np.broadcast_to(np.arange(window.shape[-1], dtype=np.float32), window.shape)
    seen = view(((1.2, 0), (0, 1.2))).resample(rising.copy(), 16)
    assert np.allclose(np.diff(seen, axis=2), 1.2, atol=1e-3)
    assert np.allclose(np.diff(seen, axis=1), 0.0, atol=1e-3)


def test_a_reversed_stack_begins_at_its_end(window):
    assert np.array_equal(view(reverse=True).resample(window, 16), view().resample(window, 16)[::-1])


def test_no_view_reaches_beyond_its_window():
    ones = np.ones((1, window_size(20), window_size(20)), dtype=np.float32)
    random = np.random.default_rng(0)
    for _ in range(200):
        seen = draw_view(random, 5, may_reverse=True).resample(ones, 20)
        assert np.allclose(seen, 1, atol=1e-4)  # beyond the window there are zeros


def test_a_stack_with_uneven_context_is_never_reversed():
    random = np.random.default_rng(0)
    assert not any(draw_view(random, 5, may_reverse=False).reverse for _ in range(50))
    assert any(draw_view(random, 5, may_reverse=True).reverse for _ in range(50))


@pytest.mark.parametrize("slices", [(1, 1, 1), (3, 1, 3), (1, 3, 1), (2, 1, 0)])
def test_every_crop_is_aligned_with_its_mask(slices):
    spec = network_input(slices)
    crops = Crops([bright_scan()], spec, crop=48, inner=32)
    inputs, masks = next(crop_batches(crops, 48))
    assert inputs.shape == (48, spec.packing.slices, 32, 32)
    assert masks.shape == (48, spec.packing.outputs, 32, 32)
    answered = inputs[:, spec.packing.before : spec.packing.before + spec.packing.outputs]
    bright = answered > 200 * spec.intensity.scale + spec.intensity.offset  # edges are interpolated, noise is added
    overlap = 2 * (bright & masks.bool()).sum() / (bright.sum() + masks.sum())
    shifted = 2 * (bright.roll(4, -1) & masks.bool()).sum() / (bright.sum() + masks.sum())
    assert overlap > 0.93
    assert shifted < 0.7


def test_positives_come_in_the_given_share():
    for share, low, high in ((1.0, 0.99, 1.0), (0.5, 0.45, 0.8), (0.05, 0.0, 0.45)):  # some negatives graze a nodule
        crops = Crops([bright_scan()], network_input(), crop=16, inner=12, positives=share)
        holds_nodule = torch.stack([crops[number][1].any() for number in range(200)]).float().mean()
        assert low <= holds_nodule <= high


def test_a_crop_follows_from_seed_and_number_alone():
    def crops(seed):
        return Crops([bright_scan()], network_input(), crop=24, inner=16, seed=seed)

    assert torch.equal(crops(1)[7][0], crops(1)[7][0])
    assert not torch.equal(crops(1)[7][0], crops(1)[8][0])
    assert not torch.equal(crops(1)[7][0], crops(2)[7][0])


def test_processes_share_a_batch_and_a_later_start_goes_on_with_the_same():
    crops = Crops([bright_scan()], network_input(), crop=24, inner=16)
    whole = list(islice(crop_batches(crops, 6), 4))
    parts = [list(islice(crop_batches(crops, 6, rank=rank, ranks=2), 4)) for rank in range(2)]
    for (inputs, _), (even, _), (odd, _) in zip(whole, *parts, strict=True):
        assert torch.equal(inputs[0::2], even)
        assert torch.equal(inputs[1::2], odd)
    assert torch.equal(next(crop_batches(crops, 6, first=3))[0], whole[3][0])


def test_extra_processes_prepare_the_same_crops():
    crops = Crops([bright_scan()], network_input(), crop=24, inner=16)
    for here, there in zip(islice(crop_batches(crops, 4), 3), crop_batches(crops, 4, workers=1), strict=False):
        assert torch.equal(here[0], there[0])


def test_what_cannot_be_cropped_is_refused():
    scan = bright_scan()
    empty = LabelledScan(scan.hu, np.zeros_like(scan.mask), np.empty((0, 3), int), scan.negatives)
    with pytest.raises(InputError, match="no scan holds a nodule"):
        Crops([empty], network_input())
    with pytest.raises(InputError, match="do not lie within"):
        Crops([scan], network_input(), crop=32, inner=64)
    Crops([empty, scan], network_input(), positives=1.0)[0]  # those without are passed over
