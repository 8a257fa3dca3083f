"""A data set of phantoms in LUNA16's layout.

::

    subset0 .. subset9/<seriesuid>.mhd, .raw   the CTs, dealt out in turn
    annotations.csv, candidates.csv            as LUNA16's: LPS millimetres; class 1 for nodules, 0 for look-alikes
    seriesuids.csv                             one name per line, no header
    masks/<seriesuid>.mhd, .zraw               exact nodule masks, which LUNA16 does not have
    pictures/<seriesuid>.png                   to look at
    records/<seriesuid>.json                   kind, place and volume of each nodule; written last, so that its
                                               presence means that the scan is complete
    phantom.json                               the recipe

The layout is that of https://luna16.grand-challenge.org/Data/.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgelung.calibration.metaimage_writer import write_metaimage
from edgelung.calibration.phantom import PHANTOM_VERSION, Phantom, make_phantom
from edgelung.calibration.pictures import montage
from edgelung.errors import InputError
from edgelung.runtime.png import write_png, write_whole

__all__ = ["DatasetSummary", "write_luna16"]

SUBSETS = 10
FALSE_CANDIDATES = 60  # per scan, at most; LUNA16 has some 600
_RECIPE = "phantom.json"
_FOLDERS = ("masks", "pictures", "records", *(f"subset{index}" for index in range(SUBSETS)))
_LISTS = ("annotations.csv", "candidates.csv", "seriesuids.csv")


@dataclass(frozen=True)
class DatasetSummary:
    """What :func:`write_luna16` left in its folder.

    Attributes:
        scans: CTs in the data set.
        kept: Of these, CTs that were complete before.
        nodules: Nodules in all of them.
        false_candidates: Candidates that are none.
    """

    scans: int
    kept: int
    nodules: int
    false_candidates: int

    def as_dict(self) -> dict[str, int]:
        """For JSON."""
        return dataclasses.asdict(self)


def write_luna16(
    out_dir: Path | str,
    *,
    scans: int,
    seed: int,
    shape: tuple[int, int, int] = (200, 512, 512),
    spacing_mm: tuple[float, float, float] = (1.25, 0.7, 0.7),
    progress: Callable[[int, int], None] | None = None,
    overwrite: bool = False,
) -> DatasetSummary:
    """Write phantoms in LUNA16's layout; called again after an interruption, go on with what is missing.

    Args:
        out_dir: Folder of the data set; made when absent.
        scans: How many CTs. A larger number than before extends the data set.
        seed: Decides all of them; equal seeds give equal names and voxels.
        shape: (depth, height, width) of each.
        spacing_mm: (depth, height, width).
        progress: Called with (done, total) after every scan.
        overwrite: Replace the data set of another recipe.

    Raises:
        InputError: The folder holds something else, or cannot be written.
    """
    if scans < 1:
        raise InputError(f"{scans} scans are no data set", field="scans", hint="ask for at least 1")
    root = Path(out_dir)
    recipe = {
        "version": PHANTOM_VERSION,
        "seed": seed,
        "shape": list(shape),
        "spacing_mm": list(map(float, spacing_mm)),
    }
    try:
        _prepare(root, recipe, scans, overwrite)
        records, kept = [], 0
        for index in range(scans):
            record = _complete_record(root, seed, index)
            kept += record is not None
            records.append(record or _write_scan(root, seed, index, shape, spacing_mm))
            if progress is not None:
                progress(index + 1, scans)
        return _write_lists(root, records, kept)
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror or error})", source=root) from None


def series_uid(seed: int, index: int) -> str:
    """A UID derived from a UUID (ITU-T X.667, DICOM PS3.5 B.2), the same for the same seed and index."""
    digest = hashlib.sha256(f"edgelung phantom {seed} {index}".encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def scan_seed(seed: int, index: int) -> int:
    """The seed of one scan for :func:`edgelung.calibration.make_phantom`."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0])


