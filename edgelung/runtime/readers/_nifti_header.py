"""The 348 bytes at the start of a NIfTI-1 file, and the geometry they state.

The fields are those of nifti1.h (https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h). NIfTI coordinates grow to
the patient's right-to-left, posterior-to-anterior, inferior-to-superior (RAS); here they become LPS.

Which of the two transforms counts follows ITK 5.4, measured with SimpleITK 2.5.7: the sform when its code is 1 (scanner
coordinates) or when there is no qform, otherwise the qform; without either, the index axes are taken as LPS with
the origin at 0. Unlike ITK: a sheared sform that counts is refused even if a qform could replace it, and so is one
whose scale contradicts pixdim, where ITK would silently take pixdim.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgelung.errors import InputError
from edgelung.runtime.readers._limits import check_shape, check_spacing, shown
from edgelung.volume import Vector

__all__ = ["HEADER_BYTES", "NiftiHeader", "geometry", "parse_header", "voxel_shape"]

HEADER_BYTES = 348
UNIT_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # unknown (read as mm, like ITK), metre, millimetre, micrometre
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
CONVERT = "write it again with SimpleITK: sitk.WriteImage(sitk.ReadImage(old), 'new.nii.gz')"


@dataclass(frozen=True)
class NiftiHeader:
    """Fields as they stand in the file; names are those of nifti1.h.

    Attributes:
        order: ``<`` or ``>``, the byte order of header and data.
        units: The three low bits of xyzt_units.
        quatern: quatern_b, c, d, then qoffset_x, y, z.
        srow: srow_x, srow_y, srow_z, four numbers each.
    """

    order: str
    dim: tuple[int, ...]
    datatype: int
    bitpix: int
    pixdim: tuple[float, ...]
    vox_offset: float
    scl_slope: float
    scl_inter: float
    units: int
    qform_code: int
    sform_code: int
    quatern: tuple[float, ...]
    srow: tuple[float, ...]


def parse_header(data: bytes, source: Path) -> NiftiHeader:
    """Read the header of a single-file NIfTI-1 image.

    Raises:
        InputError: Another format or version, or fewer bytes.
    """
    if len(data) < HEADER_BYTES:
        problem = f"the file ends within the {HEADER_BYTES} bytes of the header"
        raise InputError(problem, source=source, hint="copy or export the file again")
    sizes = {order: struct.unpack_from(order + "i", data)[0] for order in "<>"}
    if 540 in sizes.values():
        raise InputError("NIfTI-2 is not read", source=source, field="sizeof_hdr", hint=CONVERT)
    orders = [order for order, size in sizes.items() if size == HEADER_BYTES]
    magic = data[344:348]
    if magic == b"ni1\0":
        raise InputError("a pair of .hdr and .img files is not read", source=source, field="magic", hint=CONVERT)
    if not orders or magic != b"n+1\0":
        raise InputError(
            "this is not a NIfTI-1 file", source=source, field="magic", hint="check the file name's ending"
        )
    order = orders[0]

    def numbers(offset: int, form: str) -> tuple[int | float, ...]:
        return struct.unpack_from(order + form, data, offset)

    datatype, bitpix = struct.unpack_from(order + "2h", data, 70)
    vox_offset, scl_slope, scl_inter = numbers(108, "3f")
    qform_code, sform_code = struct.unpack_from(order + "2h", data, 252)
    dim = struct.unpack_from(order + "8h", data, 40)
    units = data[123] & 7
    return NiftiHeader(
        order,
        dim,
        datatype,
        bitpix,
        numbers(76, "8f"),
        vox_offset,
        scl_slope,
        scl_inter,
        units,
        qform_code,
        sform_code,
        numbers(256, "6f"),
        numbers(280, "12f"),
    )


def voxel_shape(header: NiftiHeader, source: Path) -> tuple[int, int, int]:
    """(depth, height, width) of a 3-D image; further axes of length 1 are let through.

    Raises:
        InputError: Fewer or more dimensions, or an absurd size.
    """
    count = header.dim[0]
    if not 1 <= count <= 7:
        raise InputError(f"says {count} dimensions", source=source, field="dim", hint="check that this is a CT series")
    sizes = header.dim[1 : 1 + count]
    if count < 3 or any(size != 1 for size in sizes[3:]):
        raise InputError(
            f"is {' x '.join(map(str, sizes))}, a CT series has three dimensions",
            source=source,
            field="dim",
            hint="write each 3-D volume as a file of its own",
        )
    width, height, depth = sizes[:3]
    return check_shape((depth, height, width), source=source, field="dim")


def geometry(header: NiftiHeader, source: Path) -> tuple[Vector, Vector, npt.NDArray[np.float64]]:
    """spacing_mm (depth, height, width), origin_mm LPS and direction, as :class:`CtVolume` has them.

    Raises:
        InputError: Units, spacing or transform that are no CT grid.
    """
    if header.units not in UNIT_MM:
        problem = f"{header.units} is no unit of length"
        raise InputError(problem, source=source, field="xyzt_units", hint="set it to 2 (millimetre)")
    unit = UNIT_MM[header.units]
    x_mm, y_mm, z_mm = (float(size) * unit for size in header.pixdim[1:4])
    spacing = check_spacing((z_mm, y_mm, x_mm), source=source, field="pixdim")
    if header.sform_code > 0 and (header.sform_code == 1 or header.qform_code <= 0):
        srow = _finite(header.srow, "srow", source).reshape(3, 4)
        axes, offset = _orthogonal(srow[:, :3] * unit, spacing, source), srow[:, 3] * unit
    elif header.qform_code > 0:
        quatern = _finite(header.quatern, "quatern", source)
        axes, offset = _rotation(quatern[:3], source), quatern[3:] * unit
        axes[:, 2] *= -1.0 if header.pixdim[0] < 0 else 1.0  # "qfac"
    else:
        axes, offset = RAS_TO_LPS.copy(), np.zeros(3)  # RAS -> LPS below makes this the identity
    x, y, z = (RAS_TO_LPS @ offset).tolist()
    return spacing, (x, y, z), (RAS_TO_LPS @ axes)[:, ::-1]


def _finite(values: tuple[float, ...], field: str, source: Path) -> npt.NDArray[np.float64]:
    array = np.array(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise InputError(f"holds {shown(list(values))}", source=source, field=field, hint="export the series again")
    return array


def _orthogonal(matrix: npt.NDArray[np.float64], spacing: Vector, source: Path) -> npt.NDArray[np.float64]:
    """Unit columns of an affine whose scale is ``spacing`` (depth, height, width), refused when sheared."""
    scale = np.linalg.norm(matrix, axis=0)
    if np.abs(scale[::-1] / spacing - 1.0).max() > 1e-3:
        raise InputError(
            f"srow has voxels of {_size(scale[::-1])} mm, pixdim of {_size(spacing)} mm",
            source=source,
            field="pixdim",
            hint="correct the one that is wrong, or export the series again",
        )
    axes: npt.NDArray[np.float64] = matrix / scale
    if np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3:
        raise InputError(
            "the axes are sheared (not at right angles)",
            source=source,
            field="srow",
            hint="resample to an upright grid first, for example with SimpleITK",
        )
    return axes


def _size(spacing: npt.ArrayLike) -> str:
    return " x ".join(f"{size:.6g}" for size in np.asarray(spacing).tolist())


def _rotation(bcd: npt.NDArray[np.float64], source: Path) -> npt.NDArray[np.float64]:
    """The rotation of a unit quaternion with a >= 0, given b, c, d (nifti1.h, METHOD 2)."""
    length = float(bcd @ bcd)
    if length > 1.001:
        problem = "b, c, d are longer than a unit quaternion"
        raise InputError(problem, source=source, field="quatern", hint="export the series again")
    b, c, d = (bcd / max(1.0, length**0.5)).tolist()
    a = max(0.0, 1.0 - (b * b + c * c + d * d)) ** 0.5
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )
