"""Training loops."""

from edgelung.converters.training.segmentation import segmentation_loss, train_segmentation

__all__ = ["segmentation_loss", "train_segmentation"]
