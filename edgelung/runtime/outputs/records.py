"""Findings as JSON and as the CSV of the LUNA16 challenge."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from edgelung.runtime.findings import Finding
from edgelung.runtime.png import write_whole
from edgelung.volume import CtVolume

__all__ = ["findings_to_json", "write_json", "write_luna16_csv"]

SCHEMA, SCHEMA_VERSION = "edgelung.findings", 1
LUNA16_HEADER = (
    "seriesuid",
    "coordX",
    "coordY",
    "coordZ",
    "probability",
)  # https://luna16.grand-challenge.org/Evaluation


def findings_to_json(findings: Iterable[Finding], axial: CtVolume, *, series_id: str) -> dict[str, Any]:
    """Plain JSON data; units are in the names of the keys, millimetres are LPS, ``dhw`` is (depth, height, width).

    Args:
        findings: As measured, in their order.
        axial: The axial view they were measured on; of it only the geometry is written.
        series_id: A name for the series that tells nothing of the patient.

    Raises:
        ValueError: When ``series_id`` is empty or of several lines.
    """
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "series_id": _one_line(series_id),
        "geometry": {
            "view": "axial: depth to superior, height to posterior, width to left",
            "shape_dhw": list(axial.shape),
            "spacing_dhw_mm": list(axial.spacing_mm),
            "origin_lps_mm": list(axial.origin_mm),
            "direction_lps_by_dhw": axial.direction.tolist(),
        },
        "findings": [_finding_to_json(finding) for finding in findings],
    }


def write_json(path: str | os.PathLike[str], data: Mapping[str, Any]) -> None:
    """Write JSON data as UTF-8 text; the file appears whole or not at all.

    Raises:
        ValueError: When the data holds NaN or infinity, which JSON has no words for.
        OSError: When the folder cannot be written.
    """
    write_whole(path, (json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_luna16_csv(path: str | os.PathLike[str], series_id: str, findings: Iterable[Finding]) -> None:
    """Write findings as a LUNA16 submission: LPS millimetres in full precision; without findings, the header alone.

    Args:
        path: The file; it appears whole or not at all.
        series_id: The ``seriesuid`` of every line.
        findings: In the order of the lines.

    Raises:
        ValueError: When ``series_id`` is empty or of several lines.
        OSError: When the folder cannot be written.
    """
    series_id = _one_line(series_id)
    text = io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(LUNA16_HEADER)
    for finding in findings:
        lines.writerow((series_id, *(repr(float(value)) for value in (*finding.center_lps_mm, finding.confidence))))
    write_whole(path, text.getvalue().encode())


def _finding_to_json(finding: Finding) -> dict[str, Any]:
    return {
        "id": finding.id,
        "label": finding.label,
        "confidence": finding.confidence,
        "center_lps_mm": list(finding.center_lps_mm),
        "center_index_dhw": list(finding.center_index),
        "diameter_mm": finding.diameter_mm,
        "longest_axial_mm": finding.longest_axial_mm,
        "volume_mm3": finding.volume_mm3,
        "voxels": finding.voxels,
        "bounding_box_index_dhw": [list(span) for span in finding.bounding_box],
    }


def _one_line(series_id: str) -> str:
    if not series_id.strip() or series_id.splitlines() != [series_id]:
        raise ValueError(f"a series needs a name of one line, got {series_id!r}")
    return series_id
