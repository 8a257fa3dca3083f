"""MetaImage against SimpleITK."""

import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from series_builders import DTYPES, assert_same, geometries, image, oblique, voxels, write_mhd

from edgelung.errors import InputError
from edgelung.runtime.readers import read_series
from edgelung.volume import CtVolume

TYPES = dict(
    zip(
        ("CHAR", "UCHAR", "SHORT", "USHORT", "INT", "UINT", "LONG_LONG", "ULONG_LONG", "FLOAT", "DOUBLE"),
        DTYPES,
        strict=True,
    )
)


@pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_agrees_with_simpleitk(tmp_path, name, compressed, dtype):
    path = tmp_path / name
    SimpleITK.WriteImage(image(voxels(dtype=dtype)), str(path), useCompression=compressed)
    assert_same(read_series(path), SimpleITK.ReadImage(str(path)))


@pytest.mark.parametrize(("element", "dtype"), [*TYPES.items(), ("LONG", "i4"), ("ULONG", "u4")])
@pytest.mark.parametrize("order_field", ["BinaryDataByteOrderMSB", "ElementByteOrderMSB"])
def test_big_endian(tmp_path, element, dtype, order_field):
    hu = voxels(dtype=dtype)
    data = hu.astype(hu.dtype.newbyteorder(">")).tobytes()
    path = write_mhd(tmp_path / "a.mhd", hu, data, ElementType=f"MET_{element}", **{order_field: "True"})
    assert_same(read_series(path), SimpleITK.ReadImage(str(path)))


@pytest.mark.parametrize(
    "changes",
    [
        {"Offset": "1 2 3", "TransformMatrix": "0 1 0 0 0 1 1 0 0"},
        {"Position": "1 2 3", "Orientation": "0 -1 0 0 0 1 1 0 0"},
        {"Origin": "1 2 3", "Rotation": "0 1 0 1 0 0 0 0 1"},
        {"ElementSpacing": None, "ElementSize": "0.5 0.75 3"},
        {"ElementSpacing": "1 2 3", "ElementSize": "0.5 0.75 3"},
        {"AnatomicalOrientation": "LPS", "CenterOfRotation": "7 8 9", "MyKey": "is ignored"},
        {"DistanceUnits": "mm", "ElementNumberOfChannels": "1"},
    ],
)
def test_other_names_for_the_geometry(tmp_path, changes):
    path = write_mhd(tmp_path / "a.mhd", **changes)
    assert_same(read_series(path), SimpleITK.ReadImage(str(path)))


@pytest.mark.parametrize(("size", "before"), [("7", b"1234567"), ("-1", b"any length of header")])
def test_data_after_a_foreign_header(tmp_path, size, before):
    path = write_mhd(tmp_path / "a.mhd", data=before + voxels().tobytes(), HeaderSize=size)
    assert_same(read_series(path), SimpleITK.ReadImage(str(path)))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(geometry=geometries())
def test_any_geometry(tmp_path, geometry):
    spacing, origin, direction = geometry
    path = tmp_path / "g.mha"
    SimpleITK.WriteImage(image(spacing=spacing, origin=origin, direction=direction), str(path))
    assert_same(read_series(path), SimpleITK.ReadImage(str(path)))


def test_the_comparison_notices_a_flip_a_swap_and_a_shift(tmp_path):
    reference = image(direction=oblique(1))
    SimpleITK.WriteImage(reference, str(tmp_path / "a.mha"))
    good = read_series(tmp_path / "a.mha")
    d, h, w = good.spacing_mm
    wrong = [
        CtVolume(np.ascontiguousarray(good.hu[::-1]), good.spacing_mm, good.origin_mm, good.direction),
        CtVolume(good.hu, (d, w, h), good.origin_mm, good.direction),
        CtVolume(good.hu, good.spacing_mm, good.origin_mm[::-1], good.direction),
        CtVolume(good.hu, good.spacing_mm, good.origin_mm, good.direction.T),
        CtVolume(good.hu, good.spacing_mm, good.origin_mm, good.direction * [-1, 1, 1]),
        CtVolume(good.hu + np.int16(1), good.spacing_mm, good.origin_mm, good.direction),
        CtVolume(good.hu.astype("f4"), good.spacing_mm, good.origin_mm, good.direction),
    ]
    assert_same(good, reference)
    for volume in wrong:
        with pytest.raises(AssertionError):
            assert_same(volume, reference)


