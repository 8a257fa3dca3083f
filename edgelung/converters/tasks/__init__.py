"""Tasks: what their networks eat and give."""

from edgelung.converters.tasks.nodule_segmentation import nodule_segmentation_spec

__all__ = ["nodule_segmentation_spec"]
