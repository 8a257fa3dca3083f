"""Every compressed transfer syntax against the uncompressed series and SimpleITK, and streams that are damaged."""

import struct
import sys
import tracemalloc

import imagecodecs
import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from series_builders import ENCODERS, JPEG, chest, compress, dicom_series, dicom_slice, itk_series, write_dicom

from edgelung.errors import InputError
from edgelung.runtime.readers import read_series
from edgelung.runtime.readers._rle import decode_rle
from edgelung.volume import CtVolume

EXACT = [name for name, (_, exact, _) in ENCODERS.items() if exact]
LOSSY = [name for name, (_, exact, _) in ENCODERS.items() if not exact]
NOT_IN_GDCM = ("HTJ2K", "HTJ2K, RPCL", "HTJ2K, lossy")
GDCM_ELSE = ("JPEG extended",)


def compressed_series(folder, name, stored, bits=12, fragments=1, **changes):
    """A folder of slices compressed by one of the encoders."""
    syntax, _, encode = ENCODERS[name]

    def edit(index, ds):
        for keyword, value in {"BitsStored": bits, "HighBit": bits - 1, **changes}.items():
            setattr(ds, keyword, value)
        return compress(ds, [encode(stored[index], bits)], syntax, fragments=fragments)

    return dicom_series(folder, stored=stored, edit=edit)


@pytest.mark.parametrize("dtype", ["u2", "i2"])
@pytest.mark.parametrize("name", EXACT)
def test_lossless_series_have_the_values_that_were_compressed(tmp_path, name, dtype):
    stored = chest(dtype=dtype)
    bits = 12 if dtype == "u2" else 13
    folder = compressed_series(tmp_path / "s", name, stored, bits)
    volume = read_series(folder)
    np.testing.assert_array_equal(volume.hu, stored.astype(int) - 1024)
    if name not in NOT_IN_GDCM and (dtype == "u2" or not name.startswith("JPEG l")):
        np.testing.assert_array_equal(volume.hu, SimpleITK.GetArrayFromImage(itk_series(folder)))


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_series_are_near_and_as_simpleitk_reads_them(tmp_path, name):
    stored = chest()
    folder = compressed_series(tmp_path / "s", name, stored)
    volume = read_series(folder)
    assert np.abs(volume.hu - (stored.astype(int) - 1024)).mean() < 12
    if name not in NOT_IN_GDCM + GDCM_ELSE:
        np.testing.assert_array_equal(volume.hu, SimpleITK.GetArrayFromImage(itk_series(folder)))


@pytest.mark.parametrize("name", [n for n in EXACT if "HTJ2K" not in n])
def test_eight_bits(tmp_path, name):
    stored = (chest() >> 4).astype("u1")
    np.testing.assert_array_equal(
        read_series(compressed_series(tmp_path / "s", name, stored, 8)).hu, stored.astype(int) - 1024
    )


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", [*EXACT, "native", "big endian", "deflated"])
def test_bits_above_those_stored_do_not_count_for_any_decoder(tmp_path, name, signed):
    stored = chest()
    marked = stored | (np.arange(stored.size, dtype="u2").reshape(stored.shape) % 16 << 12)  # an overlay, by DICOM 3.3
    changes = {"PixelRepresentation": int(signed), "RescaleIntercept": 0}
    if name in ENCODERS:
        syntax, _, encode = ENCODERS[name]
        folder = dicom_series(
            tmp_path / "s",
            stored=marked,
            edit=lambda index, ds: compress(
                update(ds, BitsStored=12, HighBit=11, **changes), [encode(marked[index], 16)], syntax
            ),
        )
    else:
        syntaxes = {"native": "1.2.840.10008.1.2.1", "big endian": "1.2.840.10008.1.2.2"}
        folder = tmp_path / "s"
        folder.mkdir()
        for index, pixels in enumerate(marked):
            data = (pixels.astype(">u2") if name == "big endian" else pixels).tobytes()
            syntax = syntaxes.get(name, "1.2.840.10008.1.2.1.99")
            ds = dicom_slice(pixels, (0, 0, index), syntax=syntax, BitsStored=12, HighBit=11, PixelData=data, **changes)
            write_dicom(ds, folder / f"{index}.dcm")
    expected = np.where(signed & (stored >= 2048), stored.astype(int) - 4096, stored)
    np.testing.assert_array_equal(read_series(folder).hu, expected)


