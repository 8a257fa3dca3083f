"""Whole slices are those of the scan, prepared as the board does."""

import numpy as np
import pytest
from bundle_builders import network_input
from datasets.scans import bright_scan

from edgelung.converters.datasets import LabelledScan, WholeSlices
from edgelung.errors import InputError


@pytest.mark.parametrize("slices", [(1, 1, 1), (3, 1, 3), (1, 3, 1)])
def test_every_slice_with_a_nodule_is_there_and_lies_under_its_mask(slices):
    scan = bright_scan(shape=(40, 96, 80))
    spec = network_input(slices)
    slices = WholeSlices([scan], spec)
    samples = [slices[number] for number in range(len(slices))]
    assert sum(int(sample.mask.sum()) for sample in samples) == scan.mask.sum()
    before, outputs = spec.packing.before, spec.packing.outputs
    for sample in samples:
        answered = sample.values[:, before : before + outputs]
        bright = answered > 500 * spec.intensity.scale + spec.intensity.offset
        assert np.array_equal(bright, sample.mask)
        assert sample.exact is None
    empty = sum(not sample.mask.any() for sample in samples)
    assert 0 < empty < len(scan.hu) / outputs / 4


def test_exact_masks_come_along():
    scan = bright_scan()
    scan = LabelledScan(scan.hu, scan.mask, scan.positives, scan.negatives, np.roll(scan.mask, 1, axis=2))
    sample = WholeSlices([scan], network_input())[0]
    assert np.array_equal(sample.exact, np.roll(sample.mask, 1, axis=3))


def test_what_cannot_be_validated_is_refused():
    scan = bright_scan(shape=(12, 90, 80))
    with pytest.raises(InputError, match="90x80 are no multiple"):
        WholeSlices([scan], network_input())
    empty = LabelledScan(np.zeros((4, 8, 8)), np.zeros((4, 8, 8), bool), np.empty((0, 3), int), np.zeros((1, 3), int))
    with pytest.raises(InputError, match="no validation scan holds a nodule"):
        WholeSlices([empty], network_input())
