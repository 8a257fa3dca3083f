"""How a conversion comes to its arithmetic, and the choices that a recipe names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

__all__ = ["ALGORITHMS", "CHANNEL_BLOCK", "Algorithm", "Precision", "Preset", "Route", "Scope"]

Precision = Literal["fp32", "fp16", "int8"]
Algorithm = Literal["normal", "kl_divergence", "mmse", "hybrid"]
Scope = Literal["layer", "global"]
Preset = Literal["quick", "published", "thorough"]
ALGORITHMS: Final[tuple[Algorithm, ...]] = ("normal", "kl_divergence", "mmse", "hybrid")
# The NPU moves blocks of 16 bytes of channels (docs/pruning.md); a CPU in float32 gains nothing by blocks.
CHANNEL_BLOCK: Final[Mapping[Precision, int]] = MappingProxyType({"int8": 16, "fp16": 8, "fp32": 1})


@dataclass(frozen=True)
class Route:
    """The one way of a conversion.

    Attributes:
        precision: Arithmetic of the artefacts for the targets.
        algorithm: How post-training quantisation finds its ranges; None for floating point and for a network that
            was trained in int8.
    """

    precision: Precision
    algorithm: Algorithm | None = None
