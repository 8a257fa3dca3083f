"""Data for training, as seeded samplers over volumes with masks."""

from edgelung.converters.datasets.crops import CropSampler, LabelledScan

__all__ = ["CropSampler", "LabelledScan"]
