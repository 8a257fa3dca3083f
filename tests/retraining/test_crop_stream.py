"""What a retrained network is shown: crops of the scenes, mirrored and reversed, by nodule."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from edgelung.converters.retraining import Scene
from edgelung.converters.retraining.crops import CropStream
from edgelung.converters.tasks import nodule_segmentation_spec

SPEC = nodule_segmentation_spec(96, 96).input
DEPTH, PLANE = 16, (96, 96)


def marked_scene():
    """Every voxel's HU says where it is; a large and a small nodule."""
    z, y, x = np.indices((DEPTH, *PLANE))
    hu = (-900 + 100 * z + y / 2 + x / 256).astype(np.float32)
    mask = np.zeros(hu.shape, bool)
    mask[5:9, 10:40, 10:40] = True
    mask[7, 70:73, 70:73] = True
    return Scene(hu, mask, mask.copy(), np.arange(3, DEPTH - 4), np.array([[0, 48, 48]]))


def crops(scene, seed=0, crop=(32, 32), batch=4, count=40):
    stream = CropStream([scene], SPEC, crop=crop, batch=batch, seed=seed)
    for inputs, mask, known in islice(stream, count):
        yield from zip(inputs.numpy(), mask.numpy(), known.numpy(), strict=True)


def test_a_batch_has_inputs_masks_and_what_is_known():
    inputs, mask, known = next(iter(CropStream([marked_scene()], SPEC, crop=(32, 48), batch=3, seed=0)))
    assert inputs.shape == (3, 7, 32, 48) and mask.shape == known.shape == (3, 1, 32, 48)
    assert {tensor.dtype for tensor in (inputs, mask, known)} == {torch.float32}


def test_every_crop_is_a_window_of_the_scene_or_its_mirror_image():
    scene, seen = marked_scene(), set()
    for inputs, mask, known in crops(scene):
        mirrored, reversed_ = bool(inputs[0, 0, 0] > inputs[0, 0, 1]), bool(inputs[0, 0, 0] > inputs[1, 0, 0])
        seen.add((mirrored, reversed_))
        columns = slice(None, None, -1 if mirrored else None)
        own = inputs[:: -1 if reversed_ else 1, :, columns]
        z, y, x = np.argwhere(scene.hu == own[0, 0, 0])[0]
        window = (..., slice(y, y + 32), slice(x, x + 32))
        np.testing.assert_array_equal(own, scene.hu[z : z + 7][window])
        np.testing.assert_array_equal(mask[0, :, columns] > 0, scene.mask[z + 3][window])
        np.testing.assert_array_equal(known, mask)
    assert len(seen) == 4


def test_choices_are_seeded():
    one, same, other = (list(crops(marked_scene(), seed, count=2)) for seed in (1, 1, 2))
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(one, same, strict=True))
    assert not all(np.array_equal(a[0], b[0]) for a, b in zip(one, other, strict=True))


def test_a_small_nodule_is_shown_as_often_as_a_large_one():
    """It has 9 of 3609 pixels; drawn by pixels it would be in some 1 of 400 crops."""
    small = sum(0 < mask.sum() <= 9 for _, mask, _ in crops(marked_scene(), count=100))
    assert 30 < small < 140


def test_slices_of_lopsided_context_keep_their_order():
    packing = replace(SPEC.packing, before=2, after=4)
    spec = replace(SPEC, packing=packing)
    stream = CropStream([marked_scene()], spec, crop=(32, 32), batch=4, seed=0)
    for inputs, _, _ in islice(stream, 20):
        assert bool((inputs[:, 1:, 0, 0] > inputs[:, :-1, 0, 0]).all())


@pytest.mark.parametrize("empty", ["nodules", "marks"])
def test_scenes_without_nodules_or_marks_are_cropped_anywhere(empty):
    scene = marked_scene()
    nothing = np.zeros_like(scene.mask)
    bare = Scene(
        scene.hu, nothing, nothing, scene.firsts, scene.marked if empty == "nodules" else np.empty((0, 3), int)
    )
    assert sum(1 for _ in crops(bare, count=3)) == 12
