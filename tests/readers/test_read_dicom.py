"""DICOM series against SimpleITK, and series that are no right-angled, complete CT grid."""

import logging
import sys
import warnings

import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from series_builders import (
    SECRETS,
    assert_same,
    dicom_series,
    dicom_slice,
    itk_series,
    oblique,
    voxels,
    write_dicom,
)

from edgelung.errors import InputError
from edgelung.runtime.readers import read_series

SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")


def changed(**changes):
    """An ``edit`` that changes every slice."""
    return lambda index, ds: change(ds, **changes)


def change(ds, **changes):
    for keyword, value in changes.items():
        if value is None:
            del ds[keyword]
        else:
            setattr(ds, keyword, value)
    return ds


def only(which, **changes):
    """An ``edit`` that changes one slice."""
    return lambda index, ds: change(ds, **changes) if index == which else ds


@pytest.mark.parametrize("direction", [np.eye(3), np.diag([-1.0, -1.0, 1.0]), oblique(2), oblique(3)])
@pytest.mark.parametrize("count", [2, 9])
def test_agrees_with_simpleitk(tmp_path, direction, count):
    folder = dicom_series(tmp_path / "s", count, direction)
    reference = itk_series(folder)
    volume = read_series(folder)
    assert_same(sorted_like(volume, np.int32), SimpleITK.Cast(reference, SimpleITK.sitkInt32))
    assert volume.hu.dtype == np.int16


def sorted_like(volume, dtype):
    """The volume in the type that GDCM chose; GDCM decides by the header, edgelung by the values."""
    return type(volume)(volume.hu.astype(dtype), volume.spacing_mm, volume.origin_mm, volume.direction)


def test_depth_grows_along_the_normal_whatever_the_order_of_files(tmp_path):
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 4096, (6, 4, 5)).astype("u2")
    volume = read_series(dicom_series(tmp_path / "s", stored=stored))
    np.testing.assert_array_equal(volume.hu, stored.astype(int) - 1024)
    assert volume.origin_mm == (-120, -90, -300) and volume.spacing_mm == (2.5, 0.7, 0.6)
    downwards = read_series(dicom_series(tmp_path / "d", stored=stored, step=-2.5))
    np.testing.assert_array_equal(downwards.hu, stored[::-1].astype(int) - 1024)
    assert downwards.origin_mm == (-120, -90, -312.5) and downwards.spacing_mm == (2.5, 0.7, 0.6)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(
    ("dtype", "bits"), [("u1", 8), ("i1", 8), ("u2", 12), ("i2", 12), ("u2", 16), ("i2", 16), ("i4", 32)]
)
def test_every_pixel_format(tmp_path, syntax, dtype, bits):
    unsigned = dtype[0] == "u"
    low, high = (0, 2**bits) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    stored = np.random.default_rng(0).integers(low, high, (3, 4, 6)).astype(dtype)
    if bits == 32:
        stored //= 2
    big = syntax == SYNTAXES[2]
    folder = tmp_path / "s"
    folder.mkdir()
    for index, pixels in enumerate(stored):
        data = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<")).tobytes()
        ds = dicom_slice(pixels, (0, 0, index), syntax=syntax, BitsStored=bits, HighBit=bits - 1, PixelData=data)
        write_dicom(ds, folder / f"{index}.dcm")
    hu = read_series(folder).hu
    np.testing.assert_array_equal(hu, stored.astype(np.int64) - 1024)
    fits = int(stored.min()) - 1024 >= -32768 and int(stored.max()) - 1024 <= 32767
    assert hu.dtype == (np.int16 if fits else np.int32)
    if bits != 32 and not (big and bits == 8):
        np.testing.assert_array_equal(hu, SimpleITK.GetArrayFromImage(itk_series(folder)))


def test_unused_high_bits_do_not_count(tmp_path):
    stored = np.array([[[0xF123, 0x0800, 0x0FFF, 0x0000]] * 2] * 2, "u2")
    changes = {"BitsStored": 12, "HighBit": 11, "RescaleIntercept": 0}
    unsigned = dicom_series(tmp_path / "u", stored=stored, edit=changed(**changes))
    signed = dicom_series(tmp_path / "s", stored=stored, edit=changed(**changes, PixelRepresentation=1))
    assert read_series(unsigned).hu[0, 0].tolist() == [0x123, 0x800, 0xFFF, 0]
    assert read_series(signed).hu[0, 0].tolist() == [0x123, -0x800, -1, 0]


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scales=st.lists(
        st.tuples(st.sampled_from([1, 2, 3, -1, 16, 0.5, 1.25]), st.integers(-40000, 40000)), min_size=3, max_size=3
    ),
    signed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_rescale_of_each_slice(tmp_path, scales, signed, seed):
    low, high = (-32768, 32768) if signed else (0, 65536)
    stored = np.random.default_rng(seed).integers(low, high, (3, 2, 2)).astype("i2" if signed else "u2")

    def edit(index, ds):
        return change(ds, RescaleSlope=scales[index][0], RescaleIntercept=scales[index][1])

    hu = read_series(dicom_series(tmp_path / "s", stored=stored, edit=edit)).hu
    expected = np.stack([s.astype(float) * slope + inter for s, (slope, inter) in zip(stored, scales, strict=True)])
    np.testing.assert_allclose(hu, expected, rtol=1e-6)
    if any(slope % 1 for slope, _ in scales):
        assert hu.dtype == np.float32
    else:
        assert hu.dtype == (np.int16 if expected.min() >= -32768 and expected.max() <= 32767 else np.int32)


