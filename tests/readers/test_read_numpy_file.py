""".npy and .npz."""

import io
import pickle
import zipfile

import numpy as np
import pytest
from series_builders import DTYPES, oblique, voxels

from edgelung.errors import InputError
from edgelung.runtime.readers import read_series

SPACING = (2.5, 0.7, 0.6)
AXIAL = [[0, 0, 1], [0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("dtype", [*DTYPES, "f2"])
def test_every_type_order_and_layout(tmp_path, dtype, order, layout):
    hu = voxels(dtype=dtype)
    stored = np.asarray(hu.astype(hu.dtype.newbyteorder(order)), order=layout)
    np.save(tmp_path / "a.npy", stored)
    np.savez_compressed(tmp_path / "a.npz", hu=stored, spacing_mm=SPACING)
    for volume in (read_series(tmp_path / "a.npy", spacing_mm=SPACING), read_series(tmp_path / "a.npz")):
        np.testing.assert_array_equal(volume.hu, hu)
        assert volume.hu.dtype == hu.dtype and volume.hu.dtype.isnative and volume.hu.flags.c_contiguous
        assert (volume.spacing_mm, volume.origin_mm) == (SPACING, (0, 0, 0))
        np.testing.assert_array_equal(volume.direction, AXIAL)


def test_geometry_of_an_npz(tmp_path):
    geometry = {
        "spacing_mm": np.array(SPACING, "f4"),
        "origin_mm": [1, 2, 3],
        "direction": np.asfortranarray(oblique()),
    }
    np.savez(tmp_path / "a.npz", hu=voxels(), other=[1], **geometry)
    volume = read_series(tmp_path / "a.npz")
    assert volume.spacing_mm == pytest.approx(SPACING) and volume.origin_mm == (1, 2, 3)
    np.testing.assert_allclose(volume.direction, oblique())


def test_npy_without_spacing_says_how(tmp_path):
    np.save(tmp_path / "a.npy", voxels())
    with pytest.raises(InputError, match=r"--spacing-mm D H W .*\.npz") as caught:
        read_series(tmp_path / "a.npy")
    assert caught.value.field == "spacing_mm"


@pytest.mark.parametrize("spacing", [(1, 1), (1, 0, 1), (1, float("nan"), 1), (1, -1, 1), (1, 1, float("inf"))])
def test_bad_spacing(tmp_path, spacing):
    np.save(tmp_path / "a.npy", voxels())
    with pytest.raises(InputError, match="positive"):
        read_series(tmp_path / "a.npy", spacing_mm=spacing)


def npy(array=None, header=None, data=b""):
    """A .npy file, or one with a header text of our own."""
    if header is None:
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=True)
        return buffer.getvalue()
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def described(shape="(3, 4, 5)", descr="'<i2'", data=b"\0" * 120):
    return npy(header=f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}", data=data)


BAD_NPY = [
    (npy(np.array([[["x", 1]]], object)), "hu", "pickled"),
    (npy(np.zeros((2, 2), "i2")), "shape", r"\(depth, height, width\)"),
    (npy(np.zeros((1, 2, 2, 1), "i2")), "shape", r"\(depth, height, width\)"),
    (npy(np.zeros((1, 2, 2), complex)), "dtype", "CT numbers"),
    (npy(np.zeros((1, 2, 2), bool)), "dtype", "CT numbers"),
    (npy(np.zeros((1, 2, 2), [("a", "i2")])), "dtype", "CT numbers"),
    (npy(np.zeros((0, 2, 2), "i2")), "shape", "1 to 8192"),
    (described(shape="(8192, 8192, 8192)"), "shape", "fit a board"),
    (described(shape="(1000, 1000, 1000)"), "shape", "needs 2000000000 bytes"),
    (described(shape="(-3, -4, 5)"), "shape", "1 to 8192"),
    (described(data=b"\0" * 119), "shape", "holds 119"),
    (described(data=b"\0" * 121), "shape", "holds 121"),
    (described(descr="'|O'"), "hu", "pickled"),
    (described(descr="__import__('os').system('true')"), "hu", "not an array"),
    (described(shape="(" * 300), "hu", "not an array"),
    (described(shape="(3, 4, True)"), "shape", "needs 24"),
    (b"\x93NUMPY\x03\x00" + described()[8:], "hu", "version 1 or 2"),
    (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "hu", "not an array"),
    (b"", "hu", "not an array"),
    (pickle.dumps([1, 2]), "hu", "not an array"),
]


@pytest.mark.parametrize(("data", "field", "reason"), BAD_NPY)
def test_npy_refused(tmp_path, data, field, reason):
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(InputError, match=reason) as caught:
        read_series(tmp_path / "a.npy", spacing_mm=SPACING)
    assert caught.value.field == field and caught.value.hint
    assert str(caught.value).isprintable()


SMALL = npy(np.array(SPACING))
BAD_NPZ = [
    ({"hu.npy": npy(voxels())}, "spacing_mm", "missing"),
    ({"spacing_mm.npy": SMALL}, "hu", "missing; the archive holds 'spacing_mm.npy'"),
    ({"hu.npy": npy(np.array([[[None]]])), "spacing_mm.npy": SMALL}, "hu", "pickled"),
    ({"hu.npy": npy(voxels()), "spacing_mm.npy": npy(np.array([None] * 3))}, "spacing_mm", "pickled"),
    ({"hu.npy": npy(voxels()), "spacing_mm.npy": npy(np.array([1.0, 2.0]))}, "spacing_mm", "shape"),
    ({"hu.npy": npy(voxels()), "spacing_mm.npy": npy(np.array([1.0, 2.0, np.nan]))}, "spacing_mm", "finite"),
    ({"hu.npy": npy(voxels()), "spacing_mm.npy": npy(np.array([1.0, 2.0, -1]))}, "spacing_mm", "positive"),
    ({"hu.npy": npy(voxels()), "spacing_mm.npy": SMALL[:-1]}, "spacing_mm", "damaged|finite"),
    ({"hu.npy": npy(voxels()), "spacing_mm.npy": SMALL, "origin_mm.npy": npy(np.array("x"))}, "origin_mm", "numbers"),
    ({"hu.npy": npy(voxels()), "spacing_mm.npy": SMALL, "direction.npy": npy(np.ones((3, 3)))}, "", "orthonormal"),
    ({"hu.npy": described(shape="(1000, 1000, 1000)"), "spacing_mm.npy": SMALL}, "hu", "needs 2000000000 bytes"),
    ({"hu.npy": described(data=b"\0" * 121), "spacing_mm.npy": SMALL}, "hu", "holds 121"),
    ({"hu.npy": b"", "spacing_mm.npy": SMALL}, "hu", "not an array"),
]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(("members", "field", "reason"), BAD_NPZ)
def test_npz_refused(tmp_path, method, members, field, reason):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(InputError, match=reason) as caught:
        read_series(tmp_path / "a.npz")
    if "damaged" not in reason:
        assert caught.value.field == field
    assert caught.value.hint and str(caught.value).isprintable()


def test_npz_with_two_of_a_name_encrypted_or_oddly_compressed(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        for name in ("hu.npy", "spacing_mm.npy", "hu.npy"):
            archive.writestr(name, npy(voxels()))
    with pytest.raises(InputError, match="twice"):
        read_series(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("hu.npy", npy(voxels()))
    with pytest.raises(InputError, match="compression"):
        read_series(path)
    np.savez(path, hu=voxels(), spacing_mm=SPACING)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="encrypted"):
        read_series(path)
    path.write_bytes(b"PK nothing")
    with pytest.raises(InputError, match="zip archive is damaged"):
        read_series(path)
