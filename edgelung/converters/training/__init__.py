"""Training: one loop for all that is trained, and the call that takes a LUNA16 folder to a network."""

from edgelung.converters.training.loop import Batch, run_steps
from edgelung.converters.training.losses import SegmentationLoss, segmentation_loss
from edgelung.converters.training.metrics import PixelCounts
from edgelung.converters.training.recipe import TrainRecipe
from edgelung.converters.training.train import TrainResult, train
from edgelung.converters.training.validation import Validation

__all__ = [
    # training from zero
    "TrainRecipe",
    "TrainResult",
    "Validation",
    "train",
    # the loop and what it makes small
    "Batch",
    "SegmentationLoss",
    "run_steps",
    "segmentation_loss",
    # what is measured
    "PixelCounts",
]
