"""The loss is the published formula, and its weight is of recall alone."""

import pytest
import torch

from edgelung.converters.training import PixelCounts, SegmentationLoss, segmentation_loss


def dice(found, wanted):
    return 1 - (2 * (found * wanted).sum() + 1) / (found.sum() + wanted.sum() + 1)


@pytest.fixture
def mask():
    mask = torch.zeros(2, 1, 16, 16)
    mask[0, 0, 2:8, 2:8] = 1
    return mask


@pytest.mark.parametrize("weight", [0.0, 1.0, 8.0])
def test_it_is_the_published_formula(mask, weight):
    found = torch.rand(mask.shape, generator=torch.Generator().manual_seed(0))
    expected = dice(found, mask) + weight * dice(found * mask, mask)
    assert segmentation_loss(found, mask, weight).item() == pytest.approx(expected.item(), rel=1e-5)
    assert segmentation_loss(found.roll(3, -1), mask, weight).item() != pytest.approx(expected.item(), rel=1e-3)


def test_the_recall_weight_punishes_missed_pixels_only(mask):
    missed, invented = mask * 0.3, mask + 0.3 * (1 - mask)
    assert segmentation_loss(missed, mask, 8.0) > 4 * segmentation_loss(missed, mask, 1.0)
    assert segmentation_loss(invented, mask, 8.0).item() == pytest.approx(segmentation_loss(invented, mask, 1.0).item())


def test_cross_entropy_joins_when_asked(mask):
    found = (mask * 0.6 + 0.2).clamp(0, 1)
    plain, joined = (SegmentationLoss(2.0, weight)(lambda inputs: inputs, (found, mask)) for weight in (0.0, 3.0))
    entropy = -(mask * found.log() + (1 - mask) * (1 - found).log()).mean()
    assert (joined - plain).item() == pytest.approx(3 * entropy.item(), rel=1e-4)
    assert plain.item() == pytest.approx(segmentation_loss(found, mask, 2.0).item())


def test_a_perfect_answer_costs_nothing(mask):
    assert segmentation_loss(mask, mask).item() == pytest.approx(0, abs=1e-6)


def test_half_precision_does_not_overflow():
    wide = torch.ones(1, 1, 512, 512, dtype=torch.float16)  # 262,144 ones are infinite in float16
    loss = SegmentationLoss()(lambda inputs: inputs, (wide, wide.float()))
    assert loss.item() == pytest.approx(0, abs=1e-3)


def test_pixels_are_counted():
    mask = torch.tensor([[True, True, True, True, False, False, False, False]])
    marked = torch.tensor([[True, True, True, False, True, True, False, False]])
    counts = PixelCounts.of(marked, mask)
    assert counts == PixelCounts(hit=3, missed=1, invented=2)
    assert (counts.recall, counts.precision, counts.f1) == (0.75, 0.6, pytest.approx(6 / 9))
    assert counts.percentages() == {"tp": 75.0, "fn": 25.0, "fp": 50.0}
    assert counts + counts == PixelCounts(6, 2, 4)
    nothing = PixelCounts()
    assert (nothing.recall, nothing.precision, nothing.f1) == (0, 0, 0)
