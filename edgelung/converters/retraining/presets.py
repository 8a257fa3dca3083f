"""How long a network is retrained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

__all__ = ["PRESETS", "Preset", "get_preset"]


@dataclass(frozen=True)
class Preset:
    """Amounts of a retraining; rates are the same for all.

    Attributes:
        scenes: Copies of the CTs, each with other inserted nodules, or phantoms when there are no CTs.
        epochs: How often as many pixels as the answered slices of all scenes have are trained on, after pruning.
        qat_epochs: The same while the network rounds as the NPU does.
    """

    scenes: int
    epochs: float
    qat_epochs: float


PRESETS: Final = MappingProxyType(
    {
        "quick": Preset(scenes=3, epochs=2, qat_epochs=0.5),
        "published": Preset(scenes=10, epochs=5, qat_epochs=1),  # the published report retrained for 5 epochs
        "thorough": Preset(scenes=12, epochs=15, qat_epochs=2),
    }
)


def get_preset(name: str, epochs: int | None = None) -> Preset:
    """A preset by name; with ``epochs`` another length, of which QAT keeps its share."""
    preset = PRESETS[name]
    if epochs is None:
        return preset
    return replace(preset, epochs=epochs, qat_epochs=epochs * preset.qat_epochs / preset.epochs)
