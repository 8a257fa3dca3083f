"""The bundle: what passes from the host to the board.

A folder, or one zip file with stored entries, that holds compiled networks, one manifest and golden inputs and
outputs. The manifest is written last, so that its presence means that the bundle is complete.
"""

from edgelung.bundle.artefact import Artefact, FidelityRow, FileRecord, LatencyRecord, LayerCounts
from edgelung.bundle.describe import describe
from edgelung.bundle.manifest import (
    FORMAT_VERSION,
    CalibrationRecord,
    Golden,
    Manifest,
    NetworkRecord,
    PipelineRecord,
    Provenance,
    StageRecord,
)
from edgelung.bundle.reader import Bundle, is_bundle, open_bundle
from edgelung.bundle.writer import BundleWriter

__all__ = [
    # read and write
    "Bundle",
    "BundleWriter",
    "describe",
    "is_bundle",
    "open_bundle",
    # the manifest
    "FORMAT_VERSION",
    "Artefact",
    "CalibrationRecord",
    "FidelityRow",
    "FileRecord",
    "Golden",
    "LatencyRecord",
    "LayerCounts",
    "Manifest",
    "NetworkRecord",
    "PipelineRecord",
    "Provenance",
    "StageRecord",
]
