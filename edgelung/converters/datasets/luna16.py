"""LUNA16 on a disk, real or a phantom in its layout: which scans there are, and what is annotated in them.

The layout is that of https://luna16.grand-challenge.org/Data/: ``subset0`` to ``subset9`` with .mhd files named after
their series, ``annotations.csv`` (nodules) and ``candidates.csv`` (class 1 nodules, class 0 look-alikes), in LPS
millimetres.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgelung.converters.datasets.luna16_lists import LAYOUT, Point, Row, read_annotations, read_candidates
from edgelung.errors import InputError

__all__ = ["ANNOTATIONS", "Annotation", "LunaScan", "read_luna16", "split_scans"]

ANNOTATIONS = "annotations.csv"
CANDIDATES = ("candidates_V2.csv", "candidates.csv")  # the newer list has more of the nodules
SPLIT = 11  # one scan of so many validates


@dataclass(frozen=True)
class Annotation:
    """A nodule.

    Attributes:
        center_lps_mm: (x, y, z).
        diameter_mm: Diameter.
        line: Line of annotations.csv that it is from; 0 when it is from none.
    """

    center_lps_mm: Point
    diameter_mm: float
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class LunaScan:
    """One scan.

    Attributes:
        uid: Its public series name.
        path: The .mhd file.
        nodules: Annotated ones.
        look_alikes_lps_mm: Places that resemble nodules and are none.
        exact_mask: The .mhd file of its exact nodule mask, which only phantoms have.
        look_alike_lines: The line of each look-alike in its list; empty when they are from none.
    """

    uid: str
    path: Path
    nodules: tuple[Annotation, ...]
    look_alikes_lps_mm: tuple[Point, ...]
    exact_mask: Path | None = None
    look_alike_lines: tuple[int, ...] = field(default=(), compare=False)


def read_luna16(root: Path | str, *, note: Callable[[str], None] | None = None) -> tuple[LunaScan, ...]:
    """All scans that are there, sorted by name; a part of the subsets is enough.

    Args:
        root: A folder in LUNA16's layout.
        note: Called with what a user should know, such as how many rows are of scans that are not there.

    Raises:
        InputError: If this is no LUNA16 root, a list cannot be read or a diameter is that of no nodule; names file and
            line.
    """
    folder = Path(root)
    files = sorted(folder.glob("subset[0-9]/*.mhd"), key=lambda path: path.stem)
    if not files:
        raise InputError("holds no subset with .mhd files", source=root, hint=LAYOUT)
    uids, remark = {path.stem for path in files}, note or (lambda text: None)
    listed = next((folder / name for name in CANDIDATES if (folder / name).exists()), folder / CANDIDATES[-1])
    nodules = _by_scan(read_annotations(folder / ANNOTATIONS, uids, remark))
    look_alikes = _by_scan(read_candidates(listed, uids, remark))
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


def _by_scan(rows: Sequence[Row]) -> defaultdict[str, list[Row]]:
    scans: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        scans[row.uid].append(row)
    return scans


def _scan(path: Path, nodules: Sequence[Row], look_alikes: Sequence[Row]) -> LunaScan:
    exact = path.parents[1] / "masks" / path.name
    return LunaScan(
        path.stem,
        path,
        tuple(Annotation(row.point_lps_mm, row.number, row.line) for row in nodules),
        tuple(row.point_lps_mm for row in look_alikes),
        exact if exact.is_file() else None,
        tuple(row.line for row in look_alikes),
    )


def _rank(uid: str) -> float:
    """A number in 0..1 that a name alone decides."""
    return int.from_bytes(hashlib.sha256(uid.encode()).digest()[:8], "big") / 2**64
