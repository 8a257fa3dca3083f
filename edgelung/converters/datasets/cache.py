"""Labelled scans on a disk, read through memory maps: a data set of any length trains in the memory of one batch.

::

    <key>/hu.npy, mask.npy, positives.npy, negatives.npy, outcomes.npy, strays.npy, exact.npy (phantoms only)
    <key>/scan.json     shapes and types; an entry without it is not there

The key is a hash of everything an entry depends on: the files of the scan by name, size and time of change, its
annotations, and the rules of labelling. So nothing stale is ever read, and several trainings can share one cache. An
entry is written beside its place and moved there whole; processes that label the same scan at once do not disturb each
other. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgelung._codec import from_json, parse_json, to_json
from edgelung.converters.datasets.grown_masks import THRESHOLD_HU
from edgelung.converters.datasets.labelled import LUNG_POINTS, NODULE_POINTS, LabelledScan, label_scan
from edgelung.converters.datasets.luna16 import LunaScan
from edgelung.errors import InputError

__all__ = ["cache_scan", "open_cached_scan"]

VERSION = 2  # raised whenever equal keys would hold something else
RECORD = "scan.json"
HINT = "remove the folder, and it is made again"


@dataclass(frozen=True)
class _Array:
    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class _Record:
    version: int
    arrays: tuple[_Array, ...]


def cache_scan(scan: LunaScan, folder: Path, *, seed: int = 0) -> Path:
    """Label a scan and keep the result, unless the cache has it.

    Args:
        scan: One of :func:`edgelung.converters.datasets.read_luna16`.
        folder: Of the cache; made when absent.
        seed: For :func:`edgelung.converters.datasets.label_scan`.

    Returns:
        The folder of the entry, for :func:`open_cached_scan`.

    Raises:
        InputError: If the scan cannot be labelled, or the cache cannot be written.
    """
    try:
        entry = folder / _key(scan, seed)
        if not (entry / RECORD).is_file():
            labelled = label_scan(scan, seed=seed)
            folder.mkdir(parents=True, exist_ok=True)
            _write(labelled, entry)
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror or error})", source=folder, field="cache") from None
    return entry


def open_cached_scan(entry: Path) -> LabelledScan:
    """Memory-map a scan of the cache.

    Args:
        entry: What :func:`cache_scan` returned.

    Raises:
        InputError: If the entry is incomplete or was altered.
    """
    try:
        record = from_json(_Record, parse_json((entry / RECORD).read_bytes()))
        known = {field.name for field in fields(LabelledScan)}
        if record.version != VERSION or not {array.name for array in record.arrays} <= known:
            raise ValueError("is of another version")
        return LabelledScan(**{array.name: _open(entry, array) for array in record.arrays})
    except (OSError, ValueError, TypeError, InputError) as error:
        raise InputError(f"is no entry of the cache ({error})", source=entry, hint=HINT) from None


def _key(scan: LunaScan, seed: int) -> str:
    files = sorted(scan.path.parent.glob(f"{scan.path.stem}.*"))
    if scan.exact_mask is not None:
        files += sorted(scan.exact_mask.parent.glob(f"{scan.exact_mask.stem}.*"))
    what = {
        "version": VERSION,
        "files": [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files],
        "nodules": [(nodule.center_lps_mm, nodule.diameter_mm) for nodule in scan.nodules],
        "look_alikes": scan.look_alikes_lps_mm,
        "rules": [THRESHOLD_HU, NODULE_POINTS, LUNG_POINTS, seed],
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


def _write(scan: LabelledScan, entry: Path) -> None:
    partial = entry.with_name(f".{entry.name}.{secrets.token_hex(4)}.partial")
    partial.mkdir()
    try:
        arrays = []
        for field in fields(scan):
            values = getattr(scan, field.name)
            if values is not None:
                _save(partial / f"{field.name}.npy", values)
                arrays.append(_Array(field.name, values.shape, values.dtype.str))
        (partial / RECORD).write_text(json.dumps(to_json(_Record(VERSION, tuple(arrays)))) + "\n", encoding="ascii")
        try:
            partial.rename(entry)
        except OSError:
            if not (entry / RECORD).is_file():  # else another process was faster, with the same
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _save(path: Path, values: npt.NDArray[Any]) -> None:
    """Write an array; slices of masks that are empty stay holes in the file, which take no room."""
    if values.dtype == bool and values.ndim == 3:
        mapped = np.lib.format.open_memmap(path, mode="w+", dtype=values.dtype, shape=values.shape)
        for index in np.flatnonzero(values.any(axis=(1, 2))):
            mapped[index] = values[index]
        mapped.flush()
    else:
        np.save(path, np.ascontiguousarray(values), allow_pickle=False)


def _open(entry: Path, array: _Array) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = np.load(entry / f"{array.name}.npy", mmap_mode="r", allow_pickle=False)
    if values.shape != array.shape or values.dtype.str != array.dtype:
        raise ValueError(f"{array.name} is not {array.dtype} in the shape {array.shape}")
    return values
