"""From a stream of bytes to an array, taking no more memory than the array itself."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgelung.errors import InputError
from edgelung.runtime.readers._limits import MISMATCHED, TRUNCATED

__all__ = ["Inflater", "check_voxels_follow", "read_voxels"]

CHUNK = 1 << 20
BLOCK = 1 << 16  # of what is run through and not kept


class Stream(Protocol):
    """What :func:`read_voxels` reads from: a plain file, gzip, a zip member or an :class:`Inflater`."""

    def readinto(self, buffer: Any, /) -> int | None:
        """Fill a part of ``buffer``; 0 at the end."""

    def read(self, size: int, /) -> bytes | None:
        """Up to ``size`` bytes; none at the end."""


class Inflater(io.RawIOBase):
    """A zlib or gzip stream, inflated piece by piece into the caller's memory.

    Args:
        packed: An open binary file, at the start of the compressed data.
    """

    def __init__(self, packed: io.BufferedIOBase) -> None:
        super().__init__()
        self._packed = packed
        self._inflate = zlib.decompressobj(wbits=47)  # 32 + 15: the header tells zlib from gzip

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill a part of ``buffer``; 0 when the stream is complete and its checksum right.

        Raises:
            EOFError: The compressed data end too early.
            zlib.error: They are damaged.
        """
        target = memoryview(buffer).cast("B")
        while not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._packed.read(CHUNK)
            data = self._inflate.decompress(packed, len(target))
            if data:
                target[: len(data)] = data
                return len(data)
            if not packed:
                raise EOFError
        return 0


def read_voxels(
    stream: Stream, shape: tuple[int, int, int], dtype: np.dtype[Any], *, source: object, field: str
) -> npt.NDArray[Any]:
    """Read exactly one volume, to the end of the stream.

    Args:
        stream: At the first voxel.
        shape: (depth, height, width), already checked.
        dtype: As stored, with its byte order.
        source: The file, for messages.
        field: The header field that promised the data, for messages.

    Returns:
        C-contiguous (depth, height, width) in native byte order.

    Raises:
        InputError: Fewer bytes, more bytes, damaged compression, or no memory.
    """
    try:
        voxels = np.empty(shape, dtype)
    except MemoryError:
        needed = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        raise InputError(
            f"{needed >> 20} MiB of memory are needed and not free", source=source, field=field, hint="crop the series"
        ) from None
    target = voxels.reshape(-1).view(np.uint8).data
    _fill(stream, len(target), lambda start, stop: target[start:stop], source, field)
    if not dtype.isnative:
        voxels = voxels.byteswap(inplace=True).view(dtype.newbyteorder("="))
    return voxels


def check_voxels_follow(stream: Stream, expected: int, *, source: object, field: str) -> None:
    """Run through compressed data without keeping them: that they are as many bytes as the header promises.

    Raises:
        InputError: As :func:`read_voxels`, before memory is taken for the voxels.
    """
    block = memoryview(bytearray(min(BLOCK, expected)))
    _fill(stream, expected, lambda start, stop: block[: min(stop - start, BLOCK)], source, field)


def _fill(stream: Stream, expected: int, part: Callable[[int, int], memoryview], source: object, field: str) -> None:
    """Read ``expected`` bytes and see that none follows; ``part(start, stop)`` is where some of them go."""
    filled = 0
    try:
        while filled < expected:
            count = stream.readinto(part(filled, min(filled + CHUNK, expected)))
            if not count:
                raise EOFError
            filled += count
        if stream.read(1):
            raise InputError(f"more than {filled} bytes of voxels follow", source=source, field=field, hint=MISMATCHED)
    except EOFError:
        problem = f"the data end after {filled} of {expected} bytes"
        raise InputError(problem, source=source, field=field, hint=TRUNCATED) from None
    except (zlib.error, zipfile.BadZipFile, OSError):
        problem = f"the data are damaged after {filled} of {expected} bytes"
        raise InputError(problem, source=source, field=field, hint="copy or export the file again") from None
