"""Shapes of nodules against the spheres they stand for."""

import numpy as np
import pytest
from phantom_checks import sphere_mm3

from edgelung.calibration.lattice import Grid
from edgelung.calibration.nodules import KINDS, Nodule, NoduleShape, draw_diameter_mm, draw_kind


def fine_grid(size_mm=40.0, step_mm=0.4):
    axis = np.arange(-size_mm / 2, size_mm / 2, step_mm)
    return Grid(axis, axis, axis, (step_mm, step_mm, step_mm))


def shape(seed, diameter_mm=9.0, kind="solid", place="free", center=(1.3, -2.1, 0.4), normal=None):
    return NoduleShape(Nodule(center, diameter_mm, kind, place), np.random.default_rng(seed), normal)


def measured(patch, grid):
    """Volume in mm3 and centroid (x, y, z) of a mask."""
    index = np.argwhere(patch.mask) + [part.start for part in patch.where]
    centre = [axis[0] + grid.spacing_mm[0] * i for axis, i in zip((grid.z_mm,) * 3, index.mean(axis=0), strict=True)]
    return patch.mask.sum() * np.prod(grid.spacing_mm), np.array(centre[::-1])


@pytest.mark.parametrize("seed", range(12))
def test_volume_and_centroid_are_those_of_the_sphere(seed):
    grid = fine_grid()
    nodule = shape(seed, diameter_mm=6.0 + seed)
    volume, centre = measured(nodule.patch(grid), grid)
    assert volume == pytest.approx(sphere_mm3(6.0 + seed), rel=0.03)
    np.testing.assert_allclose(centre, nodule.nodule.center_lps_mm, atol=0.2)


def test_a_wrong_diameter_or_centre_would_be_noticed():
    grid = fine_grid()
    volume, centre = measured(shape(1, diameter_mm=9.0).patch(grid), grid)
    assert volume != pytest.approx(sphere_mm3(9.3), rel=0.03)
    assert not np.allclose(centre, (-2.1, 1.3, 0.4), atol=0.2)


def test_partial_volume_agrees_with_the_exact_mask():
    grid = fine_grid(step_mm=0.8)
    patch = shape(2).patch(grid)
    assert patch.share.min() >= 0
    assert patch.share.max() <= 1
    assert patch.share.sum() == pytest.approx(patch.mask.sum(), rel=0.05)
    assert ((patch.share > 0.5) == patch.mask).mean() > 0.98
    assert ((patch.share > 0.05) & (patch.share < 0.95)).any()


def test_thick_slices_blur_along_their_axis_only():
    thick = Grid(np.arange(-20.0, 20, 4), fine_grid().y_mm, fine_grid().x_mm, (4.0, 0.4, 0.4))
    patch = shape(2, diameter_mm=6.0).patch(thick)
    assert patch.share.sum() * 0.64 == pytest.approx(sphere_mm3(6.0), rel=0.08)


def test_shapes_are_irregular_and_differ():
    grid = fine_grid()
    patches = [shape(seed).patch(grid) for seed in (1, 2)]
    full = np.zeros((2, *grid.shape), dtype=bool)
    for row, patch in enumerate(patches):
        full[row][patch.where] = patch.mask
    x, y, z = np.meshgrid(*([grid.x_mm] * 3), indexing="ij")
    ball = (x - 0.4) ** 2 + (y + 2.1) ** 2 + (z - 1.3) ** 2 < 4.5**2
    assert 0.02 < (full[0] ^ full[1]).sum() / full[0].sum() < 0.6
    assert (full[0] ^ ball).sum() / ball.sum() > 0.03


@pytest.mark.parametrize("seed", range(5))
def test_kinds_have_their_densities(seed):
    grid = fine_grid()
    hu = {kind: (patch := shape(seed, 12.0, kind).patch(grid)).hu[patch.mask] for kind in KINDS}
    assert -50 - 45 < hu["solid"].mean() < 60 + 45
    assert -650 - 30 < hu["ground-glass"].mean() < -450 + 30
    assert hu["ground-glass"].max() < -300
    assert np.percentile(hu["part-solid"], 2) < -350
    assert np.percentile(hu["part-solid"], 99) > -120


def test_at_the_pleura_the_shape_is_flat_along_the_normal():
    grid = fine_grid()
    normal = np.array([0.0, 1.0, 0.0])
    for seed in range(4):
        index = np.argwhere(shape(seed, 14.0, place="juxta-pleural", normal=normal).patch(grid).mask)
        spread = index.std(axis=0)
        assert spread[1] < 0.95 * min(spread[0], spread[2])


def test_outside_the_grid_there_is_nothing():
    assert shape(0, center=(200.0, 0.0, 0.0)).patch(fine_grid()) is None


def test_diameters_and_kinds_are_drawn_within_limits():
    rng = np.random.default_rng(0)
    diameters = [draw_diameter_mm(rng, 4.0, 12.0) for _ in range(300)]
    assert min(diameters) >= 4
    assert max(diameters) <= 12
    assert draw_diameter_mm(rng, 200.0, 200.0) == 200.0
    assert {draw_kind(rng, 4.0) for _ in range(50)} == {"solid"}
    assert {draw_kind(rng, 9.0) for _ in range(200)} == set(KINDS)
