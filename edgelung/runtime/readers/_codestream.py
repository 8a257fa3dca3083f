"""Size, bit depth and kind of a compressed frame, read from its own header before a decoder sees it.

A decoder takes memory for what the stream claims, whatever the DICOM header says. So both are compared first, and a
stream of another size, depth or kind never reaches the decoder. Sources: ITU-T T.81 B.2 (JPEG), ITU-T T.87 C.2
(JPEG-LS), ITU-T T.800 A.5.1 (JPEG 2000).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

__all__ = ["Codestream", "complete_jpeg", "describe_jpeg", "describe_jpeg2000"]

BASELINE, EXTENDED, LOSSLESS, JPEG_LS = 0xC0, 0xC1, 0xC3, 0xF7  # start-of-frame markers
FRAME_MARKERS = {*range(0xC0, 0xD0), JPEG_LS} - {0xC4, 0xC8, 0xCC}  # those three are tables and a reserved code
LS_PARAMETERS, LS_THRESHOLDS = 0xF8, 1  # other JPEG-LS parameters are colour tables and another, larger size
WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
SIZ = b"\xff\x4f\xff\x51"  # start of a JPEG 2000 codestream; a JP2 file has boxes before it
MAX_BOXES = 4096
MAX_TILES = 1024  # encoders for CT write one, or tiles of 128 pixels and more
MAX_PRECINCTS = 8192  # encoders write one a resolution, or precincts of 128 pixels and more
CODING_STYLE, START_OF_TILE = b"\xff\x52", b"\xff\x90"


@dataclass(frozen=True)
class Codestream:
    """What a compressed frame says about itself.

    Attributes:
        rows: Height in pixels.
        columns: Width in pixels.
        components: Numbers per pixel.
        precision: Bits per number.
        signed: Whether the stream codes negative numbers as such; JPEG and JPEG-LS never do.
    """

    rows: int
    columns: int
    components: int
    precision: int
    signed: bool = False


def describe_jpeg(*markers: int) -> Callable[[bytes], Codestream]:
    """A function that describes JPEG and JPEG-LS streams of the kinds in ``markers``; ValueError for others."""

    def describe(frame: bytes) -> Codestream:
        found = None
        for marker, start, end in _segments(frame):
            if marker == LS_PARAMETERS and frame[start + 4 : start + 5] != bytes([LS_THRESHOLDS]):
                raise ValueError("the frame has JPEG-LS parameters that no CT needs")
            if marker in FRAME_MARKERS:
                found = marker, frame[start + 4 : end]
        if found is None or len(found[1]) < 6:
            raise ValueError("the frame has no JPEG frame header")
        if found[0] not in markers:
            raise ValueError(f"the frame is JPEG of another kind (marker FF{found[0]:02X})")
        precision, rows, columns, components = struct.unpack_from(">BHHB", found[1])
        return Codestream(rows, columns, components, precision)

    return describe


def _segments(frame: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of every segment before the first scan.

    Raises:
        ValueError: No JPEG, or no scan.
    """
    if frame[:2] != b"\xff\xd8":
        raise ValueError("the frame does not begin like JPEG")
    at = 2
    while at + 4 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF or marker in WITHOUT_LENGTH:
            at += 1 if marker == 0xFF else 2
            continue
        if marker == START_OF_SCAN:
            return
        end = at + 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
        if marker == END_OF_IMAGE or end < at + 4:
            break
        yield marker, at, end
        at = end
    raise ValueError("the frame has no JPEG scan")


def complete_jpeg(frame: bytes) -> bytes:
    """A JPEG or JPEG-LS stream up to its end mark.

    libjpeg fills what is missing of a frame without a word, and CharLS 2.4 searches for it for seconds.

    Raises:
        ValueError: It has no end mark.
    """
    frame = frame.rstrip(b"\0\xff")
    if frame[-1:] != bytes([END_OF_IMAGE]):
        raise ValueError("the frame is cut short")
    return frame


def describe_jpeg2000(frame: bytes) -> Codestream:
    """Describe a JPEG 2000 codestream, raw or in a JP2 file.

    Raises:
        ValueError: It is none, has sub-sampled pixels, or more tiles or precincts than a CT needs.
    """
    at = frame.find(SIZ, 0, MAX_BOXES)
    if at < 0 or len(frame) < at + 45:
        raise ValueError("the frame does not begin like JPEG 2000")
    x1, y1, x0, y0, tile_width, tile_height, tile_x, tile_y, components = struct.unpack_from(">8IH", frame, at + 8)
    depth, step_x, step_y = frame[at + 42 : at + 45]
    if not (x0 < x1 and y0 < y1 and tile_width and tile_height and tile_x <= x0 and tile_y <= y0):
        raise ValueError("the frame has no sensible JPEG 2000 size")
    if (step_x, step_y) != (1, 1):
        raise ValueError("the frame is sub-sampled")
    tiles = -(-(x1 - tile_x) // tile_width) * -(-(y1 - tile_y) // tile_height)
    if tiles > MAX_TILES:
        raise ValueError(f"the frame has {tiles} tiles")
    precincts = _precincts(frame, at + 2, y1 - y0, x1 - x0)
    if precincts > MAX_PRECINCTS:
        raise ValueError(f"the frame has {precincts} precincts")
    return Codestream(y1 - y0, x1 - x0, components, (depth & 0x7F) + 1, bool(depth & 0x80))


def _precincts(frame: bytes, at: int, rows: int, columns: int) -> int:
    """Pieces of a component, for each of which the decoder takes memory; by the main header (ITU-T T.800 A.6.1)."""
    while at + 14 <= len(frame) and frame[at : at + 2] not in (CODING_STYLE, START_OF_TILE):
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    if frame[at : at + 2] != CODING_STYLE or len(frame) < at + 14 or not frame[at + 4] & 1:
        return 0
    levels = frame[at + 9]
    sizes = frame[at + 14 : at + 15 + levels]  # from the lowest resolution to the highest
    count = 0
    for down, size in enumerate(reversed(sizes)):
        height, width = (-(-length // 2**down) for length in (rows, columns))
        count += -(-height // 2 ** (size >> 4)) * -(-width // 2 ** (size & 15))
    return count