def update(ds, **changes):
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds


@pytest.mark.parametrize("name", [*EXACT, *LOSSY])
def test_a_frame_in_several_fragments(tmp_path, name):
    stored = chest()
    whole = read_series(compressed_series(tmp_path / "w", name, stored))
    np.testing.assert_array_equal(
        read_series(compressed_series(tmp_path / "f", name, stored, fragments=3)).hu, whole.hu
    )


SAMPLES = {
    "693_J2KI.dcm": {},  # 16-bit codestream, 14 bits stored
    "J2K_pixelrep_mismatch.dcm": {},  # unsigned codestream, signed pixels
    "MR_small_jp2klossless.dcm": {},
    "MR_small_jpeg_ls_lossless.dcm": {},
    "MR_small_RLE.dcm": {},
    "MR_small_expb.dcm": {},
    "MR_small_bigendian.dcm": {},
    "JPEGLSNearLossless_16.dcm": {},
    "JPEG2000.dcm": {"NumberOfFrames": 1},
    "CT_small.dcm": {},
    "image_dfl.dcm": {},
}


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_of_other_software(tmp_path, name):
    """The pixels of pydicom's own test files, under the header of a CT slice."""
    sample = pydicom.dcmread(get_testdata_file(name, download=False))
    ds = dicom_slice(np.zeros((2, 2), "u2"), (0, 0, 0), syntax=sample.file_meta.TransferSyntaxUID)
    copied = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
    update(ds, **{keyword: sample[keyword].value for keyword in copied}, **SAMPLES[name])
    ds["PixelData"] = sample["PixelData"]
    path = write_dicom(update(ds, RescaleIntercept=0), tmp_path / "one.dcm")
    hu = read_series(path).hu[0]
    np.testing.assert_array_equal(hu, np.squeeze(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))))


def one_file(folder, frame, syntax, size=(40, 48), fragments=1, **changes):
    ds = dicom_slice(np.zeros(size, "u2"), (0, 0, 0), **{"BitsStored": 12, "HighBit": 11, **changes})
    return write_dicom(compress(ds, [frame], syntax, fragments=fragments), folder / "one.dcm")


def encoded(name, stored=None, bits=12):
    return ENCODERS[name][2](chest(1)[0] if stored is None else stored, bits)


WIDE = chest(1, (40, 64))[0]
STREAMS = {name: syntax for name, (syntax, _, _) in ENCODERS.items() if name != "RLE"}


def refused(path, reason):
    with pytest.raises(InputError, match=reason) as caught:
        read_series(path)
    assert caught.value.field == "PixelData" and caught.value.hint
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_of_another_size_or_kind(tmp_path, name):
    syntax = STREAMS[name]
    refused(one_file(tmp_path, encoded(name, WIDE), syntax), "the frame is 40 x 64 pixels, Rows x Columns 40 x 48")
    other = "JPEG-LS" if "2" in name[:6] else "JPEG 2000"
    refused(one_file(tmp_path, encoded(other), syntax), "does not begin like|another kind")
    refused(one_file(tmp_path, b"garbage " * 30, syntax), "does not begin like")
    refused(one_file(tmp_path, b"\0\0", syntax), "does not begin like")


