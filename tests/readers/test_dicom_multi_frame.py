"""Enhanced multi-frame CT against its single-frame twin and SimpleITK, and files whose frames are no one grid."""

import itertools
import tracemalloc

import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from series_builders import (
    ENCODERS,
    MACROS,
    SECRETS,
    assert_same,
    chest,
    compress,
    dicom_series,
    enhanced,
    oblique,
    voxels,
    write_dicom,
)

from edgelung.calibration.series import describe_data
from edgelung.errors import InputError
from edgelung.runtime.readers import read_series
from edgelung.runtime.readers.dicom import list_slices
from edgelung.volume import CtVolume

STORED = voxels((5, 4, 6), "u2") // 32


def same(volume, other):
    np.testing.assert_array_equal(volume.hu, other.hu)
    assert volume.hu.dtype == other.hu.dtype
    assert volume.spacing_mm == other.spacing_mm and volume.origin_mm == other.origin_mm
    np.testing.assert_array_equal(volume.direction, other.direction)


def write(folder, ds, name="one.dcm"):
    folder.mkdir(exist_ok=True)
    return write_dicom(ds, folder / name)


@pytest.mark.parametrize("direction", [np.eye(3), np.diag([-1.0, -1.0, 1.0]), oblique(2)])
@pytest.mark.parametrize("per_frame", [("PlanePositionSequence",), tuple(MACROS)])
def test_reads_like_the_single_frames(tmp_path, direction, per_frame):
    twin = read_series(dicom_series(tmp_path / "s", direction=direction, stored=STORED))
    path = write(tmp_path / "m", enhanced(STORED, direction=direction, per_frame=per_frame))
    same(read_series(path), twin)
    same(read_series(path.parent), twin)


@pytest.mark.parametrize("direction", [np.eye(3), oblique(3)])
def test_agrees_with_simpleitk(tmp_path, direction):
    path = write(tmp_path, enhanced(STORED, direction=direction, edit=spacing_between))
    reference = SimpleITK.Cast(SimpleITK.ReadImage(str(path)), SimpleITK.sitkInt16)
    assert_same(read_series(path), reference)


def spacing_between(index, values):
    values["SpacingBetweenSlices"] = 2.5


def test_legacy_converted_files_are_read(tmp_path):
    uid = "1.2.840.10008.5.1.4.1.1.2.2"
    twin = read_series(dicom_series(tmp_path / "s", stored=STORED))
    same(read_series(write(tmp_path / "m", enhanced(STORED, SOPClassUID=uid))), twin)


@pytest.mark.parametrize("order", [(4, 3, 2, 1, 0), (2, 0, 4, 1, 3)])
def test_frames_in_any_order(tmp_path, order):
    places = [(-120, -90, -300 + 2.5 * index) for index in order]
    volume = read_series(write(tmp_path / "m", enhanced(STORED[list(order)], places)))
    same(volume, read_series(dicom_series(tmp_path / "s", stored=STORED)))


def test_rescale_of_each_frame(tmp_path):
    def edit(index, values):
        values.update(RescaleSlope=index + 1, RescaleIntercept=-100 * index)

    small = STORED // 16
    per_frame = ("PlanePositionSequence", "PixelValueTransformationSequence")
    hu = read_series(write(tmp_path, enhanced(small, per_frame=per_frame, edit=edit))).hu
    np.testing.assert_array_equal(hu, [frame.astype(int) * (i + 1) - 100 * i for i, frame in enumerate(small)])


def test_one_frame(tmp_path):
    volume = read_series(write(tmp_path, enhanced(STORED[:1])))
    assert volume.shape == (1, 4, 6) and volume.spacing_mm[0] == 2.5
    ds = enhanced(STORED[:1], per_frame=())
    del ds.PerFrameFunctionalGroupsSequence
    same(read_series(write(tmp_path, ds)), volume)


@pytest.mark.parametrize("name", [*ENCODERS, "deflated", "big endian", "implicit"])
@pytest.mark.parametrize("fragments", [1, 2])
def test_every_transfer_syntax(tmp_path, name, fragments):
    stored = chest()
    ds = enhanced(stored, BitsStored=12, HighBit=11)
    exact = True
    if name in ENCODERS:
        syntax, exact, encode = ENCODERS[name]
        compress(ds, [encode(frame, 12) for frame in stored], syntax, fragments=fragments)
    else:
        uids = {"deflated": "1.2.840.10008.1.2.1.99", "big endian": "1.2.840.10008.1.2.2"}
        ds.file_meta.TransferSyntaxUID = uids.get(name, "1.2.840.10008.1.2")
        ds.PixelData = (stored.astype(">u2") if name == "big endian" else stored).tobytes()
    hu = read_series(write(tmp_path, ds)).hu
    np.testing.assert_allclose(hu, stored.astype(int) - 1024, atol=0 if exact else 100)


