"""The phantom: determinism, geometry, tissues, and what it honours or refuses."""

import numpy as np
import pytest
from phantom_checks import centroid_error_voxels, own_voxels, sphere_mm3

from edgelung.calibration import make_phantom
from edgelung.errors import InputError

SLAB = {"shape": (24, 160, 160), "spacing_mm": (1.5, 2.2, 2.2)}
WHOLE = {"shape": (62, 80, 80), "spacing_mm": (4.0, 4.5, 4.5)}


@pytest.fixture(scope="module")
def slab():
    return make_phantom(3, **SLAB, nodules=5)


@pytest.fixture(scope="module")
def whole():
    return make_phantom(8, **WHOLE)


def lps_grid(volume):
    return np.moveaxis(volume.index_to_lps_mm(np.moveaxis(np.indices(volume.shape), 0, -1)), -1, 0)


def test_equal_seeds_give_equal_phantoms_and_others_do_not(slab):
    again, other = make_phantom(3, **SLAB, nodules=5), make_phantom(4, **SLAB, nodules=5)
    assert np.array_equal(again.volume.hu, slab.volume.hu)
    assert np.array_equal(again.mask, slab.mask)
    assert again.nodules == slab.nodules
    assert not np.array_equal(other.volume.hu, slab.volume.hu)
    assert other.nodules != slab.nodules


def test_a_thinner_shape_is_a_slab_of_the_same_chest(slab):
    thin = make_phantom(3, shape=(8, 160, 160), spacing_mm=SLAB["spacing_mm"], nodules=0)
    middle = slice(8, 16)
    outside = ~slab.mask[middle]
    assert np.array_equal(thin.lungs[outside], slab.lungs[middle][outside])
    assert not np.array_equal(thin.lungs, slab.lungs[:8])
    assert thin.volume.origin_mm[2] == pytest.approx(slab.volume.index_to_lps_mm((8, 0, 0))[2])


def test_shapes_and_dtypes(slab):
    assert slab.volume.hu.dtype == np.int16
    assert slab.mask.dtype == slab.lungs.dtype == bool
    assert slab.volume.shape == slab.mask.shape == slab.lungs.shape == SLAB["shape"]
    assert slab.volume.spacing_mm == SLAB["spacing_mm"]
    assert np.array_equal(slab.volume.to_axial().hu, slab.volume.hu)
    assert slab.volume.hu.min() >= -1024


def test_every_nodule_sits_where_it_says(slab):
    assert len(slab.nodules) == 5
    for nodule in slab.nodules:
        points = own_voxels(slab.volume, slab.mask, nodule, slab.nodules)
        assert centroid_error_voxels(slab.volume, points, nodule.center_lps_mm) < 1
        assert nodule.volume_mm3 == pytest.approx(len(points) * slab.volume.voxel_volume_mm3)
        # Coarse voxels: a nodule of 3.3 mm has three of them. Shapes themselves are within 3 % (test_nodule_shapes).
        assert 0.4 < nodule.volume_mm3 / sphere_mm3(nodule.diameter_mm) < 1.8


def test_a_centre_in_another_place_would_be_noticed(slab):
    nodule = slab.nodules[0]
    points = own_voxels(slab.volume, slab.mask, nodule, slab.nodules)
    x, y, z = nodule.center_lps_mm
    assert centroid_error_voxels(slab.volume, points, (x, y, z + 2 * SLAB["spacing_mm"][0])) > 1
    assert centroid_error_voxels(slab.volume, points, (y, x, z)) > 1


def test_nodules_can_be_seen_and_lie_in_the_lungs(slab):
    assert (slab.lungs | ~slab.mask).all()
    around = slab.lungs & ~slab.mask
    solid = [n for n in slab.nodules if n.kind == "solid" and n.diameter_mm > 6]
    assert solid
    for nodule in solid:
        index = tuple(np.rint(slab.volume.lps_mm_to_index(nodule.center_lps_mm)).astype(int))
        assert slab.volume.hu[index] > np.median(slab.volume.hu[around]) + 400


def test_tissues_have_their_hounsfield_units(whole):
    hu = whole.volume.hu.astype(float)
    x, y, z = lps_grid(whole.volume)
    inner = whole.lungs & ~whole.mask & (np.abs(z) < 60)
    assert -900 < np.median(hu[inner]) < -770
    assert np.median(hu[inner & (y > 50)]) - np.median(hu[inner & (y < -50)]) > 20  # gravity
    assert np.mean(hu[:, 0, :]) == pytest.approx(-1000, abs=25)
    chest = (np.abs(x) < 120) & (np.abs(y) < 90) & ~whole.lungs & (np.abs(z) < 60)
    assert 0 < np.median(hu[chest]) < 350
    noise = whole.acquisition.noise_hu
    assert ((hu > -104 - noise) & (hu < -104 + noise)).mean() > 0.03  # fat
    assert (hu > 300).mean() > 0.003  # bone


