"""Data for training: LUNA16 folders, masks grown from their annotations, a cache of both, and seeded crops."""

from edgelung.converters.datasets.cache import cache_scan, open_cached_scan
from edgelung.converters.datasets.crops import Crops, crop_batches
from edgelung.converters.datasets.grown_masks import grow_masks
from edgelung.converters.datasets.labelled import LabelledScan, label_scan
from edgelung.converters.datasets.luna16 import Annotation, LunaScan, read_luna16, split_scans
from edgelung.converters.datasets.whole_slices import WholeSlices

__all__ = [
    # LUNA16
    "Annotation",
    "LunaScan",
    "read_luna16",
    "split_scans",
    # labels
    "LabelledScan",
    "cache_scan",
    "grow_masks",
    "label_scan",
    "open_cached_scan",
    # what networks train and validate on
    "Crops",
    "WholeSlices",
    "crop_batches",
]
