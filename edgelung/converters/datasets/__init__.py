"""Data for training: LUNA16 folders, masks grown from their annotations, a cache of both, and seeded crops."""

from edgelung.converters.datasets.cache import cache_scan, open_cached_scan
from edgelung.converters.datasets.crops import Crops, crop_batches
from edgelung.converters.datasets.grown_masks import grow_masks
from edgelung.converters.datasets.label_counts import LabelCounts, is_complete
from edgelung.converters.datasets.labelled import LabelledScan, Outcome, label_scan
from edgelung.converters.datasets.luna16 import Annotation, LunaScan, read_luna16, split_scans
from edgelung.converters.datasets.whole_slices import WholeSlices

__all__ = [
    # LUNA16
    "Annotation",
    "LunaScan",
    "read_luna16",
    "split_scans",
    # labels
    "LabelCounts",
    "LabelledScan",
    "Outcome",
    "cache_scan",
    "grow_masks",
    "is_complete",
    "label_scan",
    "open_cached_scan",
    # what networks train and validate on
    "Crops",
    "WholeSlices",
    "crop_batches",
]
