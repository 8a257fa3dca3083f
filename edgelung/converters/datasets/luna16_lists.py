"""The lists of LUNA16, as CSV: each row with its line, and every row that cannot be meant refused by its line."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgelung.errors import InputError

__all__ = ["LAYOUT", "Row", "name_lines", "read_annotations", "read_candidates"]

MAX_LIST_BYTES = 1 << 28  # candidates_V2.csv has 40 MB
LAYOUT = "a LUNA16 root holds subset0 to subset9, annotations.csv and candidates.csv; `edgelung phantom` makes one"
DIAMETERS_MM = (0.5, 200.0)  # LUNA16 has 3.2 to 32.3
NAMED_LINES = 5
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
UTF16 = (b"\xff\xfe", b"\xfe\xff")

Point = tuple[float, float, float]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One row of a list.

    Attributes:
        uid: Name of the series.
        point_lps_mm: (x, y, z).
        number: Diameter in millimetres, or class.
        line: In the file, from 1; the header is the first.
    """

    uid: str
    point_lps_mm: Point
    number: float
    line: int


def read_annotations(path: Path, uids: set[str], note: Tell) -> list[Row]:
    """Nodules of the scans that are there.

    Args:
        path: annotations.csv.
        uids: Names of these scans.
        note: Called with what a user should know: rows of other scans, rows that repeat one.

    Raises:
        InputError: If the list cannot be read, a diameter is none of a nodule, or no row is of a scan that is there.
    """
    rows = _read(path, "diameter_mm")
    low, high = DIAMETERS_MM
    wrong = [row for row in rows if not low <= row.number <= high]
    if wrong:
        found = f"{min(row.number for row in wrong):g} to {max(row.number for row in wrong):g} mm"
        problem = f"{len(wrong):,} of {len(rows):,} nodules have a diameter of no nodule ({found}; {name_lines(wrong)})"
        hint = f"remove these rows, diameters are {low:g} to {high:g} mm"
        if any(row.number <= 0 for row in wrong):
            hint = f"annotations_excluded.csv has -1 for those without a diameter: give annotations.csv, or {hint}"
        raise InputError(problem, source=path, field="diameter_mm", hint=hint)
    here = _here(rows, path, uids, note)
    if rows and not here:
        hint = "the seriesuid of a row is the name of the .mhd file without its ending"
        raise InputError(f"none of its {len(rows):,} rows is of a scan in subset0 to subset9", source=path, hint=hint)
    return here


def read_candidates(path: Path, uids: set[str], note: Tell) -> list[Row]:
    """Look-alikes (class 0) of the scans that are there; ``note`` as for :func:`read_annotations`.

    Raises:
        InputError: If the list cannot be read, or a class is neither 0 nor 1.
    """
    rows = _read(path, "class")
    for row in rows:
        if row.number not in (0, 1):
            problem = f"the class is {row.number:g}, not 0 or 1"
            raise InputError(problem, source=path, field=f"line {row.line}", hint=LAYOUT)
    return [row for row in _here(rows, path, uids, note) if row.number == 0]


def name_lines(rows: Iterable[Row] | Iterable[int]) -> str:
    """``lines 4, 17 and 30``, or the first of them and how many more there are."""
    lines = [row.line if isinstance(row, Row) else row for row in rows]
    first = [str(line) for line in lines[:NAMED_LINES]]
    if len(lines) > NAMED_LINES:
        return f"lines {', '.join(first)} and {len(lines) - NAMED_LINES:,} more"
    return f"line {first[0]}" if len(first) == 1 else f"lines {', '.join(first[:-1])} and {first[-1]}"


def _here(rows: Sequence[Row], path: Path, uids: set[str], note: Tell) -> list[Row]:
    """Rows of the scans that are there, each once."""
    here = [row for row in rows if row.uid in uids]
    if len(here) < len(rows):
        note(f"{path.name}: {len(rows) - len(here):,} of {len(rows):,} rows are of scans that are not here")
    once: dict[tuple[str, Point, float], Row] = {}
    repeated = [row for row in here if once.setdefault((row.uid, row.point_lps_mm, row.number), row) is not row]
    if repeated:
        lines = name_lines(repeated)
        note(f"{path.name}: {len(repeated):,} of {len(here):,} rows repeat an earlier one ({lines}); used once")
    return list(once.values())


def _read(path: Path, last: str) -> list[Row]:
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise InputError(f"has more than {MAX_LIST_BYTES >> 20} MiB", source=path, hint=LAYOUT)
        with path.open("rb") as raw:
            if raw.read(2) in UTF16:
                raise InputError("is no list in CSV (it is UTF-16)", source=path, hint="save it as CSV in UTF-8")
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(_parse(file, path, ("seriesuid", "coordX", "coordY", "coordZ", last)))
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", source=path, hint=LAYOUT) from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"is no list in CSV ({error})", source=path, hint=LAYOUT) from None


def _parse(file: Iterable[str], path: Path, names: tuple[str, ...]) -> Iterator[Row]:
    """Rows by the names of their columns, whatever their order and case; other columns are left alone."""
    reader = csv.reader(file)
    header = next(reader, [])
    columns = [name.strip().lower() for name in header]
    separators = [words for separator, words in SEPARATORS.items() if len(columns) == 1 and separator in columns[0]]
    if separators:
        hint = "save it with commas, and decimal points"
        raise InputError(f"is separated by {separators[0]}, not commas", source=path, hint=hint)
    if any(_is_number(name) for name in columns):  # and perhaps a series, which no message names
        raise InputError(f"begins without its header, {','.join(names)}", source=path, hint=LAYOUT)
    if any(columns.count(name.lower()) != 1 for name in names):
        raise InputError(f"has the columns {header}, not {list(names)}", source=path, hint=LAYOUT)
    places = [columns.index(name.lower()) for name in names]
    for cells in reader:
        if any(cell.strip() for cell in cells):
            yield _row(cells, places, len(columns), path, reader.line_num)


def _row(cells: list[str], places: list[int], width: int, path: Path, line: int) -> Row:
    try:
        uid, *numbers = (cells[place].strip() for place in places)
        x, y, z, number = map(float, numbers)
        if len(cells) != width or not uid or "_" in "".join(numbers) or not all(map(math.isfinite, (x, y, z, number))):
            raise ValueError
    except (ValueError, IndexError):
        raise InputError("is no series with four numbers", source=path, field=f"line {line}", hint=LAYOUT) from None
    return Row(uid, (x, y, z), number, line)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
