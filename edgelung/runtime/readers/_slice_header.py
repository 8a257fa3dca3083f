"""What one DICOM slice states about itself, checked.

A slice is a file, or one frame of a multi-frame file. This works on any object with ``get(keyword)``, so pydicom itself
is imported in :mod:`edgelung.runtime.readers.dicom` only.
Messages hold numbers and names of fields, never a name, number, date or UID of a patient or study.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgelung.errors import InputError
from edgelung.runtime.readers._limits import MAX_AXIS, shown_code
from edgelung.runtime.readers._one_scan import SCAN_KEYWORDS, scan_values

__all__ = ["KEYWORDS", "PixelFormat", "SliceHeader", "number_of_frames", "parse_slice", "text"]

MAX_SLOPE = 2.0**20  # with 32 stored bits and MAX_INTERCEPT, int64 arithmetic cannot overflow
MAX_INTERCEPT = 2.0**31
KEYWORDS = (
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "SliceThickness",
    "SpacingBetweenSlices",
    "GantryDetectorTilt",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    *SCAN_KEYWORDS,
)


@dataclass(frozen=True)
class PixelFormat:
    """How a frame is stored.

    Attributes:
        rows: Height in pixels.
        columns: Width in pixels.
        bits_allocated: Bits that a pixel takes.
        bits_stored: Bits of them that count, the low ones.
        signed: Whether the highest of these is a sign.
    """

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    signed: bool

    @property
    def frame_bytes(self) -> int:
        """Size of an uncompressed frame."""
        return self.rows * self.columns * self.bits_allocated // 8


@dataclass(frozen=True)
class SliceHeader:
    """One CT slice.

    Attributes:
        path: Its file.
        frame: Its index in the file; 0 in a single-frame file.
        form: How its pixels are stored.
        spacing_mm: Between pixel centres along (height, width).
        orientation: LPS unit vectors along which width grows (three numbers) and height grows (three numbers).
        position_mm: LPS (x, y, z) of the centre of the first pixel.
        tilt_degrees: Gantry tilt.
        thickness_mm: SpacingBetweenSlices, or else SliceThickness; None without both.
        slope: HU per stored value.
        intercept: HU of the stored value 0.
        scan: What tells its scan from another one, keyword to text.
    """

    path: Path
    frame: int
    form: PixelFormat
    spacing_mm: tuple[float, float]
    orientation: tuple[float, ...]
    position_mm: tuple[float, ...]
    tilt_degrees: float
    thickness_mm: float | None
    slope: float
    intercept: float
    scan: Mapping[str, str]

    @property
    def whole_numbers(self) -> bool:
        """Whether stored integers stay integers as HU."""
        return self.slope.is_integer() and self.intercept.is_integer()


def number_of_frames(dataset: Any, path: Path) -> int:
    """NumberOfFrames, 1 when it is absent.

    Raises:
        InputError: It is no number of slices.
    """
    frames = _floats(dataset, "NumberOfFrames", 1, path, default=(1.0,))[0]
    if not (1 <= frames <= MAX_AXIS and frames.is_integer()):
        raise _error(path, "NumberOfFrames", f"is {frames:g}, allowed are 1 to {MAX_AXIS}")
    return int(frames)


def parse_slice(dataset: Any, path: Path, frame: int = 0) -> SliceHeader:
    """Read and check the fields of one slice.

    Args:
        dataset: The elements of the slice, for a frame with those that all frames share.
        path: The file.
        frame: Index of the frame in the file.

    Raises:
        InputError: Naming the file and the field.
    """
    row_mm, column_mm = _floats(dataset, "PixelSpacing", 2, path)
    if min(row_mm, column_mm) <= 0:
        raise _error(path, "PixelSpacing", f"is {row_mm:g} x {column_mm:g} mm")
    orientation = _floats(dataset, "ImageOrientationPatient", 6, path)
    vectors = np.array(orientation).reshape(2, 3)
    if np.abs(vectors @ vectors.T - np.eye(2)).max() > 1e-3:
        raise _error(path, "ImageOrientationPatient", "is not two unit vectors at a right angle")
    thickness = _floats(dataset, "SpacingBetweenSlices", 1, path, default=()) or _floats(
        dataset, "SliceThickness", 1, path, default=()
    )
    slope, intercept = _rescale(dataset, path)
    return SliceHeader(
        path,
        frame,
        _pixel_format(dataset, path),
        (row_mm, column_mm),
        orientation,
        _floats(dataset, "ImagePositionPatient", 3, path),
        _floats(dataset, "GantryDetectorTilt", 1, path, default=(0.0,))[0],
        thickness[0] if thickness else None,
        slope,
        intercept,
        scan_values(dataset),
    )


def _rescale(dataset: Any, path: Path) -> tuple[float, float]:
    """RescaleSlope and RescaleIntercept that give Hounsfield units."""
    slope = _floats(dataset, "RescaleSlope", 1, path)[0]
    intercept = _floats(dataset, "RescaleIntercept", 1, path)[0]
    if not 0 < abs(slope) <= MAX_SLOPE or abs(intercept) > MAX_INTERCEPT:
        raise _error(path, "RescaleSlope", f"{slope:g} with RescaleIntercept {intercept:g} does not give HU")
    if text(dataset, "RescaleType", path) not in ("", "HU", "US"):  # US: unspecified, written by some CT scanners
        raise _error(path, "RescaleType", "the values are not Hounsfield units")
    return slope, intercept


def _pixel_format(dataset: Any, path: Path) -> PixelFormat:
    """The format of a grey-scale slice whose stored bits fill the low end of a pixel."""
    rows, columns = (_size(dataset, field, path) for field in ("Rows", "Columns"))
    if _floats(dataset, "SamplesPerPixel", 1, path) != (1.0,):
        raise _error(path, "SamplesPerPixel", "a CT pixel is one number")
    photometric = text(dataset, "PhotometricInterpretation", path)
    if photometric != "MONOCHROME2":
        raise _error(path, "PhotometricInterpretation", f"is {shown_code(photometric)}, CT slices are MONOCHROME2")
    allocated = _floats(dataset, "BitsAllocated", 1, path)[0]
    stored = _floats(dataset, "BitsStored", 1, path)[0]
    high = _floats(dataset, "HighBit", 1, path, default=(stored - 1,))[0]
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated or high != stored - 1 or stored % 1:
        raise _error(path, "BitsStored", f"{stored:g} of {allocated:g} bits with the highest at {high:g} are not read")
    signed = _floats(dataset, "PixelRepresentation", 1, path)[0]
    if signed not in (0, 1):
        raise _error(path, "PixelRepresentation", "is neither 0 nor 1")
    return PixelFormat(rows, columns, int(allocated), int(stored), signed == 1)


def _size(dataset: Any, field: str, path: Path) -> int:
    size = _floats(dataset, field, 1, path)[0]
    if not (1 <= size <= MAX_AXIS and size.is_integer()):
        raise _error(path, field, f"is {size:g}, allowed are 1 to {MAX_AXIS}")
    return int(size)


def _error(path: Path, field: str, problem: str) -> InputError:
    return InputError(problem, source=path, field=field, hint="export the series again from the archive or scanner")


def _value(dataset: Any, field: str, path: Path) -> Any:
    try:
        return dataset.get(field)
    except Exception:  # pydicom decodes on access, and what damaged values raise there is not one family
        raise _error(path, field, "cannot be decoded") from None


def text(dataset: Any, field: str, path: Path) -> str:
    """The value of an element as text; empty without."""
    value = _value(dataset, field, path)
    return str(value).strip() if value is not None else ""


def _floats(
    dataset: Any, field: str, count: int, path: Path, default: tuple[float, ...] | None = None
) -> tuple[float, ...]:
    value = _value(dataset, field, path)
    if value is None or value == "":
        if default is None:
            raise _error(path, field, "is missing")
        return default
    try:
        # float(str(..)): pydicom's own number types and plain ones alike, but not bytes.
        items = [value] if count == 1 else list(value)
        numbers = tuple(float(str(item)) for item in items)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise _error(path, field, f"must be {count} finite number{'s' if count > 1 else ''}")
    return numbers
