"""Crops belong to their masks, and training learns."""

from itertools import islice

import numpy as np
import pytest
import torch
from bundle_builders import network_input

from edgelung.converters.datasets import CropSampler, LabelledScan
from edgelung.converters.training import segmentation_loss, train_segmentation
from edgelung.errors import ConversionError, InputError


def scan(seed=0, shape=(12, 96, 80)):
    """Noise with bright blocks; every voxel above 500 HU is nodule, and no other."""
    random = np.random.default_rng(seed)
    hu = random.integers(-1000, 0, size=shape).astype(np.int16)
    for depth, row, column in random.integers((2, 10, 10), (8, 80, 64), size=(6, 3)):
        hu[depth : depth + 3, row : row + 8, column : column + 8] = 800
    mask = hu > 500
    return LabelledScan(hu, mask, np.argwhere(mask), np.argwhere(~mask)[::50])


@pytest.mark.parametrize("slices", [(1, 1, 1), (3, 1, 3), (1, 3, 1)])
def test_every_crop_is_aligned_with_its_mask(slices):
    spec = network_input(slices)
    inputs, masks = next(iter(CropSampler([scan()], spec, crop=32, batch=64)))
    assert inputs.shape == (64, spec.packing.slices, 32, 32)
    assert masks.shape == (64, spec.packing.outputs, 32, 32)
    answered = inputs[:, spec.packing.before : spec.packing.before + spec.packing.outputs]
    bright = answered > 500 * spec.intensity.scale + spec.intensity.offset
    assert torch.equal(bright, masks.bool())
    assert not torch.equal(bright.flip(-1), masks.bool())


def test_positives_come_in_the_given_share():
    sampler = CropSampler([scan()], network_input(), crop=16, batch=400, positives=0.5)
    _, masks = next(iter(sampler))
    holds_nodule = masks.flatten(1).any(1).float().mean()
    assert 0.4 < holds_nodule < 0.75  # some negative crops graze a nodule


def test_equal_seeds_give_equal_batches():
    def batches(seed):
        return list(islice(CropSampler([scan()], network_input(), crop=16, batch=4, seed=seed), 3))

    assert all(torch.equal(a, c) for (a, _), (c, _) in zip(batches(1), batches(1), strict=True))
    assert not torch.equal(batches(1)[0][0], batches(2)[0][0])


def test_scans_without_nodules_are_refused():
    empty = scan()
    empty = LabelledScan(empty.hu, np.zeros_like(empty.mask), np.empty((0, 3), int), empty.negatives)
    with pytest.raises(InputError, match="no scan holds a nodule"):
        CropSampler([empty], network_input())


class Threshold(torch.nn.Module):
    """One learnable threshold on the middle slice."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.1))
        self.bias = torch.nn.Parameter(torch.tensor(0.0))

    def forward(self, x):
        return torch.sigmoid(x[:, 1:2] * self.scale + self.bias)


def test_training_learns_and_leaves_the_network_ready():
    model = Threshold()
    seen = []
    sampler = CropSampler([scan()], network_input(), crop=32, batch=16)
    losses = train_segmentation(
        model, sampler, steps=60, learning_rate=0.3, progress=lambda done, total, loss: seen.append((done, total))
    )
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.3 * np.mean(losses[:5])
    assert not model.training
    assert seen[-1] == (60, 60)


def test_an_output_that_is_no_number_stops_the_training():
    model = Threshold()
    model.bias.data.fill_(float("nan"))
    with pytest.raises(ConversionError, match="no numbers at step 1"):
        train_segmentation(model, CropSampler([scan()], network_input(), crop=16, batch=2), steps=3)


def test_the_recall_weight_punishes_missed_pixels_only():
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, 0, 2:4, 2:4] = 1
    missed, invented = mask * 0.1 + 0.01, mask * 0.9 + 0.09
    assert segmentation_loss(missed, mask, 4.0) > 1.5 * segmentation_loss(missed, mask, 1.0)
    assert torch.isclose(
        segmentation_loss(invented, mask, 4.0), segmentation_loss(invented, mask, 1.0), rtol=0.05, atol=0
    )
