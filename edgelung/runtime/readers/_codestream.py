"""Size, bit depth and kind of a compressed frame, read from its own header before a decoder sees it.

A decoder takes memory for what the stream claims, whatever the DICOM header says. So both are compared first, and a
stream of another size, depth or kind never reaches the decoder. Sources: ITU-T T.81 B.2 (JPEG), ITU-T T.87 C.2
(JPEG-LS), ITU-T T.800 A.5.1 (JPEG 2000), DICOM PS3.5 G.5 (RLE).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Codestream", "describe_jpeg", "describe_jpeg2000", "describe_rle", "is_complete_jpeg"]

BASELINE, EXTENDED, LOSSLESS, JPEG_LS = 0xC0, 0xC1, 0xC3, 0xF7  # start-of-frame markers
FRAME_MARKERS = {*range(0xC0, 0xD0), JPEG_LS} - {0xC4, 0xC8, 0xCC}  # those three are tables and a reserved code
WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
SIZ = b"\xff\x4f\xff\x51"  # start of a JPEG 2000 codestream; a JP2 file has boxes before it
MAX_BOXES = 4096
MAX_TILES = 1024  # encoders for CT write one, or tiles of 128 pixels and more


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
        marker, body = _start_of_frame(frame)
        if marker not in markers:
            raise ValueError(f"the frame is JPEG of another kind (marker FF{marker:02X})")
        precision, rows, columns, components = struct.unpack_from(">BHHB", body)
        return Codestream(rows, columns, components, precision)

    return describe


def _start_of_frame(frame: bytes) -> tuple[int, bytes]:
    """The start-of-frame marker of a JPEG stream and the segment after its length."""
    if frame[:2] != b"\xff\xd8":
        raise ValueError("the frame does not begin like JPEG")
    at = 2
    while at + 4 <= len(frame):
        if frame[at] != 0xFF:
            break
        marker = frame[at + 1]
        if marker == 0xFF or marker in WITHOUT_LENGTH:
            at += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(frame[at + 2 : at + 4], "big")
        if marker in (START_OF_SCAN, END_OF_IMAGE) or length < 2:
            break
        if marker in FRAME_MARKERS:
            body = frame[at + 4 : at + 2 + length]
            if len(body) < 6:
                break
            return marker, body
        at += 2 + length
    raise ValueError("the frame has no JPEG frame header")


def is_complete_jpeg(frame: bytes) -> bool:
    """Whether a JPEG stream has its end mark; the decoder fills what is missing of a lossless frame without a word."""
    return frame.rstrip(b"\0\xff").endswith(bytes([0xFF, END_OF_IMAGE]))


def describe_jpeg2000(frame: bytes) -> Codestream:
    """Describe a JPEG 2000 codestream, raw or in a JP2 file.

    Raises:
        ValueError: It is none, or has sub-sampled pixels or more than MAX_TILES tiles.
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
    return Codestream(y1 - y0, x1 - x0, components, (depth & 0x7F) + 1, bool(depth & 0x80))


def describe_rle(rows: int, columns: int) -> Callable[[bytes], Codestream]:
    """A function that tells the bits of a DICOM RLE frame from its number of segments, one per byte of a pixel."""

    def describe(frame: bytes) -> Codestream:
        segments = int.from_bytes(frame[:4], "little")
        if len(frame) < 64 or not 1 <= segments <= 15:
            raise ValueError("the frame does not begin like RLE")
        return Codestream(rows, columns, 1, 8 * segments)

    return describe