@pytest.mark.parametrize("part", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("name", [*ENCODERS])
def test_a_stream_cut_short(tmp_path, name, part):
    frame = encoded(name)
    frame = frame[: min(int(part * len(frame)), len(frame) - 3)]
    refused(
        one_file(tmp_path, frame + b"\0" * (len(frame) % 2), ENCODERS[name][0]), "cut short|damaged|does not|too early"
    )


@pytest.mark.parametrize("name", [n for n in STREAMS if n.startswith(("JPEG l", "JPEG-", "JPEG 2"))])
def test_a_stream_of_another_depth(tmp_path, name):
    eight = encoded(name, (chest(1)[0] >> 4).astype("u1"), 8)
    refused(one_file(tmp_path, eight, STREAMS[name]), "8 bits a pixel, BitsStored is 12")
    sixteen = encoded(name)
    narrow = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    if imagecodecs.jpeg8_encode and "JPEG 2" not in name:
        refused(one_file(tmp_path, sixteen, STREAMS[name], **narrow), "bits a pixel, BitsStored is 8")
    colour = np.stack([(chest(1)[0] >> 4).astype("u1")] * 3, -1)
    if name.startswith("JPEG 2"):
        refused(one_file(tmp_path, encoded(name, colour, 8), STREAMS[name]), "3 numbers a pixel")


def test_a_sign_that_the_stream_does_not_hold(tmp_path):
    frame = imagecodecs.jpeg2k_encode(chest(1)[0], codecformat="j2k", level=0, reversible=True, bitspersample=12)
    changes = {"BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1}
    refused(one_file(tmp_path, frame, JPEG + "90", **changes), "the sign is lost")


def test_rle_of_another_depth(tmp_path):
    refused(one_file(tmp_path, encoded("RLE", chest(1).astype("u4")[0]), "1.2.840.10008.1.2.5"), "32 bits a pixel")


def test_native_pixels_where_compressed_ones_are_promised_and_the_other_way_round(tmp_path):
    ds = dicom_slice(chest(1)[0], (0, 0, 0), syntax="1.2.840.10008.1.2.1")
    path = write_dicom(ds, tmp_path / "one.dcm")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0"))
    refused(path, "no compressed frames")
    path = one_file(tmp_path, encoded("JPEG-LS"), JPEG + "80")
    path.write_bytes(path.read_bytes().replace((JPEG + "80").encode(), b"1.2.840.10008.1.2.1\0\0\0"))
    refused(path, "need 3840 bytes, the file has 0")


@pytest.mark.parametrize("drop", [4, 8, 9, 100])
def test_fragments_without_their_end(tmp_path, drop):
    path = one_file(tmp_path, encoded("JPEG-LS"), JPEG + "80")
    path.write_bytes(path.read_bytes()[:-drop])
    refused(path, "end too early or are damaged")


def test_a_fragment_of_four_gigabytes(tmp_path):
    frame = encoded("JPEG-LS")
    path = one_file(tmp_path, frame, JPEG + "80")
    length = len(frame) + len(frame) % 2
    path.write_bytes(path.read_bytes().replace(struct.pack("<L", length) + frame[:4], b"\xf0\xff\xff\xff" + frame[:4]))
    refused(path, "end too early or are damaged")


@pytest.mark.parametrize("syntax", [JPEG + "92", JPEG + "94", JPEG + "102", "1.2.840.10008.1.2.4.95"])
def test_a_syntax_that_is_not_read(tmp_path, syntax):
    with pytest.raises(InputError, match="is not read") as caught:
        read_series(one_file(tmp_path, encoded("JPEG-LS"), syntax))
    assert caught.value.field == "TransferSyntaxUID"


def test_rle_needs_no_further_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    stored = chest()
    np.testing.assert_array_equal(
        read_series(compressed_series(tmp_path / "s", "RLE", stored)).hu, stored.astype(int) - 1024
    )


@pytest.mark.parametrize(
    ("segments", "reason"),
    [
        ([b"\xff\x07" * 2], None),  # two runs of two
        ([b"\x80\x80\xfd\x07"], None),  # no operation, a run of four
        ([b"\x03\x07\x07\x07\x07\0"], None),  # literal, padded
        ([b"\xfc\x07"], None),  # one too many
        ([b"\xfb\x07"], "longer"),
        ([b"\xfe\x07"], "too early"),
        ([b"\x03\x07\x07"], "too early"),
        ([b"\xff"], "too early"),
        ([b""], "too early"),
        ([b"\x80" * 90], "too early"),
    ],
)
def test_rle_by_hand(segments, reason):
    frame = struct.pack("<16L", 1, 64, *[0] * 14) + b"".join(segments)
    if reason:
        with pytest.raises(ValueError, match=reason):
            decode_rle(frame, 2, 2)
    else:
        np.testing.assert_array_equal(decode_rle(frame, 2, 2), np.full((2, 2), 7))


@pytest.mark.parametrize("places", [(64, 10), (64, 1 << 31), (0, 64), (200, 64), (65, 66)])
def test_rle_with_segments_elsewhere(places):
    with pytest.raises(ValueError, match=r"lie outside|too early"):
        decode_rle(struct.pack("<16L", 2, *places, *[0] * 13) + b"\xfd\x07\xfd\x07", 2, 2)


def test_without_the_decoders_the_hint_is_the_extra(tmp_path, monkeypatch):
    path = one_file(tmp_path, encoded("JPEG-LS"), JPEG + "80")
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(InputError, match=r"JPEG-LS.* needs imagecodecs") as caught:
        read_series(path)
    assert caught.value.hint.startswith('pip install "edgelung[dicom]"')


@pytest.mark.parametrize("name", ["JPEG-LS", "JPEG 2000", "JPEG lossless, first order", "JPEG extended"])
def test_no_memory_is_taken_for_what_a_stream_claims(tmp_path, name):
    frame = bytearray(encoded(name))
    at = {"JPEG 2000": 8}.get(name, frame.find(b"\xff\xf7") + 5)
    if name.startswith("JPEG l") or name == "JPEG extended":
        at = max(frame.find(b"\xff\xc3"), frame.find(b"\xff\xc1")) + 5
    frame[at : at + 4] = b"\x00\x00\xff\xff" if name == "JPEG 2000" else b"\xff\xff\xff\xff"
    path = one_file(tmp_path, bytes(frame), STREAMS[name])
    tracemalloc.start()
    try:
        refused(path, "Rows x Columns|tiles")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("size", "reason"), [(0x88, None), (0x33, None), (0x11, "precincts"), (0x00, "precincts")])
def test_small_precincts_do_not_take_memory(tmp_path, size, reason):
    stored = chest(1, (256, 256))[0]
    frame = bytearray(encoded("JPEG 2000", stored))
    at = frame.index(b"\xff\x52")
    levels = frame[at + 9]
    frame[at + 14 : at + 14] = bytes([size]) * (levels + 1)
    frame[at + 4] |= 1
    frame[at + 3] += levels + 1
    path = one_file(tmp_path, bytes(frame), JPEG + "90", size=(256, 256))
    if reason:
        refused(path, reason)
    elif size == 0x88:
        np.testing.assert_array_equal(read_series(path).hu[0], stored.astype(int) - 1024)


def test_a_deflated_file_unpacks_to_what_its_header_says(tmp_path):
    size = (512, 512)
    ds = dicom_slice(np.zeros(size, "u2"), (0, 0, 0), syntax="1.2.840.10008.1.2.1.99")
    path = write_dicom(ds, tmp_path / "one.dcm")
    assert path.stat().st_size < 4000
    assert read_series(path).shape == (1, *size)
    ds.Rows = ds.Columns = 8000
    refused(write_dicom(ds, path), "need 128000000 bytes|compressed bytes cannot hold")
    ds.Rows = ds.Columns = 512
    data = write_dicom(ds, path).read_bytes()
    for kept in (0.5, 0.9, 0.99):
        path.write_bytes(data[: int(len(data) * kept)])
        with pytest.raises(InputError):
            read_series(path)


def test_a_deflated_bomb_before_the_pixels(tmp_path):
    ds = dicom_slice(np.zeros((4, 4), "u2"), (0, 0, 0), syntax="1.2.840.10008.1.2.1.99")
    ds.add_new(0x00091001, "OB", bytes(100 << 20))
    ds.add_new(0x00090010, "LO", "PRIVATE")
    path = write_dicom(ds, tmp_path / "one.dcm")
    del ds
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="damaged"):
            read_series(path)
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ENCODERS)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_gives_an_input_error_or_a_volume(tmp_path, name, data):
    frame = bytearray(encoded(name))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(frame), 120) - 1) | st.integers(0, len(frame) - 1))
        frame[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFE, 0xFF]) | st.integers(0, 255))
    try:
        volume = read_series(one_file(tmp_path, bytes(frame), ENCODERS[name][0]))
    except InputError as error:
        assert str(error).isprintable() and len(str(error)) < 1000
    else:
        assert isinstance(volume, CtVolume) and volume.shape == (1, 40, 48)
