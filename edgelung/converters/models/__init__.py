"""Networks that edgelung can build by name."""

from edgelung.converters.models.registry import ModelEntry, ModelGeometry, get_model_entry, model_names
from edgelung.converters.models.unet_luna import UNetLuna, UNetWidths

__all__ = [
    # registry
    "ModelEntry",
    "ModelGeometry",
    "get_model_entry",
    "model_names",
    # networks
    "UNetLuna",
    "UNetWidths",
]
