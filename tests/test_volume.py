"""Geometry of CtVolume: the equation, its inverse, and the axial view."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgelung.volume import CtVolume

finite = st.floats(-500, 500, allow_nan=False)


def make(hu=None, spacing_mm=(2.5, 0.7, 0.6), origin_mm=(-120.0, -90.0, -300.0), direction=None):
    """A small volume: depth to superior, height to posterior, width to the left, unless told otherwise."""
    axial = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], dtype=float)
    hu = np.arange(24, dtype=np.int16).reshape(2, 3, 4) if hu is None else hu
    return CtVolume(hu, spacing_mm, origin_mm, axial if direction is None else direction)


def rotations():
    """Random rotation matrices, as the orthonormal factor of random matrices."""
    matrices = hnp.arrays(np.float64, (3, 3), elements=st.floats(-1, 1))
    return matrices.filter(lambda m: abs(np.linalg.det(m)) > 0.05).map(lambda m: np.linalg.qr(m)[0])


def test_the_equation_by_hand():
    volume = make()
    assert volume.index_to_lps_mm((1, 2, 3)) == pytest.approx((-120 + 3 * 0.6, -90 + 2 * 0.7, -300 + 2.5))


@given(direction=rotations(), index=hnp.arrays(np.float64, (5, 3), elements=finite))
def test_index_and_millimetres_are_inverse(direction, index):
    volume = make(direction=direction)
    np.testing.assert_allclose(volume.lps_mm_to_index(volume.index_to_lps_mm(index)), index, atol=1e-9)


def test_swapping_axes_would_be_noticed():
    volume = make()
    there = volume.index_to_lps_mm((1, 2, 3))
    assert not np.allclose(volume.lps_mm_to_index(there[::-1]), (1, 2, 3))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
def test_axial_view_keeps_every_voxel_at_its_place(order, signs):
    direction = np.eye(3)[:, list(order)] * np.array(signs, dtype=float)
    volume = make(direction=direction)
    axial = volume.to_axial()
    assert np.array_equal(axial.direction, np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]]))
    for index in np.ndindex(axial.shape):
        original = tuple(np.rint(volume.lps_mm_to_index(axial.index_to_lps_mm(index))).astype(int))
        assert axial.hu[index] == volume.hu[original]


@given(direction=rotations())
def test_obliquity_of_a_tilt_is_its_angle(direction):
    assert 0 <= make(direction=direction).obliquity_degrees() <= 54.7357
    angle = np.radians(12.0)
    tilt = np.array([[0, 0, 1], [-np.sin(angle), np.cos(angle), 0], [np.cos(angle), np.sin(angle), 0]])
    assert make(direction=tilt).obliquity_degrees() == pytest.approx(12.0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hu": np.zeros((4, 4))}, "depth, height, width"),
        ({"hu": np.zeros((0, 4, 4))}, "at least 1"),
        ({"hu": np.zeros((2, 2, 2), dtype=complex)}, "integers or floats"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, "positive"),
        ({"spacing_mm": (1.0, float("nan"), 1.0)}, "finite"),
        ({"origin_mm": (1.0, 2.0)}, "three finite"),
        ({"direction": np.ones((3, 3))}, "orthonormal"),
        ({"direction": np.full((3, 3), np.nan)}, "finite"),
    ],
)
def test_what_is_no_volume_is_refused(change, reason):
    with pytest.raises(ValueError, match=reason):
        make(**change)
