"""NumPy files: .npy with a spacing from the caller, .npz with its geometry inside.

Nothing is ever unpickled. Headers are compared with the file's size before memory is taken.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from edgelung.errors import InputError
from edgelung.runtime.readers._limits import (
    check_held,
    check_inflatable,
    check_shape,
    check_spacing,
    checked_volume,
    shown,
)
from edgelung.runtime.readers._voxels import Stream, read_voxels
from edgelung.volume import CtVolume

__all__ = ["read_npy", "read_npz"]

AXIAL = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))  # depth to +z, height to +y, width to +x
NPZ_HINT = "save it with numpy.savez(file, hu=..., spacing_mm=[depth, height, width], origin_mm=..., direction=...)"
SMALL_SHAPES = {"spacing_mm": (3,), "origin_mm": (3,), "direction": (3, 3)}
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError, KeyError)


def read_npy(path: Path, spacing_mm: Sequence[float] | None) -> CtVolume:
    """Read a (depth, height, width) array; origin (0, 0, 0), axial direction.

    Args:
        path: The .npy file.
        spacing_mm: Along (depth, height, width), which the file cannot hold.

    Raises:
        InputError: Naming the file and what is wrong.
    """
    if spacing_mm is None:
        raise InputError(
            "an .npy file does not hold its voxel spacing",
            source=path,
            field="spacing_mm",
            hint="give it with --spacing-mm D H W (millimetres), or save an .npz with hu, spacing_mm, origin_mm and"
            " direction",
        )
    spacing = check_spacing(spacing_mm, source=path, field="spacing_mm")
    with path.open("rb") as file:
        shape, fortran, dtype = _array_header(file, path, "hu")
        checked = _check_voxels(shape, dtype, path)
        check_held(math.prod(checked) * dtype.itemsize, path.stat().st_size - file.tell(), source=path, field="shape")
        hu = _voxels(file, checked, fortran, dtype, path)
    return checked_volume(hu, spacing, (0.0, 0.0, 0.0), AXIAL, source=path)


def read_npz(path: Path) -> CtVolume:
    """Read ``hu``, ``spacing_mm`` and, if there, ``origin_mm`` and ``direction``, as :class:`CtVolume` has them.

    Args:
        path: The .npz file, compressed or not. Other arrays in it are left alone.

    Raises:
        InputError: Naming the file and the array.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, path)
            numbers = {key: _small_array(archive, members[key], path, key) for key in SMALL_SHAPES if key in members}
            spacing = check_spacing(numbers["spacing_mm"].tolist(), source=path, field="spacing_mm")
            origin = numbers.get("origin_mm", np.zeros(3)).tolist()
            direction = numbers.get("direction", np.array(AXIAL))
            checked_volume(np.zeros((1, 1, 1), np.int16), spacing, origin, direction, source=path)
            hu = _member_voxels(archive, members["hu"], path)
    except DAMAGED:
        raise InputError("the zip archive is damaged", source=path, hint=NPZ_HINT) from None
    return checked_volume(hu, spacing, origin, direction, source=path)


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        key = info.filename.removesuffix(".npy")
        if key != "hu" and key not in SMALL_SHAPES:
            continue
        if key in members:
            raise InputError("stands twice in the archive", source=path, field=key, hint=NPZ_HINT)
        if info.flag_bits & 1:
            raise InputError("the archive is encrypted", source=path, field=key, hint="save it without a password")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError("has a compression that numpy never writes", source=path, field=key, hint=NPZ_HINT)
        members[key] = info
    for key in ("hu", "spacing_mm"):
        if key not in members:
            names = shown(", ".join(archive.namelist()[:8]))
            raise InputError(f"is missing; the archive holds {names}", source=path, field=key, hint=NPZ_HINT)
    return members


def _small_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, key: str) -> npt.NDArray[np.float64]:
    with archive.open(info) as file:
        data = io.BytesIO(file.read(1 << 16))
    shape, fortran, dtype = _array_header(data, path, key)
    count = math.prod(SMALL_SHAPES[key])
    if shape != SMALL_SHAPES[key] or dtype.kind not in "iuf":
        problem = f"must be numbers of shape {SMALL_SHAPES[key]}, not {shown(dtype)} of shape {shown(shape)}"
        raise InputError(problem, source=path, field=key, hint=NPZ_HINT)
    values = np.frombuffer(data.read(), dtype)
    if values.size != count or not np.isfinite(values).all():
        raise InputError(f"must hold {count} finite numbers", source=path, field=key, hint=NPZ_HINT)
    return values.astype(np.float64).reshape(shape, order="F" if fortran else "C")


def _member_voxels(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> npt.NDArray[Any]:
    with archive.open(info) as file:
        shape, fortran, dtype = _array_header(file, path, "hu")
        checked = _check_voxels(shape, dtype, path)
        expected = math.prod(checked) * dtype.itemsize
        # ZipExtFile gives never more than file_size bytes; what is claimed there must fit what is packed.
        check_held(expected, info.file_size - file.tell(), source=path, field="hu")
        check_inflatable(expected, min(info.compress_size, path.stat().st_size), source=path, field="hu")
        return _voxels(cast(Stream, file), checked, fortran, dtype, path)


def _array_header(file: IO[bytes], path: Path, key: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = npy_format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = npy_format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran, dtype = npy_format.read_array_header_2_0(file)
        else:
            raise ValueError
    except Exception:  # numpy parses Python text here: SyntaxError, TokenError, RecursionError, TypeError and more
        problem = "this is not an array in NumPy's .npy format, version 1 or 2"
        raise InputError(problem, source=path, field=key, hint="save it again with numpy.save or numpy.savez") from None
    if dtype.hasobject:
        problem = "the array holds pickled Python objects, which are never loaded"
        raise InputError(problem, source=path, field=key, hint="save numbers: array.astype(numpy.int16)")
    return tuple(shape), bool(fortran), dtype


def _check_voxels(shape: tuple[int, ...], dtype: np.dtype[Any], path: Path) -> tuple[int, int, int]:
    if len(shape) != 3:
        problem = f"has the shape {shown(shape)}, a CT series is (depth, height, width)"
        raise InputError(problem, source=path, field="shape", hint="save the three-dimensional array")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        problem = f"{shown(dtype)} is no type for CT numbers"
        raise InputError(problem, source=path, field="dtype", hint="save integers or floats: array.astype(numpy.int16)")
    return check_shape(shape, source=path, field="shape")


def _voxels(
    file: Stream, shape: tuple[int, int, int], fortran: bool, dtype: np.dtype[Any], path: Path
) -> npt.NDArray[Any]:
    if not fortran:
        return read_voxels(file, shape, dtype, source=path, field="hu")
    depth, height, width = shape
    reverse = read_voxels(file, (width, height, depth), dtype, source=path, field="hu")
    return np.ascontiguousarray(reverse.transpose(2, 1, 0))
