"""NIfTI-1 against SimpleITK: one form of place in the patient. Two forms, or none: test_nifti_forms.py."""

import gzip
import tracemalloc

import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from series_builders import DTYPES, assert_same, geometries, image, nifti_bytes, voxels

from edgelung.errors import InputError
from edgelung.runtime.readers import read_series

TURNED = (0, -0.7, 0, 5, 0.6, 0, 0, 6, 0, 0, 2.5, 7)  # an sform whose rotation no default qform has


def write(path, *args, **kwargs):
    data = nifti_bytes(*args, **kwargs)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_agrees_with_simpleitk(tmp_path, name, dtype):
    path = tmp_path / name
    SimpleITK.WriteImage(image(voxels(dtype=dtype)), str(path))
    assert_same(read_series(path), SimpleITK.ReadImage(str(path)))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_either_byte_order(tmp_path, name, order, dtype):
    path = write(tmp_path / name, voxels(dtype=dtype), order, srow=TURNED)
    assert_same(read_series(path), SimpleITK.ReadImage(str(path)))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(geometry=geometries())
def test_any_geometry(tmp_path, geometry):
    spacing, origin, direction = geometry
    path = tmp_path / "g.nii"
    SimpleITK.WriteImage(image(spacing=spacing, origin=origin, direction=direction), str(path))
    assert_same(read_series(path), SimpleITK.ReadImage(str(path)))


@pytest.mark.parametrize(
    "changes",
    [
        {"sform_code": 0, "qform_code": 1},
        {"sform_code": 0, "qform_code": 1, "quatern": (0.5, 0.5, 0.5, 1, 2, 3)},
        {"sform_code": 0, "qform_code": 1, "quatern": (0.6, -0.8, 0, 1, 2, 3)},
        {
            "sform_code": 0,
            "qform_code": 1,
            "quatern": (0.1, 0.2, 0.3, 1, 2, 3),
            "pixdim": (-1, 0.6, 0.7, 2.5, 1, 1, 1, 1),
        },
        {"sform_code": 0, "qform_code": 2, "pixdim": (0, 0.6, 0.7, 2.5, 1, 1, 1, 1)},
        {"sform_code": 2, "qform_code": 0, "srow": TURNED},
        {"sform_code": 5, "srow": TURNED},
        {"xyzt_units": 0},
        {"xyzt_units": 1},
        {"xyzt_units": 3},
        {"xyzt_units": 1, "sform_code": 0, "qform_code": 1, "quatern": (0, 0, 0, 1, 2, 3)},
        {"xyzt_units": 10},
        {"dim": (4, 5, 4, 3, 1, 1, 1, 1)},
        {"pad": b"\1\0\0\0" + b"\x20\0\0\0\4\0\0\0" + b"comment comment comment "},
    ],
)
def test_the_transform_that_counts(tmp_path, changes):
    path = write(tmp_path / "a.nii", **changes)
    assert_same(
        read_series(path), SimpleITK.ReadImage(str(path)), atol_mm=2e-3 if changes.get("xyzt_units") != 1 else 1
    )


@pytest.mark.parametrize(
    ("dtype", "slope", "inter", "expected"),
    [
        ("i2", 1, 0, "i2"),
        ("i2", 0, 0, "i2"),
        ("i2", float("nan"), 0, "i2"),
        ("i2", float("nan"), float("nan"), "i2"),
        ("i2", 1, -1024, "f4"),
        ("u1", 2.5, -1000, "f4"),
        ("f4", 2, 3, "f4"),
        ("i4", 2, 3, "f8"),
        ("f8", 0.5, 3, "f8"),
    ],
)
def test_scaling(tmp_path, dtype, slope, inter, expected):
    stored = voxels(dtype=dtype)
    volume = read_series(write(tmp_path / "a.nii", stored, scl_slope=slope, scl_inter=inter))
    scaled = expected == "f8" or (expected == "f4" and (slope, inter) != (1, 0))
    assert volume.hu.dtype == expected
    np.testing.assert_allclose(volume.hu, stored * float(slope) + float(inter) if scaled else stored, rtol=1e-6)
    if scaled:
        itk = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "a.nii")))
        np.testing.assert_allclose(volume.hu, itk, rtol=1e-5, atol=1e-2)


