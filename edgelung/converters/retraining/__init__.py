"""A network learns again what pruning and rounding took from it: one loop for both (docs/retraining.md)."""

from edgelung.converters.retraining.presets import PRESETS, Preset, get_preset
from edgelung.converters.retraining.qat import prepare_rounding, quantise_aware
from edgelung.converters.retraining.recover import Retrained, recover
from edgelung.converters.retraining.scenes import Scene
from edgelung.converters.retraining.sources import Scenes, crowd, gather_scenes
from edgelung.converters.retraining.teacher import Teacher, find_teacher, to_logits

__all__ = [
    # how long
    "PRESETS",
    "Preset",
    "get_preset",
    # what from
    "Scene",
    "Scenes",
    "Teacher",
    "crowd",
    "find_teacher",
    "gather_scenes",
    "to_logits",
    # training
    "Retrained",
    "prepare_rounding",
    "quantise_aware",
    "recover",
]