def test_left_is_left_and_up_is_up(whole):
    x, y, z = lps_grid(whole.volume)
    lungs, bone = whole.lungs, whole.volume.hu > 450
    assert lungs[x < 0].sum() > 1.05 * lungs[x > 0].sum()  # the heart takes room on the left
    assert np.median(y[bone & (np.abs(x) < 15)]) > 20  # spine
    apex, base = (lungs & (z > 90)).sum(), (lungs & (z < -90)).sum()
    assert apex > 0
    assert (lungs & (z < -90) & (y > 0)).sum() > 0.7 * base  # the recess behind the diaphragm's dome
    trachea = (whole.volume.hu < -800) & ~lungs & (np.abs(x) < 15) & (np.abs(y) < 30)
    assert trachea[z > 60].sum() > 0


def test_patients_differ():
    thin = {"shape": (4, 64, 64), "spacing_mm": (2.0, 6.0, 6.0)}
    made = [make_phantom(seed, **thin) for seed in range(4)]
    assert len({round(p.patient.fat_mm, 3) for p in made}) == 4
    assert len({round(p.acquisition.noise_hu, 3) for p in made}) == 4
    assert len({int(p.lungs.sum()) for p in made}) > 2


@pytest.mark.parametrize(
    ("shape", "spacing_mm"),
    [
        ((16, 64, 64), (1.25, 0.7, 0.7)),
        ((1, 64, 64), (1.25, 0.7, 0.7)),
        ((9, 64, 48), (2.5, 5.6, 5.6)),
        ((3, 1, 1), (1.0, 1.0, 1.0)),
        ((2, 40, 90), (10.0, 8.0, 4.0)),
    ],
)
def test_any_shape_works_and_no_mask_is_empty(shape, spacing_mm):
    made = make_phantom(5, shape=shape, spacing_mm=spacing_mm)
    assert made.volume.shape == shape
    for nodule in made.nodules:
        assert nodule.volume_mm3 > 0
        assert len(own_voxels(made.volume, made.mask, nodule, made.nodules))


def test_a_narrow_field_of_view_shows_lung():
    made = make_phantom(5, shape=(8, 64, 64), spacing_mm=(1.25, 0.7, 0.7), nodules=1)
    assert made.lungs.mean() > 0.8
    assert made.volume.index_to_lps_mm((0, 32, 32))[0] == pytest.approx(-72, abs=1)


def test_a_thin_slab_has_room_for_several():
    assert len(make_phantom(2, shape=(7, 128, 128), spacing_mm=(1.25, 2.8, 2.8), nodules=6).nodules) == 6
    assert make_phantom(2, shape=(7, 64, 64), spacing_mm=(1.25, 5.6, 5.6), nodules=0).mask.sum() == 0


def test_look_alikes_are_in_the_lungs_and_no_nodules(slab):
    index = np.rint(slab.volume.lps_mm_to_index(slab.look_alikes_lps_mm)).astype(int)
    assert len(index) > 30
    assert slab.lungs[tuple(index.T)].all()
    assert not slab.mask[tuple(index.T)].any()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"shape": (2, 16, 16), "spacing_mm": (1.0, 1.0, 1.0), "nodules": 50}, "of 50 nodules have room"),
        ({"shape": (0, 16, 16)}, "no volume"),
        ({"shape": (16, 16)}, "no volume"),
        ({"shape": (4, 16, 16), "spacing_mm": (1.0, 0.0, 1.0)}, "no volume"),
        ({"shape": (4, 16, 16), "spacing_mm": (1.0, float("nan"), 1.0)}, "no volume"),
    ],
)
def test_what_is_no_phantom_is_refused(arguments, reason):
    with pytest.raises(InputError, match=reason):
        make_phantom(0, **arguments)


@pytest.mark.slow
def test_a_whole_chest_at_full_resolution():
    made = make_phantom(1)
    assert made.volume.shape == (200, 512, 512)
    assert 2.5 < made.lungs.sum() * made.volume.voxel_volume_mm3 / 1e6 < 8  # litres
    for nodule in made.nodules:
        points = own_voxels(made.volume, made.mask, nodule, made.nodules)
        assert centroid_error_voxels(made.volume, points, nodule.center_lps_mm) < 0.5
        assert nodule.volume_mm3 == pytest.approx(sphere_mm3(nodule.diameter_mm), rel=0.2)
