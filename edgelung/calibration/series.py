"""What a path given as ``--data`` holds: one CT series, a folder of series, or LUNA16; and how its CTs are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgelung.errors import InputError
from edgelung.runtime.plausibility import check_hounsfield
from edgelung.runtime.readers import READABLE_SUFFIXES, read_series
from edgelung.runtime.readers.dicom import list_slices
from edgelung.volume import CtVolume

__all__ = ["DataSource", "describe_data", "read_ct"]

DEPTH = 4  # folders below the given one that are searched: patient, study, series, and one to spare
MAX_FOLDERS = 20_000  # LUNA16 has 11, a hospital's export some thousand
PHANTOM_RECIPE = "phantom.json"  # what write_luna16 leaves at the root
_SLICE_SUFFIXES = (".dcm", ".dicom", ".ima")
_VOLUMES = tuple(suffix for suffix in READABLE_SUFFIXES if suffix not in _SLICE_SUFFIXES)
_WAY_OUT = "give one series (a file, or a folder of its DICOM slices), a folder of series, or a LUNA16 root"


@dataclass(frozen=True)
class DataSource:
    """CT series that were found.

    Attributes:
        kind: ``series``: one. ``folder``: whatever lay in it, at least one. ``luna16``: the CTs of subset0 .. subset9.
        series: What ``read_series`` takes, sorted by path, each once.
        words: One line for people.
    """

    kind: Literal["series", "folder", "luna16"]
    series: tuple[Path, ...]
    words: str


def describe_data(path: Path | str) -> DataSource:
    """Find out what a path holds. Of the files it only reads the first bytes; hidden ones and links are left alone.

    A file is a series. So is a folder with DICOM slices and nothing else to read. A folder with subset0 .. subset9,
    any of them, is LUNA16, and only the .mhd files in those count, so that masks beside them are not taken for CTs.
    Of any other folder all volumes and all folders of slices down to four levels count.

    Raises:
        InputError: If there is no series, or it is not clear which files are.
    """
    root = Path(path)
    try:
        return _describe(root)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", source=path, hint=_WAY_OUT) from None


def read_ct(path: Path | str) -> CtVolume:
    """Read a CT to fit, insert nodules or train with, as axial slices.

    Raises:
        InputError: If it cannot be read, is too oblique for axial slices, or is not in Hounsfield units; the same check
            as on the board.
    """
    volume = read_series(path)
    try:
        axial = volume.to_axial()
    except ValueError as error:
        hint = "resample the series to axial slices first"
        raise InputError(str(error), source=path, field="direction", hint=hint) from None
    check_hounsfield(axial, path)
    return axial


def _describe(root: Path) -> DataSource:
    if root.is_file():
        if not root.name.lower().endswith(READABLE_SUFFIXES):
            raise InputError("is no CT series that can be read", source=root, hint=_WAY_OUT)
        return DataSource("series", (root,), "one CT series")
    if not root.is_dir():
        raise InputError("there is no such file or folder", source=root, hint="check the path")
    luna16 = _luna16(root)
    if luna16:
        subsets = len({file.parent for file in luna16})
        name = "phantoms in LUNA16's layout" if (root / PHANTOM_RECIPE).exists() else "LUNA16"
        return DataSource("luna16", luna16, f"{name}: {len(luna16)} CTs in {subsets} subset{'s'[: subsets > 1]}")
    found = _search(root)
    if not found:
        raise InputError("holds no CT series", source=root, hint=_WAY_OUT)
    if found == [root]:
        return DataSource("series", (root,), "one CT series, a folder of DICOM slices")
    if root in found:
        problem = "holds DICOM slices and other series beside them"
        raise InputError(problem, source=root, hint="put each series into a folder of its own")
    return DataSource("folder", tuple(found), f"a folder of {len(found)} CT series")


def _luna16(root: Path) -> tuple[Path, ...]:
    subsets = [root / f"subset{index}" for index in range(10)]
    return tuple(file for subset in subsets if subset.is_dir() for file in _visible(subset) if file.suffix == ".mhd")


def _search(root: Path) -> list[Path]:
    found: list[Path] = []
    level, seen = [root], 0
    for _ in range(DEPTH + 1):
        below: list[Path] = []
        for folder in level:
            seen += 1
            if seen > MAX_FOLDERS:
                raise InputError(f"has more than {MAX_FOLDERS} folders", source=root, hint="give one further down")
            if list_slices(folder):
                found.append(folder)
            for item in _visible(folder):
                if item.is_dir():
                    below.append(item)
                elif item.name.lower().endswith(_VOLUMES):
                    found.append(item)
        level = below
    return sorted(found)


def _visible(folder: Path) -> list[Path]:
    return [item for item in sorted(folder.iterdir()) if not item.name.startswith(".") and not item.is_symlink()]
