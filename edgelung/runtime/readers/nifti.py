"""NIfTI-1 in a single file: .nii and .nii.gz, either byte order.

Geometry and its conventions: see :mod:`edgelung.runtime.readers._nifti_forms`.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgelung.errors import InputError
from edgelung.runtime.readers._limits import TRUNCATED, check_held, check_inflatable, checked_volume
from edgelung.runtime.readers._nifti_forms import geometry
from edgelung.runtime.readers._nifti_header import (
    CONVERT,
    HEADER_BYTES,
    NiftiHeader,
    parse_header,
    voxel_shape,
)
from edgelung.runtime.readers._voxels import check_voxels_follow, read_voxels
from edgelung.volume import CtVolume

__all__ = ["read_nifti"]

DTYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
FIRST_VOXEL = 352  # the header and its four extension bytes
MAX_EXTENSION_BYTES = 1 << 24
BLOCK = 1 << 16
MAX_SCALE = 1e6
GZIP_MAGIC = b"\x1f\x8b"


def read_nifti(path: Path) -> CtVolume:
    """Read a .nii or .nii.gz file.

    Args:
        path: The file; whether it is compressed is told by its first bytes and must fit its name.

    Returns:
        Values as stored, or ``stored * scl_slope + scl_inter`` as float32 (float64 for stored types that float32
        cannot hold) when that is not the identity. The index axes (i, j, k) become (width, height, depth).

    Raises:
        InputError: Naming the file and the header field.
    """
    held = path.stat().st_size
    with path.open("rb") as file:
        magic = file.read(2)
        file.seek(0)
        if (magic == GZIP_MAGIC) != path.name.lower().endswith(".gz"):
            is_gzip = magic == GZIP_MAGIC
            raise InputError(
                f"the data are {'' if is_gzip else 'not '}gzip-compressed",
                source=path,
                hint="rename the file to end in .nii.gz" if is_gzip else "check the file, or rename it to end in .nii",
            )
        if magic != GZIP_MAGIC:
            return _read(file, path, held, packed=False)
        with gzip.GzipFile(fileobj=file) as unpacked:
            return _read(unpacked, path, held, packed=True)


def _read(stream: io.BufferedReader | gzip.GzipFile, path: Path, held: int, *, packed: bool) -> CtVolume:
    header = parse_header(_read_bytes(stream, HEADER_BYTES, path), path)
    shape = voxel_shape(header, path)
    spacing, origin, direction = geometry(header, path)
    checked_volume(np.zeros((1, 1, 1), np.int16), spacing, origin, direction, source=path)
    dtype = _dtype(header, path)
    _check_scaling(header, path)
    first = header.vox_offset
    if not (math.isfinite(first) and FIRST_VOXEL <= first <= MAX_EXTENSION_BYTES and first.is_integer()):
        problem = f"{first:g} is no place for the first voxel in a single file"
        raise InputError(problem, source=path, field="vox_offset", hint=CONVERT)
    expected = math.prod(shape) * dtype.itemsize
    if packed:
        check_inflatable(expected, held, source=path, field="dim")
        _check_unpacked(path, int(first), expected)
    else:
        check_held(expected, held - int(first), source=path, field="dim")
    _skip(stream, int(first) - HEADER_BYTES, path)
    hu = read_voxels(stream, shape, dtype, source=path, field="dim")
    return checked_volume(_scaled(hu, header), spacing, origin, direction, source=path)


def _read_bytes(stream: io.BufferedReader | gzip.GzipFile, count: int, path: Path) -> bytes:
    """Up to ``count`` bytes; fewer at the end of the file."""
    try:
        return stream.read(count)
    except EOFError:
        raise InputError("the compressed data end in the header", source=path, hint=TRUNCATED) from None
    except (OSError, zlib.error):
        raise InputError("the compressed data are damaged", source=path, hint="copy the file again") from None


def _skip(stream: io.BufferedReader | gzip.GzipFile, count: int, path: Path) -> None:
    while count > 0 and (block := _read_bytes(stream, min(count, BLOCK), path)):
        count -= len(block)


def _check_unpacked(path: Path, first: int, expected: int) -> None:
    """That a gzip file holds what its NIfTI header promises, before memory is taken for it.

    The last four bytes are the size modulo 2^32 (RFC 1952, ISIZE) of the only part that most files have; where they
    say something else, the file is run through.
    """
    with path.open("rb") as file:
        file.seek(-4, io.SEEK_END)
        stated = int.from_bytes(file.read(4), "little")
    if stated != (first + expected) % 2**32:
        with gzip.open(path) as unpacked:
            _skip(unpacked, first, path)
            check_voxels_follow(unpacked, expected, source=path, field="dim")


def _dtype(header: NiftiHeader, path: Path) -> np.dtype[Any]:
    if header.datatype not in DTYPES:
        problem = f"{header.datatype} is not a scalar integer or float type"
        raise InputError(problem, source=path, field="datatype", hint="write the CT numbers as int16")
    dtype = np.dtype(header.order + DTYPES[header.datatype])
    if header.bitpix != 8 * dtype.itemsize:
        problem = f"{header.bitpix} contradicts datatype {header.datatype} ({8 * dtype.itemsize} bits)"
        raise InputError(problem, source=path, field="bitpix", hint=CONVERT)
    return dtype


def _check_scaling(header: NiftiHeader, path: Path) -> None:
    """Refuse a scaling that readers understand differently.

    By nifti1.h scl_slope = 0 means "no scaling" (nibabel: also NaN); ITK still adds scl_inter then.
    """
    slope, inter = header.scl_slope, header.scl_inter
    no_slope = slope == 0 or math.isnan(slope)
    if math.isinf(slope) or (no_slope and not (inter == 0 or math.isnan(inter))):
        field = "scl_slope" if math.isinf(slope) else "scl_inter"
        problem = f"scl_slope {slope:g} with scl_inter {inter:g}: readers disagree, so HU would be a guess"
        raise InputError(problem, source=path, field=field, hint="write it again with scl_slope 1")
    if not no_slope and not (abs(slope) <= MAX_SCALE and abs(inter) <= MAX_SCALE):
        problem = f"scl_slope {slope:g} with scl_inter {inter:g} does not give Hounsfield units"
        raise InputError(problem, source=path, field="scl_slope", hint="write the CT numbers as int16")


def _scaled(stored: npt.NDArray[Any], header: NiftiHeader) -> npt.NDArray[Any]:
    slope, inter = header.scl_slope, header.scl_inter
    if slope == 0 or math.isnan(slope) or (slope, inter) == (1.0, 0.0):
        return stored
    hu = stored.astype(np.result_type(stored.dtype, np.float32))
    with np.errstate(over="ignore", invalid="ignore"):  # stored floats may be infinite or not a number
        hu *= slope
        hu += inter
    return hu
