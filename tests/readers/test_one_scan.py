"""Slices of two scans under one series UID, and single scans that only look like two."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from series_builders import SECRETS, dicom_series, voxels

from edgelung.errors import InputError
from edgelung.runtime.readers import read_series
from edgelung.runtime.readers._one_scan import check_one_scan

COUNT = 12
STORED = voxels((COUNT, 4, 6), "u2") // 32
AXIAL = ["ORIGINAL", "PRIMARY", "AXIAL"]


def by_slice(field, values):
    """An ``edit`` that gives slices the values of a list, repeated along the patient."""

    def edit(index, ds):
        value = values[index % len(values)]
        if value is not None:
            setattr(ds, field, value)
        return ds

    return edit


def series(folder, field, values, **extra):
    edit = by_slice(field, values)

    def both(index, ds):
        ds = edit(index, ds)
        for keyword, value in extra.items():
            setattr(ds, keyword, value)
        return ds

    return dicom_series(folder, stored=STORED, edit=both)


ALTERNATING = [
    ("AcquisitionNumber", [1, 2]),
    ("AcquisitionNumber", [1, 1, 2]),
    ("AcquisitionNumber", [3, None]),
    ("ConvolutionKernel", ["B30f", "B70f"]),
    ("ConvolutionKernel", [["B30f", "1"], ["B30f", "3"]]),
    ("ConvolutionKernel", ["LUNG", None]),
    ("ConvolutionKernel", [SECRETS[0] + "^NAME", "B30f"]),  # a damaged header
    ("ConvolutionKernel", [SECRETS[1], "B30f"]),
    ("ImageType", [AXIAL, ["DERIVED", "SECONDARY", "AXIAL"]]),
    ("ImageType", [[*AXIAL, "CT_SOM5 SPI"], [*AXIAL, "CT_SOM5 SPI", "DET_B"]]),
    ("ImageType", [["ORIGINAL", "PRIMARY", "AXIAL"], ["ORIGINAL", "PRIMARY", "REFORMATTED"]]),
    ("ReconstructionDiameter", [350, 360]),
    ("SliceThickness", [1.25, 5]),
    ("KVP", [80, 140]),
    ("FilterType", ["BODY FILTER", "HEAD FILTER"]),
    ("ScanOptions", ["HELICAL MODE", "AXIAL MODE"]),
    ("EchoNumbers", [1, 2]),
    ("TemporalPositionIndex", [1, 2]),
    ("TemporalPositionIdentifier", [1, 2]),
    ("NominalPercentageOfCardiacPhase", [30, 75]),
    ("TriggerTime", [300, 750]),
    ("ContrastBolusAgent", ["NONE", "IODINE"]),
    ("PatientPosition", ["HFS", "FFS"]),
    ("PatientID", [SECRETS[0] + "-1", SECRETS[0] + "-2"]),
    ("StudyInstanceUID", [SECRETS[2] + ".1", SECRETS[2] + ".2"]),
    ("FrameOfReferenceUID", [SECRETS[2] + ".1", SECRETS[2] + ".2"]),
    ("SeriesNumber", [1, 2]),
    ("SeriesDescription", [SECRETS[0] + " thin", SECRETS[0] + " thick"]),
    ("ProtocolName", [SECRETS[0] + " a", SECRETS[0] + " b"]),
]


@pytest.mark.parametrize(("field", "values"), ALTERNATING)
def test_two_scans_that_alternate_are_refused(tmp_path, field, values):
    with pytest.raises(InputError, match="several scans or reconstructions") as caught:
        read_series(series(tmp_path / "s", field, values))
    assert caught.value.field == field
    assert f"sorted by {field}" in caught.value.hint
    message = str(caught.value)
    assert message.isprintable() and not any(secret in message for secret in SECRETS)


IN_BLOCKS = [
    ("ConvolutionKernel", ["B30f", "B70f"]),
    ("ReconstructionDiameter", [350, 500]),
    ("SliceThickness", [1.25, 2.5]),
    ("KVP", [100, 120]),
    ("ImageType", [AXIAL, [*AXIAL, "AVERAGE"]]),
    ("FrameOfReferenceUID", [SECRETS[2] + ".1", SECRETS[2] + ".2"]),
]


@pytest.mark.parametrize(("field", "values"), IN_BLOCKS)
def test_what_is_set_once_for_a_scan_may_not_change_within_it(tmp_path, field, values):
    with pytest.raises(InputError, match=r"6 slices, .*6 slices") as caught:
        read_series(series(tmp_path / "s", field, [values[0]] * 6 + [values[1]] * 6))
    assert caught.value.field == field


def test_the_values_are_shown_with_their_counts(tmp_path):
    folder = series(tmp_path / "s", "ConvolutionKernel", ["B30f", "B30f", "B70f"])
    with pytest.raises(InputError, match=r"\('B30f' in 8 slices, 'B70f' in 4 slices\)"):
        read_series(folder)
    folder = series(tmp_path / "a", "AcquisitionNumber", [1, 2])
    with pytest.raises(InputError, match=r"alternates along the patient.*\('1' in 6 slices, '2' in 6 slices\)"):
        read_series(folder)


def test_two_reconstructions_at_the_same_places_are_told_by_their_kernel(tmp_path):
    def edit(index, ds):
        ds.ImagePositionPatient = [-120, -90, -300 + 2.5 * (index // 2)]
        ds.ConvolutionKernel = ("B30f", "B70f")[index % 2]
        return ds

    with pytest.raises(InputError) as caught:
        read_series(dicom_series(tmp_path / "s", stored=STORED, edit=edit))
    assert caught.value.field == "ConvolutionKernel"


def clock(seconds):
    return f"{10 + int(seconds) // 3600:02d}{int(seconds) // 60 % 60:02d}{seconds % 60:09.6f}"


@pytest.mark.parametrize("field", ["AcquisitionTime", "ContentTime", "AcquisitionDateTime"])
@pytest.mark.parametrize(
    "starts", [(0, 60), (0, 8), (0, 30, 60), (30, 0)], ids=["a minute", "seconds", "three phases", "backwards"]
)
def test_two_scans_are_told_by_their_times(tmp_path, field, starts):
    phases = len(starts)
    times = [clock(starts[index % phases] + 0.1 * index) for index in range(COUNT)]
    times = [(SECRETS[1] if "Date" in field else "") + time for time in times]
    with pytest.raises(InputError, match="alternates") as caught:
        read_series(series(tmp_path / "s", field, times))
    assert caught.value.field == field
    assert not any(secret in str(caught.value) for secret in SECRETS)
    assert "10:" not in str(caught.value) and "100" not in str(caught.value)


SINGLE = [
    ("AcquisitionNumber", [1]),
    ("AcquisitionNumber", list(range(1, COUNT + 1))),
    ("AcquisitionNumber", [1] * 4 + [2] * 4 + [3] * 4),  # step and shoot, four slices a rotation
    ("AcquisitionNumber", [9] * 6 + [7] * 6),
    ("InstanceNumber", [5, 1, 4, 2, 3, 6]),
    ("InstanceNumber", [1, 1, 2, 2]),
    ("ImageType", [AXIAL, ["original ", "PRIMARY", "AXIAL", ""]]),
    ("ImageType", [AXIAL] * 6 + [["DERIVED", "PRIMARY", "AXIAL"]] * 6),
    ("XRayTubeCurrent", [100, 250, 400, 250]),
    ("Exposure", [10, 20, 30]),
    ("ExposureTime", [500, 501]),
    ("WindowCenter", [40, -600]),
    ("TableHeight", [137.5, 137.6]),
    ("SliceLocation", [1, 2, 3]),
    ("SliceThickness", [0.625, 0.62]),
    ("ReconstructionDiameter", [350, 350.1]),
    ("KVP", [120, "120.0"]),
    ("PixelPaddingValue", [0, 100]),
    ("ContentTime", [clock(60 + index) for index in range(COUNT)]),
    ("ContentTime", [clock(60 - index) for index in range(COUNT)]),
    ("ContentTime", [clock(0.3 * k) for k in (5, 0, 9, 3, 11, 1, 7, 10, 2, 8, 4, 6)]),  # rebuilt in any order
    ("ContentTime", [clock(0)] * 11 + [clock(600)]),  # one slice made again
    ("ContentTime", [clock(0)] * 5 + [clock(600)] + [clock(1)] * 6),
    ("ContentTime", ["100000", "100001", "100002"]),  # whole seconds, rebuilt in any order
    ("ContentTime", [None, clock(30)]),
    ("ContentTime", ["garbage", clock(30)]),
    ("AcquisitionTime", [clock(index // 4 * 2) for index in range(COUNT)]),
    ("AcquisitionTime", [clock(0)] * 6 + [clock(20)] * 6),  # a breath between two halves
    ("AcquisitionTime", [clock(0)]),
    ("AcquisitionTime", ["235959.9"] * 6 + ["000001.2"] * 6),  # midnight
    ("AcquisitionDateTime", ["20200101100000", "2020"]),
    ("TriggerTime", [620, 635, 628]),
]


@pytest.mark.filterwarnings("ignore:Invalid value")
@pytest.mark.parametrize(("field", "values"), SINGLE)
def test_a_single_scan_is_read(tmp_path, field, values):
    volume = read_series(series(tmp_path / "s", field, values))
    np.testing.assert_array_equal(volume.hu, STORED.astype(int) - 1024)


def test_a_localizer_in_the_folder_is_named(tmp_path):
    folder = dicom_series(tmp_path / "s", stored=STORED, edit=by_slice("ImageType", [AXIAL]))

    def edit(index, ds):
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        ds.SeriesInstanceUID = SECRETS[2] + ".9"
        return ds

    other = dicom_series(tmp_path / "t", 2, edit=edit)
    path = next(other.iterdir()).rename(folder / "scout.dcm")
    with pytest.raises(InputError, match=r"1 of 13 files is a localizer .*scout\.dcm") as caught:
        read_series(folder)
    assert caught.value.field == "ImageType" and "move" in caught.value.hint
    with pytest.raises(InputError, match="1 of 1 files is a localizer"):
        read_series(path)


@settings(deadline=None, max_examples=200)
@given(
    labels=st.lists(st.integers(0, 1), min_size=2, max_size=30),
    field=st.sampled_from(["AcquisitionNumber", "ConvolutionKernel", "AcquisitionTime"]),
)
def test_by_definition(labels, field):
    names = {"AcquisitionTime": ("100000", "101500"), "AcquisitionNumber": "12", "ConvolutionKernel": "AB"}[field]
    runs = 1 + sum(a != b for a, b in itertools.pairwise(labels))
    several = len(set(labels)) > 1 if field == "ConvolutionKernel" else runs > 2
    if field == "AcquisitionTime" and min(labels.count(0), labels.count(1)) < 2:
        several = False
    try:
        check_one_scan([{field: names[label]} for label in labels], "a folder")
    except InputError as error:
        assert several and error.field == field
    else:
        assert not several
