"""A DICOM file up to its pixels: transfer syntax, the elements that are asked for, and where the pixels begin.

Nothing is read into memory whole, and no false length in a file asks for more than the file has: pydicom reads through
a stream that ends where the file ends (DICOM PS3.10 section 7, PS3.5 section 7).
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from edgelung.errors import InputError
from edgelung.runtime.readers._limits import TRUNCATED

__all__ = ["BIG_ENDIAN", "DEFLATED", "DatasetStream", "Part10", "open_stream", "read_part10"]

DICOMDIR = "1.2.840.10008.1.3.10"
IMPLICIT, BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
PIXEL_DATA = (0x7FE00008, 0x7FE00009, 0x7FE00010)  # float, double float and integer pixels
UNDEFINED_LENGTH = 0xFFFFFFFF
MAX_META_BYTES = 1 << 16  # of group 0002, which has some 200
MAX_INFLATED_HEADER = 1 << 26
KEPT_BYTES = 1 << 20  # of what was inflated, for the short way back that pydicom goes
CHUNK = 1 << 16


@dataclass(frozen=True)
class Part10:
    """What a DICOM file says before its pixels.

    Attributes:
        path: The file.
        syntax: Transfer syntax UID.
        dataset: The elements that were asked for; has ``get(keyword)``.
        start: First byte of the data set in the file.
        pixels: Offset of the first byte of PixelData in the data set as it is read (inflated); None without.
        length: Bytes of PixelData; None when the length is undefined, as that of compressed frames is.
        words: Whether 8-bit pixels stand in 16-bit words (OW).
    """

    path: Path
    syntax: str
    dataset: Any
    start: int
    pixels: int | None
    length: int | None
    words: bool


class DatasetStream:
    """The data set of a file, as pydicom reads from it; a read never gives more than the file has.

    Args:
        file: The open file.
        start: Offset of the data set in it.
    """

    def __init__(self, file: BinaryIO, start: int) -> None:
        self._file = file
        self._start = start
        self._size = file.seek(0, io.SEEK_END) - start
        self.seek(0)

    def seek(self, position: int, whence: int = 0) -> int:
        """Go to a position in the data set."""
        if whence or position < 0:
            raise OSError("only forward from the start")
        self._file.seek(self._start + position)
        return position

    def tell(self) -> int:
        """The position in the data set."""
        return self._file.tell() - self._start

    def read(self, count: int = -1) -> bytes:
        """Up to ``count`` bytes, or all."""
        left = max(0, self._size - self.tell())
        return self._file.read(left if count < 0 else min(count, left))


class InflatedStream(DatasetStream):
    """A deflated data set (DICOM PS3.5 A.5), inflated as far as it is read; only the last part is kept.

    Args:
        file: The open file.
        start: Offset of the data set in it.
        limit: Bytes that it may unpack to; reading past them raises OSError.
    """

    def __init__(self, file: BinaryIO, start: int, limit: int) -> None:
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self._kept = bytearray()
        self._kept_from = self._position = 0
        self._limit = limit
        super().__init__(file, start)
        file.seek(start)

    def seek(self, position: int, whence: int = 0) -> int:
        """Go to a position in the inflated data set, not far back."""
        if whence or position < self._kept_from:
            raise OSError("only forward from what is kept")
        self._position = position
        return position

    def tell(self) -> int:
        """The position in the inflated data set."""
        return self._position

    def read(self, count: int = -1) -> bytes:
        """Up to ``count`` bytes, or all up to the limit."""
        end = self._limit if count < 0 else self._position + count
        self._fill(min(end, self._limit))
        at = self._position - self._kept_from
        data = bytes(self._kept[at : at + end - self._position])
        if count > len(data) and not self._inflate.eof and self._position + len(data) >= self._limit:
            raise OSError("unpacks to more than it may")
        self._position += len(data)
        return data

    def _fill(self, end: int) -> None:
        while (have := self._kept_from + len(self._kept)) < end and not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._file.read(CHUNK)
            data = self._inflate.decompress(packed, min(end - have, 16 * CHUNK))
            if not data and not packed:
                return
            self._kept += data
            surplus = min(self._position - self._kept_from, len(self._kept)) - KEPT_BYTES
            if surplus > KEPT_BYTES:
                del self._kept[:surplus]
                self._kept_from += surplus


def open_stream(file: BinaryIO, syntax: str, start: int, limit: int = MAX_INFLATED_HEADER) -> DatasetStream:
    """The data set of an open file, inflated (to ``limit`` bytes at most) where the transfer syntax is deflated."""
    return InflatedStream(file, start, limit) if syntax == DEFLATED else DatasetStream(file, start)


def read_part10(pydicom: ModuleType, path: Path, keywords: Sequence[str]) -> Part10 | None:
    """Read the elements named by ``keywords`` and find the pixels; None for a DICOMDIR.

    Raises:
        InputError: No DICOM file, or a damaged one.
    """
    with path.open("rb") as file:
        syntax, media, start = _meta(pydicom, file, path)
        if media == DICOMDIR:
            return None
        if not syntax:
            raise InputError("is missing", source=path, field="TransferSyntaxUID", hint="export the series again")
        stream = open_stream(file, syntax, start)
        tags = [pydicom.datadict.tag_for_keyword(keyword) for keyword in keywords]
        try:
            dataset = pydicom.filereader.read_dataset(
                stream,
                syntax == IMPLICIT,
                syntax != BIG_ENDIAN,
                stop_when=lambda tag, *_: int(tag) in PIXEL_DATA,
                specific_tags=tags,
            )
            place = _pixels(stream, syntax != BIG_ENDIAN)
        except Exception:  # what pydicom raises on damaged files is not one family, and its text quotes values
            raise InputError("the DICOM data set is damaged", source=path, hint=TRUNCATED) from None
    return Part10(path, syntax, dataset, start, *place)


def _meta(pydicom: ModuleType, file: BinaryIO, path: Path) -> tuple[str, str, int]:
    """Transfer syntax and media class of a file, and where its data set begins."""
    begin = file.read(MAX_META_BYTES)
    try:
        if begin[128:132] != b"DICM":
            raise ValueError
        # Not read_file_meta_info: on an open file, a false length asks for 4 GiB.
        data = io.BytesIO(begin[132:])
        meta = pydicom.filereader.read_dataset(data, False, True, stop_when=lambda tag, *_: int(tag) >> 16 != 2)
        syntax, media = str(meta.get("TransferSyntaxUID", "")), str(meta.get("MediaStorageSOPClassUID", ""))
    except Exception:  # whatever pydicom raises on bytes that are no header
        problem = "this is not a DICOM file, or its first bytes are missing"
        raise InputError(problem, source=path, hint="remove it from the folder, or export the series again") from None
    return syntax, media, 132 + data.tell()


def _pixels(stream: DatasetStream, little: bool) -> tuple[int | None, int | None, bool]:
    """Offset, length and word-wise storage of PixelData, at which the stream stands; the offset is None without."""
    order = "little" if little else "big"
    begin = stream.tell()
    head = stream.read(12)
    if len(head) < 8:
        return None, None, False
    group, element = (int.from_bytes(head[at : at + 2], order) for at in (0, 2))  # type: ignore[arg-type]
    if group << 16 | element != PIXEL_DATA[-1]:
        return None, None, False
    kind = head[4:6]
    explicit = kind.isalpha() and kind.isupper()
    at = 8 if explicit else 4
    length = int.from_bytes(head[at : at + 4], order)  # type: ignore[arg-type]
    return begin + at + 4, None if length == UNDEFINED_LENGTH else length, kind != b"OB"
