"""The door: what is read, what is not, and that no file of a stranger breaks it."""

import gzip
import subprocess
import sys
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from series_builders import dicom_slice, image, nifti_bytes, voxels, write_dicom, write_mhd

from edgelung.errors import InputError
from edgelung.runtime import readers
from edgelung.runtime.readers import read_series
from edgelung.volume import CtVolume


def test_the_door():
    assert readers.__all__ == ["READABLE_SUFFIXES", "read_series"]
    assert readers.READABLE_SUFFIXES == (
        ".mhd", ".mha", ".nii", ".nii.gz", ".npz", ".dcm", ".dicom", ".ima", ".npy",
    )  # fmt: skip


def test_importing_it_takes_numpy_and_the_standard_library():
    code = "import sys, edgelung.runtime.readers; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pydicom", "SimpleITK", "torch", "onnx", "click", "scipy"} & set(loaded)


@pytest.mark.parametrize(
    ("name", "reason", "hint"),
    [
        ("a.nrrd", "not read", "SimpleITK: sitk.WriteImage"),
        ("a.raw", "not read", "give the .mhd"),
        ("a.xyz", "not read", "SimpleITK"),
        ("a", "not read", "SimpleITK"),
        ("gone.mha", "no such file", "check the path"),
    ],
)
def test_a_file_of_another_kind(tmp_path, name, reason, hint):
    if "gone" not in name:
        (tmp_path / name).write_bytes(b"NRRD0004")
    with pytest.raises(InputError, match=reason) as caught:
        read_series(tmp_path / name)
    assert hint in caught.value.hint and caught.value.source == str(tmp_path / name)


def test_names_are_taken_as_they_come(tmp_path):
    SimpleITK.WriteImage(image(), str(tmp_path / "a.b.mha"))
    (tmp_path / "a.b.mha").rename(tmp_path / "A.B.MHA")
    assert read_series(str(tmp_path / "A.B.MHA")).shape == (3, 4, 5)


@pytest.mark.parametrize(
    ("files", "hint"), [([], "holds the slices"), (["a.mha"], "a.mha"), (["a.mha", "b.nii"], "by name")]
)
def test_a_folder_without_dicom(tmp_path, files, hint):
    for name in files:
        SimpleITK.WriteImage(image(), str(tmp_path / name))
    with pytest.raises(InputError, match="holds no DICOM slices") as caught:
        read_series(tmp_path)
    assert hint in caught.value.hint


def test_spacing_is_for_npy_alone(tmp_path):
    SimpleITK.WriteImage(image(), str(tmp_path / "a.mha"))
    with pytest.raises(InputError, match="takes its spacing") as caught:
        read_series(tmp_path / "a.mha", spacing_mm=(1, 1, 1))
    assert caught.value.field == "spacing_mm"


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = write_mhd(tmp_path / "a.mhd")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        read_series(path)


# Files that promise more than they hold, or hold more than they promise: (name, bytes).
BIG = "1024 1024 1000"
LONG = (
    "ObjectType = Image\nNDims = 3\nCompressedData = {}\nElementSpacing = 1 1 1\n"
    f"DimSize = {BIG}\nElementType = MET_SHORT\n"
)
LOCAL = "ElementDataFile = LOCAL\n"
SMALL = LONG.replace(BIG, "5 4 3")
ZEROS = 64 << 20


def bombs():
    zeros = bytes(ZEROS)
    big = (3, 1000, 1000, 1000, 1, 1, 1, 1)
    return {
        "short.mha": (LONG.format("False") + LOCAL).encode() + b"\0" * 100,
        "short-compressed.mha": (LONG.format("True") + LOCAL).encode() + zlib.compress(b"\0" * 100),
        "bomb.mha": (SMALL.format("True") + LOCAL).encode() + zlib.compress(zeros),
        "short.nii": nifti_bytes(dim=big),
        "short.nii.gz": gzip.compress(nifti_bytes(dim=big)),
        "bomb.nii.gz": gzip.compress(nifti_bytes(data=zeros)),
        "bomb-in-extension.nii.gz": gzip.compress(nifti_bytes(vox_offset=1 << 30, data=zeros)),
    }