NAN = float("nan")
BAD = [
    ({"dim": (4, 5, 4, 1, 3, 1, 1, 1)}, "dim", "5 x 4 x 1 x 3"),
    ({"dim": (2, 5, 4, 3, 1, 1, 1, 1)}, "dim", "three dimensions"),
    ({"dim": (9, 5, 4, 3, 1, 1, 1, 1)}, "dim", "9 dimensions"),
    ({"dim": (3, 5, -4, 3, 1, 1, 1, 1)}, "dim", "1 to 8192"),
    ({"dim": (3, 8192, 8192, 8192, 1, 1, 1, 1)}, "dim", "fit a board"),
    ({"dim": (3, 5, 4, 4, 1, 1, 1, 1)}, "dim", "needs 160 bytes"),
    ({"dim": (3, 5, 4, 2, 1, 1, 1, 1)}, "dim", "holds 120"),
    ({"datatype": 128}, "datatype", "scalar"),
    ({"datatype": 32}, "datatype", "scalar"),
    ({"bitpix": 8}, "bitpix", "contradicts"),
    ({"pixdim": (1, NAN, 1, 1, 1, 1, 1, 1)}, "pixdim", "positive"),
    ({"pixdim": (1, 0, 1, 1, 1, 1, 1, 1)}, "pixdim", "positive"),
    ({"pixdim": (1, -0.6, 0.7, 2.5, 1, 1, 1, 1)}, "pixdim", "positive"),
    ({"pixdim": (1, 0.7, 0.6, 2.5, 1, 1, 1, 1)}, "pixdim", "srow has voxels of 2.5 x 0.7 x 0.6 mm"),
    ({"srow": (NAN,) * 12}, "srow", "nan"),
    ({"srow": (0,) * 12}, "pixdim", "srow has"),
    ({"sform_code": 0, "qform_code": 1, "quatern": (1, 1, 1, 0, 0, 0)}, "quatern", "unit quaternion"),
    ({"sform_code": 0, "qform_code": 1, "quatern": (0, 0, 0, NAN, 0, 0)}, "quatern", "nan"),
    ({"sform_code": 0}, "sform_code", "does not say where the patient's left is"),
    ({"sform_code": -1}, "sform_code", "-1 is none of the codes"),
    ({"sform_code": 6}, "sform_code", "6 is none of the codes"),
    ({"qform_code": 300}, "qform_code", "300 is none of the codes"),
    ({"sform_code": 0, "qform_code": 1, "pixdim": (-2, 0.6, 0.7, 2.5, 1, 1, 1, 1)}, "pixdim", "handedness"),
    ({"sform_code": 0, "qform_code": 1, "pixdim": (NAN, 0.6, 0.7, 2.5, 1, 1, 1, 1)}, "pixdim", "handedness"),
    ({"scl_slope": 0, "scl_inter": -1024}, "scl_inter", "guess"),
    ({"scl_slope": NAN, "scl_inter": 5}, "scl_inter", "guess"),
    ({"scl_slope": float("inf")}, "scl_slope", "guess"),
    ({"scl_slope": 1, "scl_inter": NAN}, "scl_slope", "Hounsfield"),
    ({"scl_slope": 1e30}, "scl_slope", "Hounsfield"),
    ({"xyzt_units": 5}, "xyzt_units", "unit of length"),
    ({"vox_offset": 0}, "vox_offset", "first voxel"),
    ({"vox_offset": NAN}, "vox_offset", "first voxel"),
    ({"vox_offset": 1e9}, "vox_offset", "first voxel"),
    ({"magic": b"ni1\0"}, "magic", "pair"),
    ({"magic": b"abc\0"}, "magic", "not a NIfTI"),
    ({"sizeof_hdr": 540}, "sizeof_hdr", "NIfTI-2"),
    ({"sizeof_hdr": 7}, "magic", "not a NIfTI"),
]


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize(("changes", "field", "reason"), BAD)
def test_refused(tmp_path, name, changes, field, reason):
    path = write(tmp_path / name, **changes)
    if name.endswith("gz"):
        reason = reason.replace("needs 160 bytes", "after 120 of 160").replace("holds 120", "more than 80")
    with pytest.raises(InputError, match=reason) as caught:
        read_series(path)
    assert (caught.value.field, caught.value.source) == (field, str(path))
    assert caught.value.hint
    assert str(caught.value).isprintable()


def test_a_shear_of_equal_scale_is_named(tmp_path):
    sheared = np.array([[1, 0.5, 0], [0, np.sqrt(0.75), 0], [0, 0, 1]]) @ np.diag([0.6, 0.7, 2.5])
    srow = np.column_stack([sheared, np.zeros(3)]).ravel().tolist()
    with pytest.raises(InputError, match="sheared"):
        read_series(write(tmp_path / "a.nii", srow=tuple(srow)))


def test_name_and_compression_must_agree(tmp_path):
    (tmp_path / "a.nii").write_bytes(gzip.compress(nifti_bytes()))
    (tmp_path / "b.nii.gz").write_bytes(nifti_bytes())
    with pytest.raises(InputError, match="are gzip-compressed; rename"):
        read_series(tmp_path / "a.nii")
    with pytest.raises(InputError, match="not gzip-compressed"):
        read_series(tmp_path / "b.nii.gz")


def test_two_gzip_members_are_one_file(tmp_path):
    data = nifti_bytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(data[:400]) + gzip.compress(data[400:]))
    np.testing.assert_array_equal(read_series(tmp_path / "a.nii.gz").hu, voxels())


def peak_bytes(path):
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            read_series(path)
        return tracemalloc.get_traced_memory()[1], str(caught.value)
    finally:
        tracemalloc.stop()


def packed(path, first=352, depth=4, **changes):
    content = nifti_bytes(voxels((4, 32, 32)), dim=(3, 32, 32, depth, 1, 1, 1, 1), vox_offset=(first,), **changes)
    path.write_bytes(gzip.compress(content))
    return path


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"depth": 4000}, "end after 8192 of 8192000 bytes"), ({"first": 16_000_000}, "end after 0 of 8192 bytes")],
    ids=["more slices than there are", "voxels far behind the end"],
)
def test_what_a_packed_file_claims_takes_no_memory_before_it_is_there(tmp_path, changes, told):
    peak, message = peak_bytes(packed(tmp_path / "scan.nii.gz", **changes))
    assert told in message and peak < 1_500_000


def test_a_file_in_several_gzip_members_is_read(tmp_path):
    content = nifti_bytes(voxels((4, 32, 32)))
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(content[:1000]) + gzip.compress(content[1000:]))
    np.testing.assert_array_equal(read_series(path).hu, voxels((4, 32, 32)))
