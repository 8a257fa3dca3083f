"""The 348 bytes at the start of a NIfTI-1 file.

The fields are those of nifti1.h (https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h); the geometry that they
state is worked out in :mod:`edgelung.runtime.readers._nifti_forms`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from edgelung.errors import InputError
from edgelung.runtime.readers._limits import check_shape

__all__ = ["HEADER_BYTES", "NiftiHeader", "parse_header", "voxel_shape"]

HEADER_BYTES = 348
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
