"""Insertion into a CT: only the nodules change, in any orientation, and refusals say why."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK
from phantom_checks import centroid_error_voxels, own_voxels, sphere_mm3
from scipy import ndimage

from edgelung.calibration import Nodule, insert_nodules, make_phantom, segment_lungs
from edgelung.errors import InputError
from edgelung.volume import CtVolume


@pytest.fixture(scope="module")
def host():
    return make_phantom(11, shape=(36, 180, 180), spacing_mm=(2.0, 2.0, 2.0), nodules=0)


@pytest.fixture(scope="module")
def inserted(host):
    return insert_nodules(host.volume, seed=5, count=6, diameter_mm=(4, 14))


def test_lungs_are_found(host):
    found = segment_lungs(host.volume)
    overlap = 2 * (found & host.lungs).sum() / (found.sum() + host.lungs.sum())
    assert overlap > 0.95
    assert 2 * (found & np.roll(host.lungs, 12, axis=1)).sum() / (found.sum() + host.lungs.sum()) < 0.95


def test_only_the_neighbourhood_of_nodules_changes(host, inserted):
    before, after = host.volume.hu, inserted.volume.hu
    assert after.dtype == before.dtype
    assert inserted.volume.spacing_mm == host.volume.spacing_mm
    near = ndimage.distance_transform_edt(~inserted.mask) < 4
    assert np.array_equal(before[~near], after[~near])
    assert (before[inserted.mask] != after[inserted.mask]).mean() > 0.5
    assert np.shares_memory(before, after) is False


def test_inserted_nodules_sit_where_they_say(host, inserted):
    assert len(inserted.nodules) == 6
    for nodule in inserted.nodules:
        assert 4 <= nodule.diameter_mm <= 14
        points = own_voxels(host.volume, inserted.mask, nodule, list(inserted.nodules))
        assert centroid_error_voxels(host.volume, points, nodule.center_lps_mm) < 1
        assert 0.5 < nodule.volume_mm3 / sphere_mm3(nodule.diameter_mm) < 1.6
        assert nodule.volume_mm3 == pytest.approx(len(points) * host.volume.voxel_volume_mm3)


def test_inserted_nodules_are_dense_and_noisy(host, inserted):
    change = inserted.volume.hu.astype(float) - host.volume.hu
    for nodule in inserted.nodules:
        index = tuple(np.rint(host.volume.lps_mm_to_index(nodule.center_lps_mm)).astype(int))
        assert change[index] > (500 if nodule.kind == "solid" else 80)


def test_equal_seeds_give_equal_insertions(host, inserted):
    again = insert_nodules(host.volume, seed=5, count=6, diameter_mm=(4, 14))
    assert np.array_equal(again.volume.hu, inserted.volume.hu)
    assert again.nodules == inserted.nodules
    other = insert_nodules(host.volume, seed=6, count=6, diameter_mm=(4, 14))
    assert not np.array_equal(other.mask, inserted.mask)


@pytest.mark.parametrize(("order", "flips"), [((0, 1, 2), (1, 0, 0)), ((2, 0, 1), (0, 1, 0)), ((1, 2, 0), (1, 1, 1))])
def test_orientation_of_the_input_does_not_matter(host, inserted, order, flips):
    volume = host.volume
    hu = volume.hu.transpose(order)
    direction, corner = volume.direction[:, order].copy(), np.zeros(3)
    for axis, flip in enumerate(flips):
        if flip:
            hu = np.flip(hu, axis)
            direction[:, axis] *= -1
            corner[order[axis]] = volume.shape[order[axis]] - 1
    turned = CtVolume(hu, volume.spacing_mm, tuple(volume.index_to_lps_mm(corner)), direction)
    result = insert_nodules(turned, seed=5, count=6, diameter_mm=(4, 14))
    assert result.volume.shape == turned.shape
    assert np.array_equal(result.volume.to_axial().hu, inserted.volume.hu)
    mask = replace(turned, hu=result.mask.view(np.uint8)).to_axial().hu
    assert np.array_equal(mask.astype(bool), inserted.mask)
    for there, here in zip(result.nodules, inserted.nodules, strict=True):
        assert there.center_lps_mm == pytest.approx(here.center_lps_mm, abs=1e-6)


def test_places_are_what_they_say(host):
    depth_mm = ndimage.distance_transform_edt(host.lungs, host.volume.spacing_mm)
    made = [n for seed in range(6) for n in insert_nodules(host.volume, seed=seed, count=6).nodules]
    assert {n.place for n in made} == {"free", "juxta-vascular", "juxta-pleural"}
    for nodule in made:
        index = tuple(np.rint(host.volume.lps_mm_to_index(nodule.center_lps_mm)).astype(int))
        gap = depth_mm[index] - nodule.diameter_mm / 2
        if nodule.place == "juxta-pleural":
            assert -6 < gap < 3
        else:
            assert gap > -2.5


def test_given_nodules_go_where_they_are_wanted(host):
    lung = np.argwhere(ndimage.binary_erosion(host.lungs, iterations=8))
    centre = tuple(host.volume.index_to_lps_mm(lung[len(lung) // 2]))
    wanted = Nodule(centre, 10.0, "part-solid", "free")
    result = insert_nodules(host.volume, seed=1, nodules=[wanted])
    (found,) = result.nodules
    assert found.center_lps_mm == pytest.approx(centre)
    assert (found.diameter_mm, found.kind, found.place) == (10.0, "part-solid", "free")
    assert found.volume_mm3 == pytest.approx(sphere_mm3(10.0), rel=0.15)


def test_other_dtypes_stay_what_they_are(host):
    for dtype in (np.float32, np.int32):
        volume = replace(host.volume, hu=host.volume.hu.astype(dtype))
        assert insert_nodules(volume, seed=1, count=1, lungs=host.lungs).volume.hu.dtype == dtype


def test_a_read_only_volume_is_fine(host):
    hu = host.volume.hu.copy()
    hu.setflags(write=False)
    insert_nodules(replace(host.volume, hu=hu), seed=1, count=1, lungs=host.lungs)


def refused(host, **changes):
    arguments = {"volume": host.volume, "seed": 1, "count": 1, **changes}
    return insert_nodules(arguments.pop("volume"), **arguments)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (lambda h: {"volume": replace(h.volume, hu=np.zeros_like(h.volume.hu))}, "every voxel is 0"),
        (lambda h: {"volume": replace(h.volume, hu=(h.volume.hu + 1024).astype(np.uint16))}, "subtract 1024"),
        (
            lambda h: {"volume": replace(h.volume, hu=(h.volume.hu + 1024).astype(np.uint16)), "lungs": h.lungs},
            "none is air",
        ),
        (lambda h: {"volume": replace(h.volume, hu=np.where(h.lungs, 40, h.volume.hu).astype(np.int16))}, "no lungs"),
        (lambda h: {"lungs": np.zeros(h.volume.shape, dtype=bool)}, "empty"),
        (lambda h: {"lungs": np.ones((2, 2, 2), dtype=bool)}, "bool array of shape"),
        (lambda h: {"lungs": h.lungs, "count": 400, "diameter_mm": (25, 30)}, "of 400 nodules"),
        (lambda h: {"lungs": h.lungs, "diameter_mm": (9, 4)}, "no range"),
        (lambda h: {"lungs": h.lungs, "nodules": []}, "exclude each other"),
        (
            lambda h: {"lungs": h.lungs, "count": None, "nodules": [Nodule((0, 0, 900), 5, "solid", "free")]},
            "outside the lungs",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(host, changes, reason):
    with pytest.raises(InputError, match=reason):
        refused(host, **changes(host))


@pytest.mark.realdata
def test_nodules_in_a_real_ct(realdata):
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(realdata / "ct" / "c3n-00247")))
    image = reader.Execute()
    hu = SimpleITK.GetArrayFromImage(image).astype(np.int16)
    direction = np.array(image.GetDirection()).reshape(3, 3)[:, ::-1]
    volume = CtVolume(hu, image.GetSpacing()[::-1], image.GetOrigin(), direction)
    lungs = segment_lungs(volume)
    assert 3 < lungs.sum() * volume.voxel_volume_mm3 / 1e6 < 6  # litres
    result = insert_nodules(volume, seed=3, count=8, lungs=lungs)
    assert len(result.nodules) == 8
    assert lungs[result.mask].mean() > 0.95
    changed = result.volume.hu != hu
    near = np.zeros_like(changed)
    for nodule in result.nodules:
        index = volume.lps_mm_to_index(nodule.center_lps_mm)
        reach = (0.8 * nodule.diameter_mm + 4) / np.array(volume.spacing_mm)
        low, high = np.maximum(np.floor(index - reach), 0).astype(int), np.ceil(index + reach).astype(int) + 1
        near[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = True
        index = tuple(np.rint(index).astype(int))
        assert result.mask[index]
        assert (result.volume.hu[index].astype(int) - hu[index]) > (300 if nodule.kind == "solid" else 0)
    assert not (changed & ~near).any()
    assert changed.any()
