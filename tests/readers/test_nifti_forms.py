"""Two transforms in one NIfTI file: read where they agree, refused where readers would put voxels elsewhere."""

import itertools

import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from series_builders import assert_same, geometries, image, nifti_bytes, voxels

from edgelung.errors import InputError
from edgelung.runtime.readers import read_series
from edgelung.runtime.readers._nifti_forms import geometry
from edgelung.runtime.readers._nifti_header import parse_header

SPACING = np.array([0.6, 0.7, 2.5])
FIRST = np.array([10.0, 20.0, 30.0])  # RAS millimetres of the first voxel, in qform and sform alike
SIZE = np.array(voxels().shape[::-1])
LAST_MM = (SIZE - 1) * SPACING
CODES = tuple(itertools.product((1, 2, 3, 4, 5), (1, 2, 5)))


def srow(axes, first=FIRST, spacing=SPACING):
    return tuple(np.column_stack([np.asarray(axes, float) * spacing, first]).ravel().tolist())


def both(axes=None, first=FIRST, quatern=(0, 0, 0), sform_code=1, qform_code=1, **changes):
    """A header whose qform is upright at FIRST, or turned by a quaternion, and whose sform is what is given."""
    axes = np.eye(3) if axes is None else axes
    return {
        "sform_code": sform_code,
        "qform_code": qform_code,
        "quatern": (*quatern, *FIRST),
        "srow": srow(axes, first),
        **changes,
    }