def test_values_outside_the_scan_are_kept(tmp_path):
    stored = np.full((2, 3, 4), -2048, "i2")
    folder = dicom_series(tmp_path / "s", stored=stored, edit=changed(RescaleIntercept=0, PixelPaddingValue=-2000))
    assert (read_series(folder).hu == -2048).all()


@pytest.mark.parametrize(("changes", "depth_mm"), [({}, 2.5), ({"SpacingBetweenSlices": 1.5}, 1.5)])
def test_a_single_file_is_one_slice(tmp_path, changes, depth_mm):
    path = write_dicom(dicom_slice(voxels((4, 6), "i2"), (1, 2, 3), **changes), tmp_path / "one.dcm")
    volume = read_series(path)
    assert volume.shape == (1, 4, 6)
    assert (volume.spacing_mm, volume.origin_mm) == ((depth_mm, 0.7, 0.6), (1, 2, 3))
    assert read_series(tmp_path).shape == (1, 4, 6)


def test_what_is_clearly_no_dicom_is_left_alone(tmp_path):
    folder = dicom_series(tmp_path / "s")
    (folder / "notes.txt").write_text("nothing")
    (folder / ".DS_Store").write_bytes(b"\0" * 200)
    (folder / "empty").write_bytes(b"")
    (folder / "sub").mkdir()
    ds = dicom_slice(voxels((2, 2), "i2"), (0, 0, 0))
    ds.SOPClassUID = "1.2.840.10008.1.3.10"
    write_dicom(ds, folder / "DICOMDIR")
    (folder / "000-0.dcm").rename(folder / "IM0000")
    assert read_series(folder).shape == (4, 4, 6)


def shifted(by_mm):
    """Slices moved along the row direction, as a tilted gantry does."""

    def edit(index, ds):
        x, y, z = ds.ImagePositionPatient
        return change(ds, ImagePositionPatient=[x, y + index * by_mm, z])

    return edit


def without(*indices):
    return lambda index, ds: None if index in indices else ds


