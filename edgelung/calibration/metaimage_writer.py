"""Write MetaImage volumes: a .mhd header with a .raw or compressed .zraw file beside it.

The format is described at https://itk.org/Wiki/MetaIO/Documentation; each row of TransformMatrix is the direction of
one index axis, the fastest first, as ITK reads it.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from edgelung.runtime.png import write_whole
from edgelung.volume import CtVolume

__all__ = ["write_metaimage"]

_TYPES = {"int16": "MET_SHORT", "uint8": "MET_UCHAR", "float32": "MET_FLOAT"}


def write_metaimage(path: Path, volume: CtVolume, *, compress: bool = False) -> None:
    """Write ``path`` (.mhd) and its voxels, the header last: where it stands, the volume is complete.

    Args:
        path: The header file; its folder must exist.
        volume: int16, uint8 or float32 voxels.
        compress: zlib in a .zraw file instead of plain voxels in a .raw file.

    Raises:
        ValueError: On another dtype.
        OSError: When the folder cannot be written.
    """
    if volume.hu.dtype.name not in _TYPES:
        raise ValueError(f"MetaImage is written from {', '.join(_TYPES)}, not {volume.hu.dtype}")
    little = np.ascontiguousarray(volume.hu, dtype=volume.hu.dtype.newbyteorder("<"))
    content = little.tobytes()
    sizes = f"CompressedDataSize = {len(content := zlib.compress(content, 6))}\n" if compress else ""
    data = path.with_suffix(".zraw" if compress else ".raw")
    write_whole(data, content)
    header = (
        "ObjectType = Image\n"
        "NDims = 3\n"
        "BinaryData = True\n"
        "BinaryDataByteOrderMSB = False\n"
        f"CompressedData = {compress}\n"
        f"{sizes}"
        f"TransformMatrix = {_numbers(volume.direction[:, ::-1].T.ravel())}\n"
        f"Offset = {_numbers(volume.origin_mm)}\n"
        "CenterOfRotation = 0 0 0\n"
        f"ElementSpacing = {_numbers(volume.spacing_mm[::-1])}\n"
        f"DimSize = {' '.join(map(str, volume.shape[::-1]))}\n"
        f"ElementType = {_TYPES[volume.hu.dtype.name]}\n"
        f"ElementDataFile = {data.name}\n"
    )
    write_whole(path, header.encode("ascii"))


def _numbers(values: object) -> str:
    return " ".join(f"{float(value):.17g}" for value in np.asarray(values, dtype=np.float64).ravel())