def _prepare(root: Path, recipe: dict[str, Any], scans: int, overwrite: bool) -> None:
    root.mkdir(parents=True, exist_ok=True)
    path = root / _RECIPE
    if not path.exists():
        if any(root.iterdir()):
            raise InputError("holds files that are no phantom data set", source=root, hint="choose another folder")
    else:
        earlier = _read_json(path)
        earlier_scans = earlier.pop("scans", 0)
        fewer = isinstance(earlier_scans, int) and earlier_scans > scans
        if (earlier != recipe or fewer) and not overwrite:
            what = f"{earlier_scans} scans" if earlier == recipe else "phantoms of another recipe"
            raise InputError(
                f"holds {what} already", source=root, hint="choose another folder, or replace them with --overwrite"
            )
        if earlier != recipe or fewer:
            _clear(root)
    for folder in _FOLDERS:
        (root / folder).mkdir(exist_ok=True)
    write_whole(path, _json({**recipe, "scans": scans}))


def _clear(root: Path) -> None:
    """Take away what an earlier run wrote, and nothing else."""
    for path in [*(root / name for name in _LISTS), *(p for name in _FOLDERS for p in (root / name).glob("2.25.*"))]:
        path.unlink(missing_ok=True)


def _files(root: Path, seed: int, index: int) -> dict[str, Path]:
    uid = series_uid(seed, index)
    ct = root / f"subset{index % SUBSETS}" / f"{uid}.mhd"
    mask = root / "masks" / f"{uid}.mhd"
    return {
        "ct": ct,
        "voxels": ct.with_suffix(".raw"),
        "mask": mask,
        "mask voxels": mask.with_suffix(".zraw"),
        "picture": root / "pictures" / f"{uid}.png",
        "record": root / "records" / f"{uid}.json",
    }


def _complete_record(root: Path, seed: int, index: int) -> dict[str, Any] | None:
    files = _files(root, seed, index)
    if not all(path.is_file() for path in files.values()):
        return None
    record = _read_json(files["record"])
    return record if record.get("voxel_bytes") == files["voxels"].stat().st_size else None


def _write_scan(
    root: Path, seed: int, index: int, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> dict[str, Any]:
    files = _files(root, seed, index)
    phantom = make_phantom(scan_seed(seed, index), shape=shape, spacing_mm=spacing_mm)
    write_metaimage(files["ct"], phantom.volume)
    mask = dataclasses.replace(phantom.volume, hu=phantom.mask.view(np.uint8))
    write_metaimage(files["mask"], mask, compress=True)
    write_png(files["picture"], montage(phantom))
    record = {
        "seriesuid": series_uid(seed, index),
        "seed": scan_seed(seed, index),
        "voxel_bytes": phantom.volume.hu.nbytes,
        "nodules": [dataclasses.asdict(nodule) for nodule in phantom.nodules],
        "false_candidates": _false_candidates(phantom, seed, index),
        "acquisition": dataclasses.asdict(phantom.acquisition),
    }
    write_whole(files["record"], _json(record))
    return _read_json(files["record"])


def _false_candidates(phantom: Phantom, seed: int, index: int) -> list[list[float]]:
    points = phantom.look_alikes_lps_mm
    rng = np.random.default_rng([seed, index, 1])
    chosen = rng.choice(len(points), min(FALSE_CANDIDATES, len(points)), replace=False)
    return [[float(value) for value in point] for point in points[np.sort(chosen)]]


def _write_lists(root: Path, records: Sequence[dict[str, Any]], kept: int) -> DatasetSummary:
    annotations: list[Sequence[object]] = [("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm")]
    candidates: list[Sequence[object]] = [("seriesuid", "coordX", "coordY", "coordZ", "class")]
    for record in records:
        for nodule in record["nodules"]:
            place = (record["seriesuid"], *nodule["center_lps_mm"])
            annotations.append((*place, nodule["diameter_mm"]))
            candidates.append((*place, 1))
        candidates.extend((record["seriesuid"], *point, 0) for point in record["false_candidates"])
    write_whole(root / "annotations.csv", _csv(annotations))
    write_whole(root / "candidates.csv", _csv(candidates))
    write_whole(root / "seriesuids.csv", _csv([(record["seriesuid"],) for record in records]))
    nodules = len(annotations) - 1
    return DatasetSummary(len(records), kept, nodules, len(candidates) - 1 - nodules)


def _csv(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("ascii")


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode("ascii")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError("is no JSON of this data set", source=path, hint="remove the file, and it is made again")
    return value
