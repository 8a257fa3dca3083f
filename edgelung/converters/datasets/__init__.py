"""Data for training: LUNA16 folders, masks grown from their annotations, and seeded samplers of crops."""

from edgelung.converters.datasets.crops import CropSampler, LabelledScan
from edgelung.converters.datasets.grown_masks import grow_masks
from edgelung.converters.datasets.labelled import label_scan
from edgelung.converters.datasets.luna16 import Annotation, LunaScan, read_luna16, split_scans

__all__ = [
    # LUNA16
    "Annotation",
    "LunaScan",
    "read_luna16",
    "split_scans",
    # labels and crops
    "CropSampler",
    "LabelledScan",
    "grow_masks",
    "label_scan",
]
