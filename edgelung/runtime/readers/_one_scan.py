"""Slices of one series that belong to two scans: told by what a scanner sets once for a scan.

An archive may put two reconstructions, phases or acquisitions under one SeriesInstanceUID; slices of both, sorted by
position, make a volume that never was. Three kinds of fields tell them apart:

* set once for a scan and its reconstruction, such as the kernel or the diameter: all slices must have the same;
* counted up along a scan, such as AcquisitionNumber (one a rotation, with step-and-shoot): may change along the
  patient, but a value that comes back after another one belongs to a second scan;
* times, which drift along a scan and may be in any order when several computers reconstruct it: told apart only when
  they fall into groups that are shorter than the pauses between them and that come back along the patient.

What follows the patient's shape (tube current, exposure, window) or the order of files (InstanceNumber) is left alone.
Messages show values of scanner settings, never those of names, numbers of patients, dates or UIDs.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from edgelung.errors import InputError
from edgelung.runtime.readers._limits import shown_code

__all__ = ["SCAN_KEYWORDS", "check_one_scan", "scan_values"]

SAME_TEXT = (
    "ConvolutionKernel",
    "FilterType",
    "ReconstructionAlgorithm",
    "EchoNumbers",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "StackID",
    "PatientPosition",
)
SAME_NUMBER = (  # within NEAR
    "ReconstructionDiameter",
    "SliceThickness",
    "KVP",
    "NominalPercentageOfCardiacPhase",
    "NominalPercentageOfRespiratoryPhase",
)
SAME_BUT_SECRET = ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "SeriesNumber", "SeriesDescription")
IN_RUNS = ("AcquisitionNumber", "ScanOptions")
IN_RUNS_BUT_SECRET = ("AcquisitionUID", "ContrastBolusAgent", "ProtocolName")
TIMES = ("AcquisitionDateTime", "AcquisitionTime", "ContentTime")
MILLISECONDS = ("TriggerTime", "NominalCardiacTriggerDelayTime")
IMAGE_TYPE = "ImageType"
SCAN_KEYWORDS = (
    *(IMAGE_TYPE, *SAME_TEXT, *SAME_NUMBER, *SAME_BUT_SECRET, *IN_RUNS, *IN_RUNS_BUT_SECRET, *TIMES, *MILLISECONDS),
)
NEAR = 0.01  # relative: 0.62 and 0.625 mm are one thickness
PAUSE_SECONDS = 3.0  # shortest pause between scans: clocks count whole seconds, and images are made in bursts
PAUSE_MILLISECONDS = 50.0  # shortest distance of two phases of a heartbeat; beats themselves differ by some 20
MAX_TEXT = 64


def scan_values(dataset: Any) -> dict[str, str]:
    """The fields above that a slice has, as text; several values joined by a backslash."""
    values = {}
    for keyword in SCAN_KEYWORDS:
        try:
            value = dataset.get(keyword)
            items = [value] if value is None or isinstance(value, (str, bytes)) else list(value)
        except TypeError:  # one number
            items = [value]
        except Exception:  # what pydicom raises on damaged values is not one family; the field then tells nothing
            continue
        text = "\\".join(str(item).strip() for item in items if item is not None).strip("\\")
        if text:
            values[keyword] = text[:MAX_TEXT]
    return values


def check_one_scan(scans: Sequence[Mapping[str, str]], source: object) -> None:
    """That slices belong to one scan.

    Args:
        scans: What :func:`scan_values` found for each slice, in the order of their positions.
        source: The folder or file, for messages.

    Raises:
        InputError: They belong to several; names the field that tells them apart.
    """
    kinds = [scan.get(IMAGE_TYPE, "").upper().split("\\") for scan in scans]
    _check_same(IMAGE_TYPE, ["\\".join(kind[2:]) for kind in kinds], source)
    for keyword in SAME_TEXT:
        _check_same(keyword, [scan.get(keyword, "") for scan in scans], source)
    for keyword in SAME_NUMBER:
        _check_same(keyword, _rounded([scan.get(keyword, "") for scan in scans]), source)
    for keyword in SAME_BUT_SECRET:
        _check_same(keyword, [scan.get(keyword, "") for scan in scans], source, secret=True)
    _check_runs(IMAGE_TYPE, ["\\".join(kind[:2]) for kind in kinds], source)
    for keyword in IN_RUNS:
        _check_runs(keyword, [scan.get(keyword, "") for scan in scans], source)
    for keyword in IN_RUNS_BUT_SECRET:
        _check_runs(keyword, [scan.get(keyword, "") for scan in scans], source, secret=True)
    for keyword in (*TIMES, *MILLISECONDS):
        pause = PAUSE_MILLISECONDS if keyword in MILLISECONDS else PAUSE_SECONDS
        groups = _groups([_time(keyword, scan.get(keyword, "")) for scan in scans], pause)
        _check_runs(keyword, groups, source, secret=True)


def _check_same(keyword: str, values: Sequence[str], source: object, *, secret: bool = False) -> None:
    if len(set(values)) > 1:
        raise _several(keyword, "differs between slices", values, source, secret)


def _check_runs(keyword: str, values: Sequence[str], source: object, *, secret: bool = False) -> None:
    """That no value comes back after another one."""
    runs = [value for index, value in enumerate(values) if index == 0 or value != values[index - 1]]
    if len(runs) > len(set(runs)):
        raise _several(keyword, "alternates along the patient", values, source, secret)


def _several(keyword: str, how: str, values: Sequence[str], source: object, secret: bool) -> InputError:
    counts = Counter(values).most_common()
    parts = [
        f"{'' if secret else (shown_code(value) if value else 'none') + ' in '}{count} slice{'s' if count > 1 else ''}"
        for value, count in counts[:3]
    ]
    more = f" and {len(counts) - 3} more values" if len(counts) > 3 else ""
    listed = ", ".join(parts) + more
    problem = f"{how}, so the series holds several scans or reconstructions ({listed})"
    hint = f"put the slices of one scan into a folder (or file) of their own, sorted by {keyword}"
    return InputError(problem, source=source, field=keyword, hint=hint)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _rounded(values: Sequence[str]) -> list[str]:
    """Numbers as text, those within NEAR of the next smaller one as that one; other texts stay."""
    names: dict[str, str] = {}
    last, name = math.nan, ""
    for text in sorted({value for value in values if math.isfinite(_number(value))}, key=_number):
        number = _number(text)
        if not abs(number - last) <= NEAR * abs(number):
            name = f"{number:g}"
        names[text], last = name, number
    return [names.get(value, value) for value in values]


def _time(keyword: str, text: str) -> float:
    """A DICOM time (PS3.5 table 6.2-1) in seconds, a trigger time in milliseconds; not a number without."""
    text = text.replace(":", "")
    if not text:
        return math.nan
    if keyword in MILLISECONDS:
        return _number(text)
    day = 0
    if keyword == "AcquisitionDateTime":
        try:
            day, text = datetime.strptime(text[:8], "%Y%m%d").toordinal(), text[8:].split("+")[0].split("-")[0]
        except ValueError:
            return math.nan
    hours, minutes, rest = (_number(text[part] or "0") for part in (slice(0, 2), slice(2, 4), slice(4, None)))
    return day * 86400 + hours * 3600 + minutes * 60 + rest


def _groups(times: Sequence[float], least: float) -> list[str]:
    """Number, as text, of the group of times that each slice belongs to.

    One group, unless pauses between groups are longer than each group. Groups of a single slice prove nothing, as one
    slice may have been made again.

    Args:
        times: One for each slice, in the order of their positions.
        least: The shortest pause that counts.
    """
    ordered = sorted(times)
    gaps = [after - before for before, after in itertools.pairwise(ordered)]
    pause = max(gaps, default=0.0) / 2
    if not 2 * pause >= least or not all(map(math.isfinite, times)):
        return ["" for _ in times]
    starts = [ordered[0], *(after for after, gap in zip(ordered[1:], gaps, strict=True) if gap > pause)]
    groups = [bisect.bisect_right(starts, time) for time in times]
    sizes = Counter(groups)
    longest = max(time - starts[group - 1] for time, group in zip(times, groups, strict=True))
    shortest = min(gap for gap in gaps if gap > pause)
    if longest >= shortest or min(sizes.values()) < 2:
        return ["" for _ in times]
    return [str(group) for group in groups]
