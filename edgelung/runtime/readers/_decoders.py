"""From the bytes of a frame to stored values, for every transfer syntax that is read.

JPEG frames of all kinds are decoded by imagecodecs (libjpeg-turbo, CharLS, OpenJPEG), which comes with
``edgelung[dicom]``. A decoder is one row in a table. What follows is the same for all: size and depth are compared with
the header first, and bits above BitsStored are cleared or filled with the sign afterwards (DICOM PS3.5 section 8.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgelung.errors import InputError
from edgelung.runtime.readers._codestream import (
    BASELINE,
    EXTENDED,
    JPEG_LS,
    LOSSLESS,
    Codestream,
    complete_jpeg,
    describe_jpeg,
    describe_jpeg2000,
)
from edgelung.runtime.readers._part10 import BIG_ENDIAN, DEFLATED, IMPLICIT
from edgelung.runtime.readers._rle import count_segments, decode_rle
from edgelung.runtime.readers._slice_header import PixelFormat

__all__ = ["check_decodable", "decode", "is_native"]

NATIVE = {IMPLICIT, "1.2.840.10008.1.2.1", BIG_ENDIAN, DEFLATED}
Values = npt.NDArray[Any]
CONVERT = "or convert the series with gdcmconv --raw"


@dataclass(frozen=True)
class Compression:
    """A compressed transfer syntax.

    Attributes:
        name: Its name, for messages.
        describe: Reads the frame's own header, given the size that DICOM states.
        decode: Decodes a frame to (rows, columns), given its pixel format.
        lossy: Whether values may differ from those that were compressed.
    """

    name: str
    describe: Callable[[bytes, PixelFormat], Codestream]
    decode: Callable[[bytes, PixelFormat], Values]
    lossy: bool = False


def _jpeg(*markers: int) -> Callable[[bytes, PixelFormat], Codestream]:
    describe = describe_jpeg(*markers)

    def described(frame: bytes, form: PixelFormat) -> Codestream:
        stream = describe(frame)
        complete_jpeg(frame)
        return stream

    return described


def _decode_jpeg(frame: bytes, form: PixelFormat) -> Values:
    import imagecodecs

    values: Values = imagecodecs.jpeg8_decode(complete_jpeg(frame))
    return values


def _decode_jpeg_ls(frame: bytes, form: PixelFormat) -> Values:
    import imagecodecs

    values: Values = imagecodecs.jpegls_decode(complete_jpeg(frame))
    return values


def _decode_jpeg2000(frame: bytes, form: PixelFormat) -> Values:
    import imagecodecs

    values: Values = imagecodecs.jpeg2k_decode(frame)
    return values


def _describe_rle(frame: bytes, form: PixelFormat) -> Codestream:
    bits = 8 * count_segments(frame)
    if bits != form.bits_allocated:
        raise ValueError(f"the frame has {bits} bits a pixel, BitsAllocated is {form.bits_allocated}")
    return Codestream(form.rows, form.columns, 1, bits)


def _decode_rle(frame: bytes, form: PixelFormat) -> Values:
    return decode_rle(frame, form.rows, form.columns)


def _jpeg2000(frame: bytes, form: PixelFormat) -> Codestream:
    return describe_jpeg2000(frame)


JPEG, RLE = "1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.5"
COMPRESSED = {
    RLE: Compression("RLE", _describe_rle, _decode_rle),
    JPEG + "50": Compression("JPEG baseline", _jpeg(BASELINE), _decode_jpeg, lossy=True),
    JPEG + "51": Compression("JPEG extended", _jpeg(BASELINE, EXTENDED), _decode_jpeg, lossy=True),
    JPEG + "57": Compression("JPEG lossless", _jpeg(LOSSLESS), _decode_jpeg),
    JPEG + "70": Compression("JPEG lossless", _jpeg(LOSSLESS), _decode_jpeg),
    JPEG + "80": Compression("JPEG-LS", _jpeg(JPEG_LS), _decode_jpeg_ls),
    JPEG + "81": Compression("JPEG-LS near-lossless", _jpeg(JPEG_LS), _decode_jpeg_ls, lossy=True),
    JPEG + "90": Compression("JPEG 2000 lossless", _jpeg2000, _decode_jpeg2000),
    JPEG + "91": Compression("JPEG 2000", _jpeg2000, _decode_jpeg2000, lossy=True),
    JPEG + "201": Compression("HTJ2K lossless", _jpeg2000, _decode_jpeg2000),
    JPEG + "202": Compression("HTJ2K lossless", _jpeg2000, _decode_jpeg2000),
    JPEG + "203": Compression("HTJ2K", _jpeg2000, _decode_jpeg2000, lossy=True),
}


def is_native(syntax: str) -> bool:
    """Whether a transfer syntax stores uncompressed frames."""
    return syntax in NATIVE


def check_decodable(syntax: str, name: str, source: object) -> None:
    """That frames of a transfer syntax can be decoded here.

    Args:
        syntax: Its UID.
        name: Its name in the standard, for messages.
        source: The file.

    Raises:
        InputError: It is not read, or imagecodecs is not installed.
    """
    if is_native(syntax) or syntax == RLE:
        return
    field = "TransferSyntaxUID"
    if syntax not in COMPRESSED:
        hint = "convert the series with dcmdjpeg, gdcmconv --raw or another program that reads it"
        raise InputError(f"{name} is not read", source=source, field=field, hint=hint)
    try:
        import imagecodecs  # noqa: F401
    except ImportError:
        hint = f'pip install "edgelung[dicom]", {CONVERT}'
        raise InputError(f"{name} needs imagecodecs", source=source, field=field, hint=hint) from None


def decode(frame: bytes, syntax: str, form: PixelFormat, *, words: bool, source: object) -> Values:
    """Decode one frame.

    Args:
        frame: Its bytes.
        syntax: The transfer syntax, one that :func:`check_decodable` let through.
        form: What the header says about a frame.
        words: Whether 8-bit pixels stand in 16-bit words.
        source: The file, for messages.

    Returns:
        (rows, columns) stored values, signed or not as PixelRepresentation says.

    Raises:
        InputError: Another size, depth or kind than the header's, or a damaged stream.
    """
    if is_native(syntax):
        big = syntax == BIG_ENDIAN
        if big and words and form.bits_allocated == 8:
            frame = np.frombuffer(frame + b"\0" * (len(frame) % 2), ">u2").astype("<u2").tobytes()[: len(frame)]
        return _stored(_unpack(frame, form, ">" if big else "<"), form)
    compression = COMPRESSED[syntax]
    hint = f"copy or export it again, {CONVERT}"
    try:
        stream = compression.describe(frame, form)
        problem = _difference(stream, form)
        if problem:
            raise ValueError(problem)
    except ValueError as error:
        problem = f"{compression.name}: {error}"
        raise InputError(problem, source=source, field="PixelData", hint=hint) from None
    try:
        values = compression.decode(frame, form)
    except MemoryError:
        raise
    except Exception:  # decoders raise what they like, and their text quotes values
        problem = f"{compression.name}: cannot be decoded, the compressed frame is damaged"
        raise InputError(problem, source=source, field="PixelData", hint=hint) from None
    if values.shape != (form.rows, form.columns) or values.dtype.kind not in "iu":
        raise InputError(
            f"{compression.name}: does not decode to one slice", source=source, field="PixelData", hint=hint
        )
    if compression.lossy and stream.signed == form.signed:
        return values  # what a lossy stream rounds above BitsStored is a value, not a foreign bit
    return _stored(values, form)


def _difference(stream: Codestream, form: PixelFormat) -> str:
    """What a compressed frame says about itself that contradicts the DICOM header; empty if nothing."""
    if (stream.rows, stream.columns) != (form.rows, form.columns):
        return f"the frame is {stream.rows} x {stream.columns} pixels, Rows x Columns {form.rows} x {form.columns}"
    if stream.components != 1:
        return f"the frame has {stream.components} numbers a pixel"
    bits = f"the frame has {stream.precision} bits a pixel, BitsStored is {form.bits_stored}"
    if stream.precision > form.bits_allocated or (stream.precision <= 8 < form.bits_stored):
        return bits
    if form.signed and not stream.signed and stream.precision < form.bits_stored:
        return bits + ", so the sign is lost"
    return ""


def _unpack(data: bytes, form: PixelFormat, order: str) -> Values:
    return np.frombuffer(data, f"{order}u{form.bits_allocated // 8}").reshape(form.rows, form.columns)


def _stored(values: Values, form: PixelFormat) -> Values:
    """Clear the bits above BitsStored, or fill them with the sign: they may hold an overlay."""
    size = max(values.dtype.itemsize, form.bits_allocated // 8)
    unsigned = values.astype(f"u{size}")  # negative numbers as two's complement
    unused = 8 * size - form.bits_stored
    stored: Values = unsigned & np.array((1 << form.bits_stored) - 1, unsigned.dtype)
    if form.signed:
        stored = np.right_shift(np.left_shift(unsigned, unused).view(f"i{size}"), unused)
    return stored
