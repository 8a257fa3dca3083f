"""LUNA16 on a disk, real or a phantom in its layout: which scans there are, and what is annotated in them.

The layout is that of https://luna16.grand-challenge.org/Data/: ``subset0`` to ``subset9`` with .mhd files named after
their series, ``annotations.csv`` (nodules) and ``candidates.csv`` (class 1 nodules, class 0 look-alikes), in LPS
millimetres.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgelung.errors import InputError

__all__ = ["Annotation", "LunaScan", "read_luna16", "split_scans"]

MAX_LIST_BYTES = 1 << 28  # candidates_V2.csv has 40 MB
LAYOUT = "a LUNA16 root holds subset0 to subset9, annotations.csv and candidates.csv; `edgelung phantom` makes one"
CANDIDATES = ("candidates_V2.csv", "candidates.csv")  # the newer list has more of the nodules
SPLIT = 11  # one scan of so many validates

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Annotation:
    """A nodule: (x, y, z) LPS millimetres and the diameter in millimetres."""

    center_lps_mm: Point
    diameter_mm: float


@dataclass(frozen=True)
class LunaScan:
    """One scan.

    Attributes:
        uid: Its public series name.
        path: The .mhd file.
        nodules: Annotated ones.
        look_alikes_lps_mm: Places that resemble nodules and are none.
        exact_mask: The .mhd file of its exact nodule mask, which only phantoms have.
    """

    uid: str
    path: Path
    nodules: tuple[Annotation, ...]
    look_alikes_lps_mm: tuple[Point, ...]
    exact_mask: Path | None = None


def read_luna16(root: Path | str) -> tuple[LunaScan, ...]:
    """All scans that are there, sorted by name; a part of the subsets is enough.

    Raises:
        InputError: If this is no LUNA16 root, or a list cannot be read; names file and line.
    """
    folder = Path(root)
    files = sorted(folder.glob("subset[0-9]/*.mhd"), key=lambda path: path.stem)
    if not files:
        raise InputError("holds no subset with .mhd files", source=root, hint=LAYOUT)
    nodules: dict[str, list[Annotation]] = defaultdict(list)
    for uid, point, diameter in _rows(folder / "annotations.csv", "diameter_mm"):
        nodules[uid].append(Annotation(point, diameter))
    listed = next((folder / name for name in CANDIDATES if (folder / name).exists()), folder / CANDIDATES[-1])
    look_alikes: dict[str, list[Point]] = defaultdict(list)
    for uid, point, kind in _rows(listed, "class"):
        if kind == 0:
            look_alikes[uid].append(point)
    return tuple(_scan(path, nodules[path.stem], look_alikes[path.stem]) for path in files)


def split_scans(scans: Sequence[LunaScan]) -> tuple[tuple[LunaScan, ...], tuple[LunaScan, ...]]:
    """Scans to train on and scans to validate on, about 10 to 1, and never one scan in both.

    A scan's side is decided by a hash of its name alone, so it does not change when other scans come or go. Of two or
    more scans at least one is on each side.

    Raises:
        InputError: If there is only one scan.
    """
    if len(scans) < 2:
        raise InputError(f"{len(scans)} scan cannot be split into training and validation", hint="give at least two")
    ranked = sorted(scans, key=lambda scan: (_rank(scan.uid), scan.uid))
    validation = [scan for scan in ranked if _rank(scan.uid) < 1 / SPLIT] or ranked[:1]
    if len(validation) == len(scans):
        validation = ranked[:-1]
    chosen = {scan.uid for scan in validation}
    return tuple(s for s in scans if s.uid not in chosen), tuple(s for s in scans if s.uid in chosen)


def _scan(path: Path, nodules: list[Annotation], look_alikes: list[Point]) -> LunaScan:
    exact = path.parents[1] / "masks" / path.name
    return LunaScan(path.stem, path, tuple(nodules), tuple(look_alikes), exact if exact.is_file() else None)


def _rank(uid: str) -> float:
    """A number in 0..1 that a name alone decides."""
    return int.from_bytes(hashlib.sha256(uid.encode()).digest()[:8], "big") / 2**64


def _rows(path: Path, last: str) -> Iterator[tuple[str, Point, float]]:
    """(uid, LPS point, number in the column ``last``) of each line."""
    names = ("seriesuid", "coordX", "coordY", "coordZ", last)
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise InputError(f"has more than {MAX_LIST_BYTES >> 20} MiB", source=path, hint=LAYOUT)
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            if tuple(header) != names:
                raise InputError(f"has the columns {header}, not {list(names)}", source=path, hint=LAYOUT)
            for row in reader:
                yield _row(row, path, reader.line_num)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", source=path, hint=LAYOUT) from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"is no list in CSV ({error})", source=path, hint=LAYOUT) from None


def _row(row: list[str], path: Path, line: int) -> tuple[str, Point, float]:
    try:
        uid, x, y, z, number = row[0], *map(float, row[1:])
        if len(row) != 5 or not all(map(math.isfinite, (x, y, z, number))):
            raise ValueError
    except (ValueError, IndexError, TypeError):
        raise InputError("is no series with four numbers", source=path, field=f"line {line}", hint=LAYOUT) from None
    return uid, (x, y, z), number