BAD = [
    ({"ObjectType": "Tube"}, "ObjectType", "not an image"),
    ({"NDims": "4"}, "NDims", "3 dimensions"),
    ({"BinaryData": "False"}, "BinaryData", "as text"),
    ({"DistanceUnits": "cm"}, "DistanceUnits", "in mm"),
    ({"ElementNumberOfChannels": "3"}, "ElementNumberOfChannels", "one number"),
    ({"ElementToIntensityFunctionSlope": "2"}, "ElementToIntensityFunctionSlope", "guess"),
    ({"ElementToIntensityFunctionOffset": "-1024"}, "ElementToIntensityFunctionOffset", "guess"),
    ({"ElementType": "MET_SHORT_ARRAY"}, "ElementType", "MET_SHORT"),
    ({"ElementType": None}, "ElementType", "missing"),
    ({"ElementSpacing": None}, "ElementSpacing", "missing"),
    ({"ElementSpacing": "1 1"}, "ElementSpacing", "3 finite"),
    ({"ElementSpacing": "1 nan 1"}, "ElementSpacing", "3 finite"),
    ({"ElementSpacing": "-1 1 1"}, "ElementSpacing", "positive"),
    ({"DimSize": "5 4 x"}, "DimSize", "whole number"),
    ({"DimSize": "5 4 0"}, "DimSize", "1 to 8192"),
    ({"DimSize": "8192 8192 8192"}, "DimSize", "fit a board"),
    ({"DimSize": "5 4 4"}, "DimSize", "needs 160 bytes"),
    ({"DimSize": "5 4 2"}, "DimSize", "holds 120"),
    ({"DimSize": "9" * 5000 + " 4 4"}, "DimSize", "whole number"),
    ({"Offset": "1 2 3", "Position": "1 2 4"}, "Position", "contradicts"),
    ({"TransformMatrix": "1 1 0 0 1 0 0 0 1"}, "", "orthonormal"),
    ({"CompressedData": "maybe"}, "CompressedData", "neither"),
    ({"CompressedData": "True"}, "DimSize", "damaged"),
    ({"CompressedData": "True", "CompressedDataSize": "5"}, "CompressedDataSize", "120"),
    ({"CompressedData": "True", "HeaderSize": "-1"}, "HeaderSize", "does not fit"),
    ({"HeaderSize": "9999"}, "HeaderSize", "does not fit"),
    ({"HeaderSize": "-2"}, "HeaderSize", "does not fit"),
    ({"ElementDataFile": "LIST"}, "ElementDataFile", "per slice"),
    ({"ElementDataFile": "s%03d.raw 1 3 1"}, "ElementDataFile", "per slice"),
    ({"ElementDataFile": "/etc/passwd"}, "ElementDataFile", "plain name"),
    ({"ElementDataFile": "../a.raw"}, "ElementDataFile", "plain name"),
    ({"ElementDataFile": "..\\a.raw"}, "ElementDataFile", "plain name"),
    ({"ElementDataFile": ".."}, "ElementDataFile", "plain name"),
    ({"ElementDataFile": "gone.raw"}, "ElementDataFile", "no such file"),
    ({"ElementDataFile": None}, "ElementDataFile", "ends without"),
    ({"Rotation": "\x1b[2J\x00"}, "Rotation", "9 finite"),
    ({"ElementType ": "MET_INT"}, "'ElementType'", "twice"),
]


@pytest.mark.parametrize(("changes", "field", "reason"), BAD)
def test_refused(tmp_path, changes, field, reason):
    path = write_mhd(tmp_path / "a.mhd", **changes)
    with pytest.raises(InputError, match=reason) as caught:
        read_series(path)
    assert caught.value.field == field
    assert caught.value.hint
    assert caught.value.source.startswith(str(tmp_path))
    assert str(caught.value).isprintable()


def test_a_header_without_end_is_not_read_forever(tmp_path):
    path = tmp_path / "a.mhd"
    path.write_bytes(b"Comment = " + b"x" * (2 << 20))
    with pytest.raises(InputError, match="ends without"):
        read_series(path)


def test_a_link_to_nowhere_beside_the_header(tmp_path):
    path = write_mhd(tmp_path / "a.mhd")
    path.with_suffix(".raw").unlink()
    path.with_suffix(".raw").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="no such file"):
        read_series(path)