@pytest.fixture(scope="module")
def bomb_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bombs")
    for name, data in bombs().items():
        (folder / name).write_bytes(data)
    with zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("hu.npy", bytes(ZEROS))
        archive.writestr("spacing_mm.npy", bytes(ZEROS))
    np.savez_compressed(folder / "lie.npz", hu=voxels(), spacing_mm=np.ones(3))
    header = b"{'descr': '<i2', 'fortran_order': False, 'shape': (1000, 1000, 1000)}\n"
    (folder / "short.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    ds = dicom_slice(voxels((4, 6), "i2"), (0, 0, 0))
    ds.Rows = ds.Columns = 8192
    write_dicom(ds, folder / "short.dcm")
    # A false length of 4 GB in the patient's name.
    data = write_dicom(dicom_slice(voxels((4, 6), "i2"), (0, 0, 0), syntax="1.2.840.10008.1.2"), folder / "length.dcm")
    raw = bytearray(data.read_bytes())
    at = raw.index(b"\x10\x00\x10\x00") + 4
    raw[at : at + 4] = b"\xf0\xff\xff\xff"
    data.write_bytes(raw)
    meta = b"\2\0\2\0OB\0\0\xf0\xff\xff\xff"
    (folder / "meta.dcm").write_bytes(b"\0" * 128 + b"DICM" + meta)
    return folder


@pytest.mark.parametrize("name", [*bombs(), "bomb.npz", "short.npy", "short.dcm", "length.dcm", "meta.dcm"])
def test_nothing_large_is_allocated_for_a_promise(bomb_folder, name):
    spacing = (1, 1, 1) if name.endswith(".npy") else None
    if name.endswith(".dcm"):
        pytest.importorskip("pydicom.pixels")  # imported before memory is counted
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            read_series(bomb_folder / name, spacing_mm=spacing)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 24 << 20
    assert caught.value.hint


def valid_files(folder):
    """One small valid file of each kind."""
    hu = voxels((3, 8, 9))
    SimpleITK.WriteImage(image(hu), str(folder / "a.mha"))
    SimpleITK.WriteImage(image(hu), str(folder / "z.mha"), useCompression=True)
    write_mhd(folder / "a.mhd", hu)
    (folder / "a.nii").write_bytes(nifti_bytes(hu, sform_code=1, qform_code=1))
    (folder / "a.nii.gz").write_bytes(gzip.compress(nifti_bytes(hu, ">")))
    np.save(folder / "a.npy", hu)
    np.savez(folder / "a.npz", hu=hu, spacing_mm=np.ones(3), origin_mm=np.ones(3), direction=np.eye(3))
    np.savez_compressed(folder / "z.npz", hu=hu, spacing_mm=np.ones(3))
    write_dicom(dicom_slice(hu[0], (0, 0, 0)), folder / "a.dcm")
    write_dicom(dicom_slice(hu[0], (0, 0, 0), syntax="1.2.840.10008.1.2"), folder / "i.dcm")
    return folder


KINDS = ["a.mha", "z.mha", "a.mhd", "a.nii", "a.nii.gz", "a.npy", "a.npz", "z.npz", "a.dcm", "i.dcm"]


@pytest.fixture(scope="module")
def valid_folder(tmp_path_factory):
    return valid_files(tmp_path_factory.mktemp("valid"))


def read(path):
    return read_series(path, spacing_mm=(1, 1, 1) if path.suffix == ".npy" else None)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_gives_an_input_error_or_a_volume(valid_folder, kind, data):
    original = (valid_folder / kind).read_bytes()
    places = st.integers(0, min(len(original), 1200) - 1) | st.integers(0, len(original) - 1)
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(places)] = data.draw(
            st.sampled_from([0, 1, 0x20, 0x2D, 0x30, 0x39, 0x7F, 0xFF]) | st.integers(0, 255)
        )
    path = valid_folder / f"damaged{''.join((valid_folder / kind).suffixes)}"
    path.write_bytes(damaged)
    try:
        volume = read(path)
    except InputError as error:
        assert str(error).isprintable() and len(str(error)) < 1000
    else:
        assert isinstance(volume, CtVolume)
        assert volume.hu.size * volume.hu.itemsize <= 8 * 3 * 8 * 9  # int64 or float64 from the same bytes at most
        assert volume.hu.flags.c_contiguous and volume.hu.dtype.isnative


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(part=st.floats(0, 1))
def test_a_file_cut_short_is_refused(valid_folder, kind, part):
    path = valid_folder / f"cut{''.join((valid_folder / kind).suffixes)}"
    cut = path
    if kind == "a.mhd":  # whole header, short data
        path.write_bytes((valid_folder / kind).read_bytes().replace(b"a.raw", b"cut.raw"))
        kind, cut = "a.raw", valid_folder / "cut.raw"
    original = (valid_folder / kind).read_bytes()
    cut.write_bytes(original[: int(part * (len(original) - 1))])
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).isprintable()
