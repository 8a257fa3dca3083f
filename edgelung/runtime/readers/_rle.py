"""DICOM RLE (PS3.5 annex G): one PackBits segment for each byte of a pixel, the most significant first.

Written here, in Python, because a damaged frame must not end the process: dicomrle_decode of imagecodecs 2026.3 does.
"""

from __future__ import annotations

import itertools
import struct

import numpy as np
import numpy.typing as npt

__all__ = ["count_segments", "decode_rle"]

HEADER_BYTES = 64
MAX_SEGMENTS = 15
NO_OPERATION = 128
SURPLUS = 1  # bytes by which the last run of a segment may be too long: encoders pad odd rows


def count_segments(frame: bytes) -> int:
    """Bytes of a pixel, as the frame's header has them.

    Raises:
        ValueError: It is no RLE frame.
    """
    segments = int.from_bytes(frame[:4], "little")
    if len(frame) < HEADER_BYTES or not 1 <= segments <= MAX_SEGMENTS:
        raise ValueError("the frame does not begin like RLE")
    return segments


def decode_rle(frame: bytes, rows: int, columns: int) -> npt.NDArray[np.unsignedinteger]:
    """Decode a frame of one, two or four bytes a pixel.

    Returns:
        (rows, columns) unsigned values.

    Raises:
        ValueError: The frame is damaged or holds fewer or more pixels.
    """
    count = count_segments(frame)
    places = [*struct.unpack_from(f"<{count}L", frame, 4), len(frame)]
    if places[0] != HEADER_BYTES or any(end < begin for begin, end in itertools.pairwise(places)):
        raise ValueError("the segments of the frame lie outside of it")
    size = rows * columns
    planes = np.empty((size, count), np.uint8)
    for index in range(count):
        planes[:, index] = np.frombuffer(_unpack(frame[places[index] : places[index + 1]], size), np.uint8)
    values: npt.NDArray[np.unsignedinteger] = planes.view(f">u{count}").reshape(rows, columns)
    return values.astype(f"u{count}")


def _unpack(packed: bytes, size: int) -> bytearray:
    """The first ``size`` bytes of a PackBits segment."""
    data = bytearray()
    at, end = 0, len(packed)
    while len(data) < size:
        if at >= end:
            raise ValueError("a segment of the frame ends too early")
        code = packed[at]
        at += 1
        if code < NO_OPERATION:
            data += packed[at : at + code + 1]
            at += code + 1
        elif code > NO_OPERATION:
            data += packed[at : at + 1] * (257 - code)
            at += 1
        if at > end:
            raise ValueError("a segment of the frame ends too early")
    if len(data) > size + SURPLUS:
        raise ValueError("a segment of the frame is longer than the image")
    del data[size:]
    return data
