"""Kernel, noise and thin tubes: what makes the phantom look scanned."""

import numpy as np
import pytest

from edgelung.calibration.acquisition import Acquisition, Scanner, draw_acquisition
from edgelung.calibration.appearance import measure_appearance
from edgelung.calibration.lattice import Grid
from edgelung.calibration.trees import Polyline
from edgelung.calibration.tubes import paint_tubes

SOFT, SHARP = Acquisition(0.65, 0.05, 20.0, 0.3), Acquisition(0.40, 0.5, 20.0, 0.3)
PLANE = (96, 130)


def scan(acquisition, ideal, seed=0, slices=1):
    scanner, rng = Scanner(acquisition, PLANE, (0.7, 0.7)), np.random.default_rng(seed)
    return np.stack([scanner.scan(ideal, rng) for _ in range(slices)])


def edge():
    ideal = np.full(PLANE, -850.0, dtype=np.float32)
    ideal[:, 65:] = 50.0
    return ideal


@pytest.mark.parametrize("acquisition", [SOFT, SHARP])
def test_noise_has_the_stated_strength_in_the_middle_and_keeps_the_mean(acquisition):
    seen = scan(acquisition, np.full(PLANE, -300.0, dtype=np.float32), slices=24)
    middle = seen[:, 40:56, 55:75]
    assert middle.std() == pytest.approx(20.0, rel=0.15)
    assert seen.mean() == pytest.approx(-300.0, abs=2.0)
    assert seen[:, :8].std() < 0.95 * middle.std()  # the rim is quieter


def test_the_noise_of_neighbouring_slices_is_correlated_as_stated():
    seen = scan(SOFT, np.zeros(PLANE, dtype=np.float32), slices=30)
    pairs = np.corrcoef(seen[:-1].ravel(), seen[1:].ravel())[0, 1]
    assert pairs == pytest.approx(0.3 * np.sqrt(1 - 0.3**2), abs=0.06)
    apart = np.corrcoef(seen[:-3].ravel(), seen[3:].ravel())[0, 1]
    assert abs(apart) < 0.06


def test_sharp_kernels_have_finer_noise_and_steeper_edges():
    quiet = [Acquisition(a.blur_mm, a.sharpening, 1e-3, 0.0) for a in (SOFT, SHARP)]
    slopes = [np.abs(np.diff(scan(a, edge())[0][48])).max() for a in quiet]
    assert slopes[1] > 1.2 * slopes[0]
    flat = np.zeros(PLANE, dtype=np.float32)
    steps = [np.diff(scan(a, flat)[0], axis=1).std() for a in (SOFT, SHARP)]
    assert steps[1] > 1.2 * steps[0]
    sharp_edge = scan(quiet[1], edge())[0][48]
    assert sharp_edge.max() > 60  # overshoots


def test_borders_do_not_wrap_around():
    seen = scan(Acquisition(0.7, 0.0, 1e-3, 0.0), edge())[0]
    assert seen[:, 0] == pytest.approx(-850, abs=1)
    assert seen[:, -1] == pytest.approx(50, abs=1)


def test_drawn_acquisitions_are_realistic():
    drawn = [draw_acquisition(np.random.default_rng(seed)) for seed in range(200)]
    assert all(10 <= a.noise_hu <= 60 for a in drawn)
    assert {a.sharpening > 0.2 for a in drawn} == {True, False}


def test_measured_noise_and_sharpness_are_those_that_went_in():
    lungs = np.zeros((8, *PLANE), dtype=bool)
    lungs[:, 10:86, 10:65] = True
    # Oblique, as a chest wall is: every offset of the edge from the pixels occurs.
    rows, columns = np.indices(PLANE)
    ideal = (-850 + 900 * np.clip(columns - 62.5 - 0.13 * (rows - 48), 0, 1)).astype(np.float32)
    found = {}
    for acquisition in (Acquisition(0.45, 0.0, 30.0, 0.0), Acquisition(0.8, 0.0, 15.0, 0.0)):
        hu = scan(acquisition, ideal, slices=8)
        found[acquisition] = measure_appearance(hu, lungs, (1.0, 0.7, 0.7))
        noise = hu[:, 15:80, 15:55].std()
        total = np.hypot(found[acquisition].fine_noise_hu, found[acquisition].coarse_noise_hu)
        assert total == pytest.approx(noise, rel=0.2)
        assert found[acquisition].blur_mm == pytest.approx(acquisition.blur_mm, rel=0.3)
    first, second = found.values()
    assert first.blur_mm < second.blur_mm
    assert first.fine_noise_hu > second.fine_noise_hu


@pytest.mark.parametrize("radius_mm", [0.2, 0.4, 0.8, 1.5, 4.0])
def test_a_painted_tube_holds_its_volume(radius_mm):
    grid = Grid(np.arange(0, 40, 1.25), np.arange(0, 40, 0.7), np.arange(0, 40, 0.7), (1.25, 0.7, 0.7))
    start, end = np.array([12.0, 14.0, 10.0]), np.array([27.0, 24.0, 28.0])
    length = float(np.linalg.norm(end - start))
    step = 0.35
    along = np.arange(step / 2, length, step)[:, None] / length
    count = len(along)
    line = Polyline(start + along * (end - start), np.full(count, radius_mm), np.full(count, step))
    painted = paint_tubes(line, grid)
    volume = painted.sum() * np.prod(grid.spacing_mm)
    ends = 4 / 3 * np.pi * radius_mm**3 if radius_mm > 1 else 0.0  # balls at both ends of thick tubes
    expected = np.pi * radius_mm**2 * length + ends
    assert volume == pytest.approx(expected, rel=0.08)
    assert volume != pytest.approx(1.2 * expected, rel=0.08)
    middle = np.rint(((start + end) / 2)[::-1] / grid.spacing_mm).astype(int)
    assert painted[tuple(middle)] > 0
    assert painted[2, 2, 2] == 0
