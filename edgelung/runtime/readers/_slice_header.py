"""What one DICOM slice states about itself, checked.

Works on any object with ``get(keyword)``, so pydicom itself is imported in :mod:`edgelung.runtime.readers.dicom` only.
Messages hold numbers and names of fields, never a name, number, date or UID of a patient or study.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgelung.errors import InputError
from edgelung.runtime.readers._limits import MAX_AXIS, shown

__all__ = ["KEYWORDS", "SliceHeader", "check_is_ct", "parse_slice"]

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
MULTI_FRAME_CT = (CT_IMAGE + ".1", CT_IMAGE + ".2")  # Enhanced CT, Legacy Converted Enhanced CT
MAX_SLOPE = 2.0**20  # with 32 stored bits and MAX_INTERCEPT, int64 arithmetic cannot overflow
MAX_INTERCEPT = 2.0**31
KEYWORDS = (
    "SOPClassUID",
    "Modality",
    "SeriesInstanceUID",
    "NumberOfFrames",
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
)


@dataclass(frozen=True)
class SliceHeader:
    """One single-frame CT slice.

    Attributes:
        path: Its file.
        rows: Height in pixels.
        columns: Width in pixels.
        spacing_mm: Between pixel centres along (height, width).
        orientation: LPS unit vectors along which width grows (three numbers) and height grows (three numbers).
        position_mm: LPS (x, y, z) of the centre of the first pixel.
        tilt_degrees: Gantry tilt.
        thickness_mm: SpacingBetweenSlices, or else SliceThickness; None without both.
        bits: Bits allocated for a pixel.
        slope: HU per stored value.
        intercept: HU of the stored value 0.
    """

    path: Path
    rows: int
    columns: int
    spacing_mm: tuple[float, float]
    orientation: tuple[float, ...]
    position_mm: tuple[float, ...]
    tilt_degrees: float
    thickness_mm: float | None
    bits: int
    slope: float
    intercept: float

    @property
    def stored_bytes(self) -> int:
        """Size of the uncompressed pixels."""
        return self.rows * self.columns * self.bits // 8

    @property
    def whole_numbers(self) -> bool:
        """Whether stored integers stay integers as HU."""
        return self.slope.is_integer() and self.intercept.is_integer()


def check_is_ct(dataset: Any, path: Path) -> None:
    """That a data set is a single-frame CT slice. Without Modality the SOP class decides.

    Raises:
        InputError: It is something else.
    """
    modality, sop_class = _text(dataset, "Modality", path), _text(dataset, "SOPClassUID", path)
    if modality != "CT" and (modality or sop_class != CT_IMAGE):
        problem = f"is {shown(modality)}, not CT" if modality else "is missing, and this is no CT Image Storage"
        raise InputError(problem, source=path, field="Modality", hint="give a folder with one CT series")
    frames = _floats(dataset, "NumberOfFrames", 1, path, default=(1.0,))[0]
    if sop_class in MULTI_FRAME_CT or frames != 1:
        raise InputError(
            "a multi-frame file is not read: its slices have their geometry elsewhere",
            source=path,
            field="NumberOfFrames",
            hint="convert it to .nii.gz or .mha, for example with dcm2niix or SimpleITK",
        )


def parse_slice(dataset: Any, path: Path) -> SliceHeader:
    """Read and check the fields of one slice.

    Raises:
        InputError: Naming the file and the field.
    """
    rows, columns = (_size(dataset, field, path) for field in ("Rows", "Columns"))
    bits = _check_pixels(dataset, path)
    row_mm, column_mm = _floats(dataset, "PixelSpacing", 2, path)
    if min(row_mm, column_mm) <= 0:
        raise _error(path, "PixelSpacing", f"is {row_mm:g} x {column_mm:g} mm")
    orientation = _floats(dataset, "ImageOrientationPatient", 6, path)
    vectors = np.array(orientation).reshape(2, 3)
    if np.abs(vectors @ vectors.T - np.eye(2)).max() > 1e-3:
        raise _error(path, "ImageOrientationPatient", "is not two unit vectors at a right angle")
    slope = _floats(dataset, "RescaleSlope", 1, path)[0]
    intercept = _floats(dataset, "RescaleIntercept", 1, path)[0]
    if not 0 < abs(slope) <= MAX_SLOPE or abs(intercept) > MAX_INTERCEPT:
        raise _error(path, "RescaleSlope", f"{slope:g} with RescaleIntercept {intercept:g} does not give HU")
    if _text(dataset, "RescaleType", path) not in ("", "HU", "US"):  # US: unspecified, written by some CT scanners
        raise _error(path, "RescaleType", "the values are not Hounsfield units")
    thickness = _floats(dataset, "SpacingBetweenSlices", 1, path, default=()) or _floats(
        dataset, "SliceThickness", 1, path, default=()
    )
    return SliceHeader(
        path,
        rows,
        columns,
        (row_mm, column_mm),
        orientation,
        _floats(dataset, "ImagePositionPatient", 3, path),
        _floats(dataset, "GantryDetectorTilt", 1, path, default=(0.0,))[0],
        thickness[0] if thickness else None,
        bits,
        slope,
        intercept,
    )


def _check_pixels(dataset: Any, path: Path) -> int:
    """BitsAllocated of a grey-scale slice whose stored bits fill the low end of a pixel."""
    if _floats(dataset, "SamplesPerPixel", 1, path) != (1.0,):
        raise _error(path, "SamplesPerPixel", "a CT pixel is one number")
    photometric = _text(dataset, "PhotometricInterpretation", path)
    if photometric != "MONOCHROME2":
        raise _error(path, "PhotometricInterpretation", f"is {shown(photometric)}, CT slices are MONOCHROME2")
    allocated = _floats(dataset, "BitsAllocated", 1, path)[0]
    stored = _floats(dataset, "BitsStored", 1, path)[0]
    high = _floats(dataset, "HighBit", 1, path, default=(stored - 1,))[0]
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated or high != stored - 1 or stored % 1:
        raise _error(path, "BitsStored", f"{stored:g} of {allocated:g} bits with the highest at {high:g} are not read")
    if _floats(dataset, "PixelRepresentation", 1, path)[0] not in (0, 1):
        raise _error(path, "PixelRepresentation", "is neither 0 nor 1")
    return int(allocated)


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


def _text(dataset: Any, field: str, path: Path) -> str:
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
