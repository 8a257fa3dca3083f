"""How a conversion comes to its arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["ALGORITHMS", "Algorithm", "Precision", "Route"]

Precision = Literal["fp32", "fp16", "int8"]
Algorithm = Literal["normal", "kl_divergence", "mmse", "hybrid"]
ALGORITHMS: Final[tuple[Algorithm, ...]] = ("normal", "kl_divergence", "mmse", "hybrid")


@dataclass(frozen=True)
class Route:
    """The one way of a conversion.

    Attributes:
        precision: Arithmetic of the artefacts for the targets.
        algorithm: How post-training quantisation finds its ranges; None for floating point.
    """

    precision: Precision
    algorithm: Algorithm | None = None
