"""PNG images from numpy, with zlib alone (PNG specification, third edition: https://www.w3.org/TR/png-3/)."""

from __future__ import annotations

import os
import secrets
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["encode_png", "write_png", "write_whole"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB = 0, 2  # colour types, table 9
MAX_SIDE = 2**31 - 1  # section 11.2.1


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """The bytes of a PNG file, eight bits per channel, without metadata.

    Args:
        pixels: uint8 (height, width) grey or (height, width, 3) RGB, each side at least 1; row 0 is the top.

    Raises:
        ValueError: On another shape or dtype.
    """
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8:
        raise ValueError(f"a PNG is written from uint8 pixels, got {pixels.dtype}")
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise ValueError(f"a PNG is written from (height, width) or (height, width, 3) pixels, got {pixels.shape}")
    height, width = pixels.shape[:2]
    if not 1 <= min(height, width) <= max(height, width) <= MAX_SIDE:
        raise ValueError(f"a PNG has sides of 1..{MAX_SIDE} pixels, got {height}x{width}")
    header = struct.pack(">IIBBBBB", width, height, 8, RGB if pixels.ndim == 3 else GREY, 0, 0, 0)
    scanlines = _filtered(pixels.reshape(height, width, -1))
    return b"".join(
        (
            SIGNATURE,
            _chunk(b"IHDR", header),
            _chunk(b"IDAT", zlib.compress(scanlines.tobytes(), 6)),
            _chunk(b"IEND", b""),
        )
    )


def write_png(path: str | os.PathLike[str], pixels: npt.NDArray[np.uint8]) -> None:
    """Write a PNG file; it appears whole or not at all.

    Args:
        path: The file; its folder must exist.
        pixels: As for :func:`encode_png`.

    Raises:
        ValueError: On another shape or dtype; nothing is written then.
        OSError: When the folder cannot be written.
    """
    write_whole(path, encode_png(pixels))


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file under a temporary name in the same folder and move it to its place, replacing an older one."""
    target = Path(path)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())  # boards lose power: without it the new name may point to an empty file
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return b"".join(
        (struct.pack(">I", len(content)), kind, content, struct.pack(">I", zlib.crc32(content, zlib.crc32(kind))))
    )


def _filtered(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Scanlines with a filter-type byte each: none, sub or up, by the smallest sum of residuals (section 12.7)."""
    height, width, channels = pixels.shape
    sub = pixels.copy()
    sub[:, 1:] -= pixels[:, :-1]  # uint8 wraps, as the filters do
    up = pixels.copy()
    up[1:] -= pixels[:-1]
    filters = [lines.reshape(height, width * channels) for lines in (pixels, sub, up)]
    costs = [np.abs(lines.view(np.int8).astype(np.int16)).sum(axis=1, dtype=np.int64) for lines in filters]
    chosen = np.argmin(costs, axis=0)
    scanlines = np.empty((height, 1 + width * channels), dtype=np.uint8)
    scanlines[:, 0] = chosen
    for index, lines in enumerate(filters):
        scanlines[chosen == index, 1:] = lines[chosen == index]
    return scanlines
