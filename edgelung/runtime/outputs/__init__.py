"""What leaves the board: findings as JSON and LUNA16 CSV, and pictures. No file names or identifiers of a patient."""

from edgelung.runtime.outputs.overlays import draw_finding, draw_overview
from edgelung.runtime.outputs.records import findings_to_json, write_json, write_luna16_csv

__all__ = [
    # records
    "findings_to_json",
    "write_json",
    "write_luna16_csv",
    # pictures
    "draw_finding",
    "draw_overview",
]
