"""Where each frame of PixelData lies in a file, checked before any memory is taken, and the frames one after another.

Native frames lie end to end. Compressed frames lie in fragments behind item headers (DICOM PS3.5 A.4); which fragments
belong together is told by their number, or by an offset table.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from edgelung.errors import InputError
from edgelung.runtime.readers._limits import TRUNCATED, check_inflatable
from edgelung.runtime.readers._part10 import DEFLATED, DatasetStream, Part10, open_stream

__all__ = ["Spans", "find_frames", "read_frames"]

Spans = tuple[tuple[int, int], ...]  # (offset, length) of the pieces of one frame
ITEM, DELIMITER = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
MAX_FRAGMENTS = 1 << 18
FIELD = "PixelData"


def find_frames(part: Part10, frames: int, frame_bytes: int, pixels: str, *, native: bool) -> list[Spans]:
    """Where each frame lies in the data set.

    Args:
        part: The file.
        frames: How many frames it must have.
        frame_bytes: Size of an uncompressed frame.
        pixels: The size of a frame, for messages.
        native: Whether the frames are uncompressed.

    Raises:
        InputError: Fewer or more frames or bytes.
    """
    if not native:
        return _fragments(part, frames)
    needed = frames * frame_bytes
    held = part.length or 0
    if part.pixels is not None and part.syntax == DEFLATED:
        check_inflatable(needed, part.path.stat().st_size, source=part.path, field=FIELD)
    elif part.pixels is not None:
        held = min(held, part.path.stat().st_size - part.start - part.pixels)
    if part.pixels is None or not needed <= held <= needed + needed % 2:
        problem = f"{pixels} need {needed} bytes, the file has {max(held, 0)}"
        raise InputError(problem, source=part.path, field=FIELD, hint=TRUNCATED)
    return [((part.pixels + index * frame_bytes, frame_bytes),) for index in range(frames)]


def read_frames(part: Part10, spans: Sequence[Spans]) -> Iterator[bytes]:
    """The bytes of each frame, in the order of the file; one frame is in memory at a time.

    Raises:
        InputError: The file ends too early.
    """
    with part.path.open("rb") as file:
        stream = open_stream(file, part.syntax, part.start, limit=(part.pixels or 0) + (part.length or 0))
        for pieces in spans:
            try:
                frame = b"".join(_piece(stream, offset, length) for offset, length in pieces)
            except Exception:  # zlib's own error among them
                raise InputError("the data end too early", source=part.path, field=FIELD, hint=TRUNCATED) from None
            yield frame


def _piece(stream: DatasetStream, offset: int, length: int) -> bytes:
    stream.seek(offset)
    data = stream.read(length)
    if len(data) != length:
        raise EOFError
    return data


def _fragments(part: Part10, frames: int) -> list[Spans]:
    def refuse(problem: str) -> InputError:
        return InputError(problem, source=part.path, field=FIELD, hint=TRUNCATED)

    if part.pixels is None or part.length is not None:
        raise refuse("is missing" if part.pixels is None else "holds no compressed frames, which the syntax promises")
    with part.path.open("rb") as file:
        try:
            table, items = _items(DatasetStream(file, part.start), part.pixels)
        except (EOFError, OSError, ValueError):
            raise refuse("the compressed frames end too early or are damaged") from None
    if len(items) == frames:
        return [(item,) for item in items]
    if frames == 1 and items:
        return [tuple(items)]
    starts = _offsets(part.dataset, table)
    first = items[0][0] - 8 if items else 0
    places = {offset - 8 - first: index for index, (offset, _) in enumerate(items)}
    cuts = [places.get(start, -1) for start in starts]
    if len(cuts) != frames or cuts[:1] != [0] or any(b <= a for a, b in itertools.pairwise(cuts)):
        raise refuse(f"NumberOfFrames is {frames}, the file has {len(items)} compressed pieces and no table of frames")
    return [tuple(items[begin:end]) for begin, end in zip(cuts, [*cuts[1:], len(items)], strict=True)]


def _items(stream: DatasetStream, at: int) -> tuple[bytes, list[tuple[int, int]]]:
    """The basic offset table, and (offset, length) of every fragment."""
    table: bytes | None = None
    items: list[tuple[int, int]] = []
    while True:
        group, element, length = struct.unpack("<HHL", _piece(stream, at, 8))
        if (group, element) == DELIMITER and table is not None:
            return table, items
        if (group, element) != ITEM or len(items) > MAX_FRAGMENTS:
            raise ValueError
        at += 8
        if table is None:
            table = _piece(stream, at, length)
        else:
            if length:
                _piece(stream, at + length - 1, 1)  # it is there to its last byte
            items.append((at, length))
        at += length


def _offsets(dataset: Any, basic: bytes) -> list[int]:
    """Where frames begin, in bytes after the first fragment's item header, by the extended or the basic table."""
    try:
        extended = dataset.get("ExtendedOffsetTable")
    except Exception:  # whatever pydicom raises on a damaged element; without offsets the frames are refused
        return []
    if isinstance(extended, bytes) and extended and len(extended) % 8 == 0:
        return list(struct.unpack(f"<{len(extended) // 8}Q", extended))
    return list(struct.unpack(f"<{len(basic) // 4}L", basic)) if len(basic) % 4 == 0 else []