def test_the_extended_offset_table(tmp_path):
    stored = chest()
    syntax, _, encode = ENCODERS["JPEG-LS"]
    frames = [encode(frame, 12) for frame in stored]
    ds = enhanced(stored, BitsStored=12, HighBit=11)
    compress(ds, frames, syntax, fragments=3, offsets=False)
    with pytest.raises(InputError, match="NumberOfFrames is 3, the file has 9 compressed pieces") as caught:
        read_series(write(tmp_path, ds))
    assert caught.value.field == "PixelData"
    starts = [sum(len(f) + len(f) % 2 + 24 for f in frames[:index]) for index in range(3)]
    ds.ExtendedOffsetTable = np.array(starts, "<u8").tobytes()
    ds.ExtendedOffsetTableLengths = np.array([len(frame) for frame in frames], "<u8").tobytes()
    np.testing.assert_array_equal(read_series(write(tmp_path, ds)).hu, stored.astype(int) - 1024)


def concatenation(folder, cuts=(0, 2, 5), total=2):
    for number, (begin, end) in enumerate(itertools.pairwise(cuts)):
        places = [(-120, -90, -300 + 2.5 * index) for index in range(begin, end)]
        ds = enhanced(STORED[begin:end], places, ConcatenationUID=SECRETS[2] + ".7")
        ds.InConcatenationNumber, ds.InConcatenationTotalNumber = number + 1, total
        write(folder, ds, f"{number}.dcm")
    return folder


def test_files_of_one_image_are_joined(tmp_path):
    twin = read_series(dicom_series(tmp_path / "s", stored=STORED))
    same(read_series(concatenation(tmp_path / "m")), twin)
    same(read_series(concatenation(tmp_path / "n", (0, 4, 5))), twin)
    with pytest.raises(InputError, match="split into 3 files, 2 of them are here") as caught:
        read_series(concatenation(tmp_path / "m", total=3))
    assert SECRETS[2] not in str(caught.value)


def test_single_and_multi_frame_files_are_not_mixed(tmp_path):
    folder = dicom_series(tmp_path / "s", stored=STORED)
    write(folder, enhanced(STORED), "multi.dcm")
    with pytest.raises(InputError, match="5 single-slice and 1 multi-frame files") as caught:
        read_series(folder)
    assert caught.value.field == "NumberOfFrames"


def by_frame(field, *values):
    """An ``edit`` that gives frames alternating values."""
    return lambda index, own: own.update({field: values[index % len(values)]})