BAD = [
    (without(3), "ImagePositionPatient", r"1 slice missing between -295.00 and -290.00 mm \(step 2.50 mm\)"),
    (without(2, 3, 6), "ImagePositionPatient", "3 slices missing between -297.50 and -290.00, -287.50 and -282.50"),
    (only(3, ImagePositionPatient=[-120, -90, -295]), "ImagePositionPatient", "1 of 9 slices lie where another"),
    (changed(ImagePositionPatient=[-120, -90, -295]), "ImagePositionPatient", "8 of 9 slices lie where"),
    (only(3, ImagePositionPatient=[-120, -90, -292]), "ImagePositionPatient", "not evenly spaced"),
    (shifted(0.3), "ImagePositionPatient", "2.40 mm sideways"),
    (changed(GantryDetectorTilt=12.5), "GantryDetectorTilt", "12.5 degrees"),
    (only(2, SeriesInstanceUID=SECRETS[2] + ".9"), "SeriesInstanceUID", r"2 series in one folder \(8, 1 files\)"),
    (only(2, SeriesInstanceUID=None), "SeriesInstanceUID", "1 of 9 files do not say"),
    (changed(Modality="MR"), "Modality", "'MR', not CT"),
    (changed(Modality=None, SOPClassUID="1.2.840.10008.5.1.4.1.1.4"), "Modality", "missing"),
    (changed(NumberOfFrames=3), "NumberOfFrames", "multi-frame"),
    (changed(SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1"), "NumberOfFrames", "multi-frame"),
    (only(2, Rows=2), "Rows, Columns", "1 of 9"),
    (only(2, PixelSpacing=[0.7, 0.7]), "PixelSpacing", "1 of 9"),
    (only(2, ImageOrientationPatient=[0, 1, 0, 1, 0, 0]), "ImageOrientationPatient", "1 of 9"),
    (changed(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "ImageOrientationPatient", "right angle"),
    (changed(ImageOrientationPatient=None), "ImageOrientationPatient", "missing"),
    (changed(ImagePositionPatient=[1, 2]), "ImagePositionPatient", "3 finite"),
    (changed(PixelSpacing=None), "PixelSpacing", "missing"),
    (changed(PixelSpacing=[0, 1]), "PixelSpacing", "0 x 1 mm"),
    (changed(PixelSpacing=["nan", "1"]), "PixelSpacing", "finite"),
    (changed(Rows=65535, Columns=65535), "Rows", "65535, allowed are 1 to 8192"),
    (changed(Rows=8192, Columns=8192), "PixelData", "8192 x 8192 pixels need 134217728 bytes"),
    (changed(Rows=None), "Rows", "missing"),
    (changed(SamplesPerPixel=3), "SamplesPerPixel", "one number"),
    (changed(PhotometricInterpretation="MONOCHROME1"), "PhotometricInterpretation", "MONOCHROME1"),
    (changed(BitsAllocated=12), "BitsStored", "16 of 12"),
    (changed(BitsStored=12), "BitsStored", "highest at 15"),
    (changed(PixelRepresentation=2), "PixelRepresentation", "neither"),
    (changed(RescaleIntercept=None), "RescaleIntercept", "missing"),
    (changed(RescaleSlope=None), "RescaleSlope", "missing"),
    (changed(RescaleSlope=0), "RescaleSlope", "does not give HU"),
    (changed(RescaleIntercept=2147483000), "RescaleSlope", "no Hounsfield"),
    (changed(RescaleType="Z_EFF"), "RescaleType", "not Hounsfield"),
    (changed(PixelData=None), "PixelData", "has 0"),
    (changed(PixelData=b"\0" * 46), "PixelData", "has 46"),
    (changed(PixelData=b"\0" * 50), "PixelData", "has 50"),
]


@pytest.mark.filterwarnings("ignore:Invalid value for VR")  # while the bad file is written
@pytest.mark.parametrize(("edit", "field", "reason"), BAD)
def test_refused(tmp_path, caplog, edit, field, reason):
    folder = dicom_series(tmp_path / "s", 9, edit=edit)
    caplog.clear()
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=reason) as caught:
            read_series(folder)
    assert caught.value.field == field
    assert caught.value.hint and str(caught.value).isprintable()
    assert caught.value.source.startswith(str(folder))
    assert not caplog.records
    for secret in SECRETS:
        assert secret not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("broken.dcm", b"", "not a DICOM file"),
        ("broken.dcm", b"\0" * 128 + b"DICM", "TransferSyntaxUID: is missing"),
        ("broken", b"\0" * 128 + b"DICM" + b"\2\0\0\0UL\4\0\xff\xff\xff\xff", "TransferSyntaxUID"),
        ("IM01", b"\x08\x00\x05\x00\x0a\x00\x00\x00ISO_IR 100", "not a DICOM file"),
        ("DICOMDIR", None, "DICOMDIR but no slices"),
    ],
)
def test_a_folder_with_one_odd_file(tmp_path, name, data, reason):
    if data is None:
        ds = dicom_slice(voxels((2, 2), "i2"), (0, 0, 0))
        ds.SOPClassUID = "1.2.840.10008.1.3.10"
        write_dicom(ds, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=reason) as caught:
        read_series(tmp_path)
    assert caught.value.hint


def test_slices_of_one_file_without_thickness(tmp_path):
    path = write_dicom(dicom_slice(voxels((4, 6), "i2"), (1, 2, 3), SliceThickness=None), tmp_path / "one.dcm")
    with pytest.raises(InputError, match="single slice needs") as caught:
        read_series(path)
    assert caught.value.field == "SliceThickness"


def test_positions_rounded_to_a_tenth_of_a_millimetre_are_a_grid(tmp_path):
    def edit(index, ds):
        return change(ds, ImagePositionPatient=[-120, -90, round(index * 0.625, 1)])

    volume = read_series(dicom_series(tmp_path / "s", 9, edit=edit))
    assert volume.spacing_mm[0] == pytest.approx(0.625)


def test_without_pydicom_the_hint_is_the_extra(tmp_path, monkeypatch):
    folder = dicom_series(tmp_path / "s")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError) as caught:
        read_series(folder)
    assert str(caught.value).endswith('reading DICOM needs pydicom 3; pip install "edgelung[dicom]"')


def test_pydicom_logs_again_afterwards(tmp_path):
    logger = logging.getLogger("pydicom")
    before = logger.level
    read_series(dicom_series(tmp_path / "s"))
    assert logger.level == before
