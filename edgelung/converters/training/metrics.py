"""Pixels hit, missed and marked by mistake, and what is made of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["PixelCounts"]


@dataclass(frozen=True)
class PixelCounts:
    """Pixels of a whole set of slices at one threshold; counts of parts add up to counts of the whole.

    Attributes:
        hit: Nodule pixels that were marked (true positives).
        missed: Nodule pixels that were not (false negatives).
        invented: Marked pixels that are none (false positives).
    """

    hit: int = 0
    missed: int = 0
    invented: int = 0

    @classmethod
    def of(cls, marked: Tensor, mask: Tensor) -> PixelCounts:
        """Counts of two bool tensors of one shape."""
        hit = int((marked & mask).sum())
        return cls(hit, int(mask.sum()) - hit, int(marked.sum()) - hit)

    def __add__(self, other: PixelCounts) -> PixelCounts:
        return PixelCounts(self.hit + other.hit, self.missed + other.missed, self.invented + other.invented)

    @property
    def label(self) -> int:
        """Nodule pixels."""
        return self.hit + self.missed

    @property
    def recall(self) -> float:
        """Share of nodule pixels that were marked; 0 when there are none."""
        return self.hit / max(self.label, 1)

    @property
    def precision(self) -> float:
        """Share of marked pixels that are nodule; 0 when none was marked."""
        return self.hit / max(self.hit + self.invented, 1)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, which is the Dice coefficient of all pixels."""
        return 2 * self.hit / max(2 * self.hit + self.missed + self.invented, 1)

    def percentages(self) -> dict[str, float]:
        """tp, fn and fp in percent of the nodule pixels; fp may exceed 100."""
        share = 100 / max(self.label, 1)
        return {"tp": self.hit * share, "fn": self.missed * share, "fp": self.invented * share}