NINE = np.concatenate([STORED, STORED[:4]])
ALL = tuple(MACROS)
BAD = [
    ({"edit": by_frame("StackID", "1", "2")}, "StackID", r"'1' in 5 slices, '2' in 4 slices"),
    ({"edit": by_frame("TemporalPositionIndex", 1, 2)}, "TemporalPositionIndex", "'1' in 5 slices, '2' in 4 slices"),
    ({"edit": by_frame("ConvolutionKernel", "B30f", "B70f")}, "ConvolutionKernel", "'B30f' in 5 slices"),
    ({"edit": by_frame("NominalPercentageOfCardiacPhase", 30, 75)}, "NominalPercentageOfCardiacPhase", "'30' in 5"),
    ({"edit": by_frame("FrameAcquisitionNumber", 1, 2)}, "AcquisitionNumber", "alternates"),
    ({"edit": by_frame("FrameType", ["ORIGINAL", "PRIMARY", "AXIAL", "NONE"], ["DERIVED", "PRIMARY", "AXIAL", "MIP"])},
     "ImageType", "differs"),
    ({"edit": by_frame("PixelSpacing", [0.7, 0.6], [0.7, 0.7])}, "PixelSpacing", "differs between slices"),
    ({"edit": by_frame("GantryDetectorTilt", 12.5)}, "GantryDetectorTilt", "12.5 degrees"),
    ({"edit": by_frame("RescaleType", "Z_EFF")}, "RescaleType", "frame 1: the values are not Hounsfield"),
    ({"edit": by_frame("RescaleSlope", None)}, "RescaleSlope", "frame 1: is missing"),
    ({"edit": by_frame("ImagePositionPatient", [1, 2, 3])}, "ImagePositionPatient", "8 of 9 slices lie where another"),
    ({"edit": by_frame("ImagePositionPatient", [1, 2])}, "ImagePositionPatient", "frame 1: must be 3 finite"),
    ({"edit": by_frame("ImagePositionPatient", None)}, "ImagePositionPatient", "frame 1: is missing"),
    ({"NumberOfFrames": 10}, "NumberOfFrames", "is 10, geometry is given for 9"),
    ({"NumberOfFrames": 8}, "NumberOfFrames", "is 8, geometry is given for 9"),
    ({"NumberOfFrames": None}, "NumberOfFrames", "is 1, geometry is given for 9"),
    ({"NumberOfFrames": 0}, "NumberOfFrames", "is 0, allowed are 1 to 8192"),
    ({"NumberOfFrames": 2147483647}, "NumberOfFrames", "allowed are 1 to 8192"),
    ({"PerFrameFunctionalGroupsSequence": None}, "NumberOfFrames", "geometry is given for 1"),
    ({"PerFrameFunctionalGroupsSequence": None, "SharedFunctionalGroupsSequence": None}, "NumberOfFrames",
     r"multi-frame file \(9 frames\) that does not say where"),
    ({"PixelData": b"\0" * (48 * 9 - 2)}, "PixelData", "9 frames of 4 x 6 pixels need 432 bytes, the file has 430"),
    ({"PixelData": b"\0" * 480}, "PixelData", "the file has 480"),
    ({"PixelData": None}, "PixelData", "has 0"),
    ({"Modality": "MR"}, "Modality", "'MR', not CT"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "field", "reason"), BAD)
def test_refused(tmp_path, changes, field, reason):
    path = write(tmp_path, enhanced(NINE, per_frame=ALL, **changes))
    with pytest.raises(InputError, match=reason) as caught:
        read_series(path)
    assert caught.value.field == field
    assert caught.value.hint and str(caught.value).isprintable()
    assert not any(secret in str(caught.value) for secret in SECRETS)


def test_a_file_cut_short(tmp_path):
    path = write(tmp_path, enhanced(NINE))
    data = path.read_bytes()
    for kept in (0.2, 0.5, 0.8, 0.9, 0.99):
        path.write_bytes(data[: int(kept * len(data))])
        with pytest.raises(InputError):
            read_series(path)


def test_memory_is_that_of_the_volume_and_a_frame(tmp_path):
    stored = np.zeros((64, 128, 128), "u2")
    path = write(tmp_path, enhanced(stored))
    read_series(path)
    tracemalloc.start()
    try:
        read_series(path)
        assert tracemalloc.get_traced_memory()[1] < 1.6 * stored.nbytes + (4 << 20)
    finally:
        tracemalloc.stop()


def test_a_folder_of_it_is_one_series_for_calibration(tmp_path):
    path = write(tmp_path / "m", enhanced(STORED))
    assert list_slices(path.parent) == [path]
    assert describe_data(path.parent).series == (path.parent,)
    assert describe_data(path).series == (path,)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_gives_an_input_error_or_a_volume(tmp_path, data):
    good = tmp_path / "good.dcm"
    if not good.exists():
        write_dicom(enhanced(STORED, per_frame=ALL), good)
    damaged = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(132, len(damaged) - 1))
        damaged[at] = data.draw(st.sampled_from([0, 1, 0x20, 0x30, 0x7F, 0xFE, 0xFF]) | st.integers(0, 255))
    path = tmp_path / "damaged.dcm"
    path.write_bytes(damaged)
    try:
        volume = read_series(path)
    except InputError as error:
        assert str(error).isprintable() and len(str(error)) < 1000
    else:
        assert isinstance(volume, CtVolume) and volume.hu.size <= STORED.size


@pytest.mark.parametrize("levels", [50, 5000])
def test_sequences_nested_without_end(tmp_path, levels):
    path = write(tmp_path, enhanced(STORED))
    data = path.read_bytes()
    at = data.index(b"\x00\x52\x30\x92SQ")
    level = b"\x00\x52\x30\x92SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    path.write_bytes(data[:at] + level * levels + data[at:])
    with pytest.raises(InputError):
        read_series(path)