def turned(degrees, about):
    """A rotation about one axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.roll(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]), (about + 1) % 3, axis=(0, 1))


def flipped(*axes):
    return np.diag([-1.0 if axis in axes else 1.0 for axis in range(3)])


CONTRADICTIONS = {
    "mirrored about the first voxel": (both(flipped(0)), "mirrored"),
    "mirrored about the box": (both(flipped(0), FIRST + np.array([LAST_MM[0], 0, 0])), "mirrored"),
    "front and back": (both(flipped(1)), "mirrored"),
    "head and feet": (both(flipped(2), FIRST + np.array([0, 0, LAST_MM[2]])), "mirrored"),
    "half a turn": (both(flipped(0, 1)), "turned by 180 degrees"),
    "half a turn about the box": (both(flipped(0, 1), FIRST + LAST_MM * [1, 1, 0]), "turned by 180"),
    "axes exchanged": (both(np.eye(3)[:, [1, 0, 2]]), "mirrored"),
    "a quarter turn": (both(turned(90, 2)), "turned by 90 degrees"),
    "a degree": (both(turned(1, 0)), "turned by 1 degrees"),
    "a tenth of a degree": (both(turned(0.1, 1)), "turned by 0.1 degrees"),
    "shifted by a voxel": (both(first=FIRST + np.array([0.6, 0, 0])), "shifted by 0.6 mm"),
    "shifted by a slice": (both(first=FIRST + np.array([0, 0, 2.5])), "shifted by 2.5 mm"),
    "another place": (both(first=-FIRST), "shifted by 74.8 mm"),
    "the other handedness": (both(pixdim=(-1, *SPACING, 1, 1, 1, 1)), "mirrored"),
    "a stale qform": (both(flipped(0, 1), FIRST * [-1, -1, 1], quatern=(0.5, 0.5, 0.5)), "turned by"),
}


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_forms_that_contradict_are_refused_whatever_their_codes(tmp_path, name, codes):
    changes, reason = CONTRADICTIONS[name]
    path = tmp_path / "a.nii"
    path.write_bytes(nifti_bytes(**{**changes, "sform_code": codes[0], "qform_code": codes[1]}))
    with pytest.raises(InputError, match=reason) as caught:
        read_series(path)
    assert caught.value.field == "sform_code"
    assert "set_qform(image.get_sform())" in caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("codes", CODES)
def test_forms_that_agree_are_read_whatever_their_codes(tmp_path, codes):
    path = tmp_path / "a.nii"
    path.write_bytes(nifti_bytes(**both(flipped(0, 1), quatern=(0, 0, 1), sform_code=codes[0], qform_code=codes[1])))
    assert_same(read_series(path), SimpleITK.ReadImage(str(path)))


BROKEN = {
    "a singular sform": (both(srow=(0,) * 12), "pixdim", "set_sform(None, 0)"),
    "a row of zeros": (both(srow=(0.6, 0, 0, 10, 0, 0, 0, 20, 0, 0, 2.5, 30)), "pixdim", "set_sform(None, 0)"),
    "an sform of NaN": (both(srow=(float("nan"),) * 12), "srow", "set_sform(None, 0)"),
    "an infinite offset": (both(first=FIRST * np.inf), "srow", "set_sform(None, 0)"),
    "an sform of another scale": (both(srow=srow(np.eye(3), spacing=SPACING * 1.1)), "pixdim", "set_sform(None, 0)"),
    "a sheared sform": (both([[1, 0.5, 0], [0, 0.75**0.5, 0], [0, 0, 1]]), "srow", "set_sform(None, 0)"),
    "a qform of NaN": (both(quatern=(float("nan"), 0, 0)), "quatern", "set_qform(None, 0)"),
    "a long quaternion": (both(quatern=(1, 1, 0)), "quatern", "set_qform(None, 0)"),
    "a handedness of -2": (both(pixdim=(-2, *SPACING, 1, 1, 1, 1)), "pixdim", "set_qform(None, 0)"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_form_that_is_none_is_not_replaced_by_the_other_in_silence(tmp_path, name):
    changes, field, hint = BROKEN[name]
    path = tmp_path / "a.nii"
    path.write_bytes(nifti_bytes(**changes))
    with pytest.raises(InputError) as caught:
        read_series(path)
    assert caught.value.field == field
    assert hint in caught.value.hint


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(geometry_of=geometries(), near=st.sampled_from([0.0, 1e-4, 3e-4, 1e-3, 1e-2]), about=st.integers(0, 2))
def test_every_geometry_that_simpleitk_writes_agrees_with_itself(tmp_path, geometry_of, near, about):
    spacing, origin, direction = geometry_of
    if near:  # next to half a turn the scalar part of a float32 quaternion has few digits left
        direction = flipped(0, 1) @ turned(np.degrees(near), about)
    path = tmp_path / "g.nii"
    SimpleITK.WriteImage(image(spacing=spacing, origin=origin, direction=direction), str(path))
    assert_same(read_series(path), SimpleITK.ReadImage(str(path)))


quaternions = hnp.arrays(np.float64, 4, elements=st.floats(-1, 1)).filter(lambda q: np.linalg.norm(q) > 0.1)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(quaternion=quaternions, qfac=st.sampled_from([-1.0, 1.0]), shift=st.floats(-0.5, 0.5), angle=st.floats(-1, 1))
def test_two_forms_are_read_only_where_simpleitk_and_the_sform_agree(tmp_path, quaternion, qfac, shift, angle):
    quaternion = quaternion / np.linalg.norm(quaternion) * (1 if quaternion[0] >= 0 else -1)
    alone = {"quatern": (*quaternion[1:], *FIRST), "pixdim": (qfac, *SPACING, 1, 1, 1, 1)}
    path = tmp_path / "q.nii"
    path.write_bytes(nifti_bytes(sform_code=0, qform_code=1, **alone))
    axes = np.diag([-1.0, -1.0, 1.0]) @ read_series(path).direction[:, ::-1]
    matrix = axes @ turned(angle if abs(angle) > 0.1 else 0, 1)
    first = FIRST + np.array([shift if abs(shift) > 0.1 else 0, 0, 0])
    path.write_bytes(nifti_bytes(sform_code=2, qform_code=1, srow=srow(matrix, first), **alone))
    try:
        volume = read_series(path)
    except InputError:
        assert abs(shift) > 0.05 or abs(angle) > 0.05
    else:
        assert abs(shift) <= 0.1 and abs(angle) <= 0.1
        assert_same(volume, SimpleITK.ReadImage(str(path)), atol_mm=0.02)


def test_the_sform_is_taken_of_two_that_agree():
    data = nifti_bytes(**both(turned(0.03, 2), sform_code=2))
    header = parse_header(data[:348], "a.nii")
    _, _, direction = geometry(header, "a.nii")
    assert direction[0, 1] != 0
