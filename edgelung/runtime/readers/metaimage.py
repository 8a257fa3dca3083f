"""MetaImage: .mhd with its data file, and .mha with the data inside.

The format is described at https://itk.org/Wiki/MetaIO/Documentation. What that leaves open is read as ITK 5.4 does:
each row of TransformMatrix is the direction of one index axis (so the matrix is the transpose of the one SimpleITK
shows), MET_LONG has four bytes, and AnatomicalOrientation and CenterOfRotation are ignored.

ITK fills in what is missing or odd; here that is an InputError: no ElementSpacing, a spacing that is not positive, data
longer than the header says, a unit other than mm, an intensity function that ITK would leave out.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgelung.runtime.readers._limits import (
    USUAL_RATIO,
    check_held,
    check_inflatable,
    check_shape,
    check_spacing,
    checked_volume,
)
from edgelung.runtime.readers._metaheader import MetaHeader, read_header
from edgelung.runtime.readers._voxels import Inflater, check_voxels_follow, read_voxels
from edgelung.volume import CtVolume

__all__ = ["read_metaimage"]

DTYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
CONVERT = "write it again with SimpleITK: sitk.WriteImage(sitk.ReadImage(old), 'new.mha')"


def read_metaimage(path: Path) -> CtVolume:
    """Read an .mhd or .mha file.

    Args:
        path: The header file; the data of an .mhd lie in the same folder.

    Returns:
        Values as stored. The MetaImage index axes (x, y, z) become (width, height, depth).

    Raises:
        InputError: Naming the file and the header field.
    """
    with path.open("rb") as file:
        header = read_header(file, path)
        _refuse_what_would_be_lost(header)
        columns, rows, slices = header.integers("DimSize", 3)
        shape = check_shape((slices, rows, columns), source=path, field="DimSize")
        dtype = _dtype(header)
        x_mm, y_mm, z_mm = header.floats(header.one_of("ElementSpacing", "ElementSize"), 3)
        spacing = check_spacing((z_mm, y_mm, x_mm), source=path, field="ElementSpacing")
        origin = header.floats(header.one_of("Offset", "Position", "Origin"), 3, default=(0.0, 0.0, 0.0))
        matrix = header.floats(
            header.one_of("TransformMatrix", "Rotation", "Orientation"), 9, default=(1.0, 0, 0, 0, 1, 0, 0, 0, 1)
        )
        direction = np.array(matrix).reshape(3, 3)[::-1].T  # rows x, y, z become columns depth, height, width
        # A first look at the geometry, so that a broken one is refused before the data are read.
        checked_volume(np.zeros((1, 1, 1), np.int16), spacing, origin, direction, source=path)
        if header.text("ElementDataFile").upper() == "LOCAL":
            hu = _read_data(header, file, path, shape, dtype)
        else:
            data = _data_file(header)
            with data.open("rb") as stream:
                hu = _read_data(header, stream, data, shape, dtype)
    return checked_volume(hu, spacing, origin, direction, source=path)


def _refuse_what_would_be_lost(header: MetaHeader) -> None:
    expected: tuple[tuple[str, tuple[str, ...], str], ...] = (
        ("ObjectType", ("image",), "is not an image"),
        ("NDims", ("3",), "a CT series has 3 dimensions"),
        ("BinaryData", ("true", "1"), "data written as text are not read"),
        ("DistanceUnits", ("mm", "?"), "lengths must be in mm"),
    )
    for field, allowed, reason in expected:
        if header.text(field, allowed[0]).lower() not in allowed:
            raise header.error(field, reason, CONVERT)
    if header.integers("ElementNumberOfChannels", 1, default=(1,)) != (1,):
        raise header.error("ElementNumberOfChannels", "a CT voxel is one number", "write one channel as a file")
    slope = header.floats("ElementToIntensityFunctionSlope", 1, default=(1.0,))
    offset = header.floats("ElementToIntensityFunctionOffset", 1, default=(0.0,))
    if (slope, offset) != ((1.0,), (0.0,)):
        field = "ElementToIntensityFunctionSlope" if slope != (1.0,) else "ElementToIntensityFunctionOffset"
        raise header.error(
            field, "readers disagree whether it applies, so HU would be a guess", "store the final HU without it"
        )


def _dtype(header: MetaHeader) -> np.dtype[Any]:
    element_type = header.text("ElementType")
    if element_type not in DTYPES:
        raise header.error("ElementType", f"is not one of {', '.join(DTYPES)}", CONVERT)
    msb = header.flag("BinaryDataByteOrderMSB") or header.flag("ElementByteOrderMSB")
    return np.dtype((">" if msb else "<") + DTYPES[element_type])


def _data_file(header: MetaHeader) -> Path:
    name = header.text("ElementDataFile")
    if name.upper() == "LIST" or "%" in name:
        raise header.error("ElementDataFile", "data in one file per slice are not read", CONVERT)
    # A header from a stranger must not reach files elsewhere.
    if "/" in name or "\\" in name or "\0" in name or name in ("", ".", ".."):
        raise header.error("ElementDataFile", "must be the plain name of a file in the same folder", "move it there")
    data = header.source.with_name(name)
    if not data.is_file():
        raise header.error("ElementDataFile", "there is no such file beside the header", "copy both files")
    return data


def _read_data(
    header: MetaHeader, file: io.BufferedReader, source: Path, shape: tuple[int, int, int], dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    """The voxels of ``file``, which stands at the first byte after the header, or at the start of a data file."""
    expected = math.prod(shape) * dtype.itemsize
    compressed = header.flag("CompressedData")
    held = source.stat().st_size - file.tell()
    (skip,) = header.integers("HeaderSize", 1, default=(0,))
    if skip and source == header.source:
        raise header.error("HeaderSize", "data inside the header file follow it directly", CONVERT)
    if skip < -1 or skip > held or (skip == -1 and compressed):
        raise header.error("HeaderSize", f"does not fit a data file of {held} bytes", CONVERT)
    if skip == -1:  # the data are the last bytes of the file
        skip = max(held - expected, 0)
    file.seek(skip, io.SEEK_CUR)
    held -= skip
    if not compressed:
        check_held(expected, held, source=source, field="DimSize")
        return read_voxels(file, shape, dtype, source=source, field="DimSize")
    (packed,) = header.integers("CompressedDataSize", 1, default=(held,))
    if packed != held:
        raise header.error("CompressedDataSize", f"the file holds {held} compressed bytes", "copy the file again")
    check_inflatable(expected, held, source=source, field="DimSize")
    if expected > held * USUAL_RATIO:
        start = file.tell()
        check_voxels_follow(Inflater(file), expected, source=source, field="DimSize")
        file.seek(start)
    return read_voxels(Inflater(file), shape, dtype, source=source, field="DimSize")
