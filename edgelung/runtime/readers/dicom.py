"""DICOM CT: a folder of slices or of multi-frame files, or one file of either kind.

Needs pydicom 3 (``pip install "edgelung[dicom]"``), imported on the first call. All headers are read and checked before
memory is taken for the volume; then it is filled frame by frame.

No message holds a patient's or study's name, number, date or UID; pydicom's own warnings and log lines are silenced
while it reads, because they quote values. That switch is per process: read one DICOM series at a time per process.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgelung.errors import InputError
from edgelung.runtime.readers._decoders import check_decodable, decode, is_native
from edgelung.runtime.readers._frames import FILE_KEYWORDS, is_localizer, is_multi_frame, slices_of
from edgelung.runtime.readers._limits import checked_volume
from edgelung.runtime.readers._part10 import Part10, read_part10
from edgelung.runtime.readers._pixel_data import Spans, find_frames, read_frames
from edgelung.runtime.readers._slice_header import SliceHeader
from edgelung.runtime.readers._slice_stack import SliceStack, stack_slices
from edgelung.volume import CtVolume

__all__ = ["list_slices", "read_dicom"]

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
NO_PREAMBLE = (b"\x08\x00", b"\x02\x00", b"\x00\x08")  # first group of a data set written without its preamble


@dataclass(frozen=True)
class SliceFile:
    """A file of the series.

    Attributes:
        part: What it says before its pixels.
        slices: Its slices, in the order of its frames.
        spans: Where each frame lies.
    """

    part: Part10
    slices: Sequence[SliceHeader]
    spans: Sequence[Spans]


def list_slices(folder: Path) -> list[Path]:
    """Files of a folder that are DICOM, or claim to be, by name. Sub-folders and hidden files are left alone.

    A file counts when it has the DICOM preamble, a DICOM name, or starts like a data set without preamble.
    """
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        with path.open("rb") as file:
            start = file.read(132)
        if start[128:] == b"DICM" or path.suffix.lower() in DICOM_SUFFIXES or start[:2] in NO_PREAMBLE:
            found.append(path)
    return found


def read_dicom(source: Path, files: Sequence[Path]) -> CtVolume:
    """Read one CT series.

    Args:
        source: The folder, or the single file, as the user named it.
        files: Its DICOM files in any order; a DICOMDIR among them is left out.

    Returns:
        HU = stored * RescaleSlope + RescaleIntercept, each slice with its own. Whole numbers come as int16 when all
        values fit and as int32 otherwise; with a fractional slope or intercept anywhere all slices are float32.
        Values outside the scan (such as -2048) are kept. Depth grows along the normal, the cross product of the
        row and column directions; its spacing is the mean distance of the slices.

    Raises:
        InputError: Naming the folder or file and the DICOM field.
    """
    pydicom = _pydicom()
    with _quiet():
        parts = [part for part in (read_part10(pydicom, path, FILE_KEYWORDS) for path in files) if part is not None]
        if not parts:
            problem = "holds a DICOMDIR but no slices"
            raise InputError(problem, source=source, hint="give the folder that holds the slices")
        _check_no_localizer(parts, source)
        _check_one_series(parts, source)
        _check_one_kind(parts, source)
        _check_concatenation(parts, source)
        slices = [slices_of(part) for part in parts]
        stack = stack_slices(list(itertools.chain(*slices)), source)
        series = [_slice_file(pydicom, part, headers) for part, headers in zip(parts, slices, strict=True)]
        hu = _fill(series, stack, source)
    return checked_volume(hu, stack.spacing_mm, stack.origin_mm, stack.direction, source=source)


def _pydicom() -> ModuleType:
    try:
        import pydicom
        import pydicom.filereader
    except ImportError:
        raise InputError("reading DICOM needs pydicom 3", hint='pip install "edgelung[dicom]"') from None
    return pydicom


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _check_no_localizer(parts: Sequence[Part10], source: Path) -> None:
    found = [part for part in parts if is_localizer(part)]
    if found:
        count = f"{len(found)} of {len(parts)} files {'are localizers' if len(found) > 1 else 'is a localizer'}"
        problem = f"{count} (scout images, not slices), first {found[0].path.name}"
        hint = "move them out of the folder" if len(found) < len(parts) else "give the folder that holds the slices"
        raise InputError(problem, source=source, field="ImageType", hint=hint)


def _check_one_series(parts: Sequence[Part10], source: Path) -> None:
    field = "SeriesInstanceUID"
    try:
        counts = Counter(str(part.dataset.get(field) or "") for part in parts)
    except Exception:  # whatever pydicom raises on a damaged element
        raise InputError("cannot be read", source=source, field=field, hint="export the series again") from None
    if "" in counts:
        problem = f"{counts['']} of {len(parts)} files do not say which series they belong to"
        raise InputError(problem, source=source, field=field, hint="export the series again")
    if len(counts) > 1:
        sizes = ", ".join(str(count) for _, count in counts.most_common(5)) + (", ..." if len(counts) > 5 else "")
        problem = f"{len(counts)} series in one folder ({sizes} files)"
        raise InputError(problem, source=source, field=field, hint="put each series in a folder of its own")


def _check_concatenation(parts: Sequence[Part10], source: Path) -> None:
    """That every file of a multi-frame image that was split for transfer is there (DICOM PS3.3 C.7.6.16.2.2.4)."""
    field = "InConcatenationTotalNumber"
    try:
        whole = {str(part.dataset.get("ConcatenationUID")): int(part.dataset.get(field) or 0) for part in parts}
        counts = Counter(str(part.dataset.get("ConcatenationUID")) for part in parts)
    except Exception:  # likewise
        raise InputError("cannot be read", source=source, field=field, hint="export the series again") from None
    for uid, total in whole.items():
        if uid != "None" and total > counts[uid]:
            problem = f"the image was split into {total} files, {counts[uid]} of them are here"
            raise InputError(problem, source=source, field=field, hint="copy or export the whole series again")


def _check_one_kind(parts: Sequence[Part10], source: Path) -> None:
    kinds = Counter(is_multi_frame(part) for part in parts)
    if len(kinds) > 1:
        problem = f"{kinds[False]} single-slice and {kinds[True]} multi-frame files lie in one folder"
        hint = "put each kind in a folder of its own: they may hold the same scan twice"
        raise InputError(problem, source=source, field="NumberOfFrames", hint=hint)


def _slice_file(pydicom: ModuleType, part: Part10, slices: Sequence[SliceHeader]) -> SliceFile:
    """A file with the places of its frames, checked before memory is taken for them."""
    name = str(pydicom.uid.UID(part.syntax).name)
    check_decodable(part.syntax, "a private transfer syntax" if name == part.syntax else name, part.path)
    form = slices[0].form
    pixels = f"{form.rows} x {form.columns} pixels"
    if len(slices) > 1:
        pixels = f"{len(slices)} frames of {pixels}"
    spans = find_frames(part, len(slices), form.frame_bytes, pixels, native=is_native(part.syntax))
    return SliceFile(part, slices, spans)


def _fill(series: Sequence[SliceFile], stack: SliceStack, source: Path) -> npt.NDArray[Any]:
    """The volume, one frame decoded after another; the first before memory is taken for all."""
    whole = all(header.whole_numbers for header in stack.slices)
    depths = {(header.path, header.frame): depth for depth, header in enumerate(stack.slices)}
    volume: npt.NDArray[Any] | None = None
    try:
        for file in series:
            for header, frame in zip(file.slices, read_frames(file.part, file.spans), strict=True):
                stored = decode(frame, file.part.syntax, header.form, words=file.part.words, source=header.path)
                if volume is None:
                    volume = np.empty(stack.shape, np.int16 if whole else np.float32)
                volume = _place(volume, depths[header.path, header.frame], stored, header)
    except MemoryError:
        problem = f"no memory for {stack.shape[0]} slices"
        raise InputError(problem, source=source, hint="crop or split the series") from None
    if volume is None:
        raise InputError("holds no slices", source=source, hint="give the folder that holds the slices")
    return volume


def _place(volume: npt.NDArray[Any], depth: int, stored: npt.NDArray[Any], header: SliceHeader) -> npt.NDArray[Any]:
    """Put a slice into the volume as HU; the volume becomes int32 when int16 does not hold the slice."""
    if volume.dtype == np.float32:
        volume[depth] = stored * header.slope + header.intercept
        return volume
    ends = [int(end) * int(header.slope) + int(header.intercept) for end in (stored.min(), stored.max())]
    if volume.dtype == np.int16 and not _fits(ends, np.int16):
        volume = volume.astype(np.int32)
    if not _fits(ends, np.int32):
        problem = f"values up to {max(ends, key=abs)} are no Hounsfield units"
        raise InputError(problem, source=header.path, field="RescaleSlope", hint="export the series again")
    # Arithmetic modulo 2**bits is exact here: the ends show that every result fits.
    target = volume[depth]
    target[...] = stored.astype(target.dtype)
    target *= np.array(int(header.slope)).astype(target.dtype)
    target += np.array(int(header.intercept)).astype(target.dtype)
    return volume


def _fits(ends: Sequence[int], kind: type[np.integer[Any]]) -> bool:
    return min(ends) >= np.iinfo(kind).min and max(ends) <= np.iinfo(kind).max
