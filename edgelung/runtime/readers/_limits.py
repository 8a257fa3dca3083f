"""What a series may be, checked before any memory is taken for it.

Files come from strangers: a header of 300 bytes can promise terabytes. Every reader passes its numbers through here
first, so that a file is refused with a reason instead of exhausting a board.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgelung.errors import InputError
from edgelung.volume import AXES, CtVolume, Vector

__all__ = [
    "MAX_AXIS",
    "MAX_VOXELS",
    "USUAL_RATIO",
    "check_held",
    "check_inflatable",
    "check_shape",
    "check_spacing",
    "checked_volume",
    "shown",
    "shown_code",
]

MAX_AXIS = 8192  # the largest CT matrix is 2048 wide, and a whole body in 0.25 mm slices has about 8000 of them
MAX_VOXELS = 2**30  # 2 GiB as int16, four times the largest thorax series (2000 slices of 512 x 512)
USUAL_RATIO = 4  # CTs are packed to a half or a third; beyond, what a header claims is looked at before it is believed
DEFLATE_RATIO = 1032  # deflate never packs tighter: Mark Adler, https://zlib.net/zlib_tech.html

TRUNCATED = "the file is cut short: copy or export it again"
MISMATCHED = "the header does not belong to these data: export the series again"


def shown(value: object) -> str:
    """A value from a file as one short, printable, quoted piece of a message."""
    text = value if isinstance(value, str) else str(value)
    return ascii(text if len(text) <= 60 else text[:60] + "...")


def shown_code(value: str) -> str:
    """A coded value of a DICOM field, quoted if it looks like one: in a damaged file a name may stand in its place."""
    is_code = re.fullmatch(r"[\w .+/\\-]{1,48}", value, re.ASCII) and not re.search(r"\d{6}|\d+\.\d+\.", value)
    return shown(value) if is_code else "something unreadable"


def check_shape(shape: Sequence[int], *, source: object, field: str) -> tuple[int, int, int]:
    """A (depth, height, width) that may be read.

    Raises:
        InputError: An axis outside 1..MAX_AXIS, or more than MAX_VOXELS voxels in all.
    """
    depth, height, width = (int(length) for length in shape)
    for name, length in zip(AXES, (depth, height, width), strict=True):
        if not 1 <= length <= MAX_AXIS:
            raise InputError(
                f"the {name} is {length} voxels, allowed are 1 to {MAX_AXIS}",
                source=source,
                field=field,
                hint="check that this is a CT series",
            )
    if depth * height * width > MAX_VOXELS:
        raise InputError(
            f"{depth} x {height} x {width} voxels are more than the {MAX_VOXELS} that fit a board's memory",
            source=source,
            field=field,
            hint="crop or split the series",
        )
    return depth, height, width


def check_spacing(spacing_mm: Sequence[float], *, source: object, field: str) -> Vector:
    """Three positive, finite distances in millimetres.

    Raises:
        InputError: Otherwise.
    """
    values = tuple(float(value) for value in spacing_mm)
    if len(values) != 3 or not all(math.isfinite(value) and value > 0 for value in values):
        raise InputError(
            f"the spacing must be three positive numbers of millimetres, got {shown(list(values))}",
            source=source,
            field=field,
            hint="export the series again with its voxel spacing",
        )
    return values[0], values[1], values[2]


def check_held(expected: int, held: int, *, source: object, field: str) -> None:
    """That uncompressed data are exactly as many bytes as the header promises.

    Raises:
        InputError: Fewer or more.
    """
    if held != expected:
        raise InputError(
            f"the header needs {expected} bytes of voxels, the file holds {max(held, 0)}",
            source=source,
            field=field,
            hint=TRUNCATED if held < expected else MISMATCHED,
        )


def check_inflatable(expected: int, packed: int, *, source: object, field: str) -> None:
    """That ``packed`` bytes of a deflate stream can hold ``expected`` bytes at all, before memory is taken for them.

    Raises:
        InputError: They cannot.
    """
    if expected > packed * DEFLATE_RATIO:
        raise InputError(
            f"the header needs {expected} bytes of voxels, {packed} compressed bytes cannot hold them",
            source=source,
            field=field,
            hint=TRUNCATED,
        )


def checked_volume(
    hu: npt.NDArray[np.generic],
    spacing_mm: Sequence[float],
    origin_mm: Sequence[float],
    direction: npt.ArrayLike,
    *,
    source: object,
) -> CtVolume:
    """A CtVolume, its geometry errors turned into an InputError that names the file.

    Args:
        hu: (depth, height, width) values.
        spacing_mm: Along (depth, height, width).
        origin_mm: LPS (x, y, z) of the centre of voxel (0, 0, 0).
        direction: (3, 3); column k is the LPS unit vector of array axis k.
        source: The file, as the user named it.
    """
    depth, height, width = spacing_mm
    x, y, z = origin_mm
    try:
        return CtVolume(hu, (depth, height, width), (x, y, z), np.asarray(direction, dtype=np.float64))
    except ValueError as error:
        raise InputError(str(error), source=source, hint="export the series again") from None
