"""A block of slices that nothing is fitted to, so that it can be verified on."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgelung.errors import InputError
from edgelung.spec import SlicePacking

__all__ = ["GAP_SLICES", "Holdout"]

GAP_SLICES = 7  # on both sides: neighbouring slices show the same tissue, and a network sees seven at once
_WORDING = re.compile(r"(\d{1,6}):(\d{1,6})")


@dataclass(frozen=True)
class Holdout:
    """Axial slices ``low <= index < high`` of one series; index 0 is the lowest (most inferior) slice.

    Attributes:
        low: First slice of the block.
        high: First slice after it.

    Raises:
        InputError: Unless ``0 <= low < high``.
    """

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            problem = f"{self.low}:{self.high} is no block of slices"
            raise InputError(problem, field="holdout", hint="give LOW:HIGH with 0 <= LOW < HIGH; HIGH is not included")

    @classmethod
    def parse(cls, text: str) -> Holdout:
        """From ``LOW:HIGH``.

        Raises:
            InputError: If it is worded differently.
        """
        match = _WORDING.fullmatch(text.strip())
        if match is None:
            hint = "give LOW:HIGH, slice numbers counted from the lowest slice, such as 40:60"
            raise InputError(f"{text!r} is no block of slices", field="holdout", hint=hint)
        return cls(int(match[1]), int(match[2]))

    def check_within(self, depth: int) -> None:
        """Refuse a block that is not inside of a series with ``depth`` slices.

        Raises:
            InputError: If it is not.
        """
        if self.high > depth:
            problem = f"{self.low}:{self.high} reaches beyond the series, which has slices 0 to {depth - 1}"
            raise InputError(problem, field="holdout", hint=f"give a block within 0:{depth}")

    def blocks(self, first: int, packing: SlicePacking) -> bool:
        """Whether the run that answers from slice ``first`` on sees a slice of the block or of the gap around it."""
        start = first - packing.before
        return start < self.high + GAP_SLICES and start + packing.slices > self.low - GAP_SLICES

    def contains(self, first: int, packing: SlicePacking) -> bool:
        """Whether all that the run sees lies in the block."""
        start = first - packing.before
        return start >= self.low and start + packing.slices <= self.high
