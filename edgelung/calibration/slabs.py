"""Slabs of CTs and where they come from, as records."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy.typing as npt

__all__ = ["CalibrationSet", "Kind", "Provenance", "Slab"]

Kind = Literal["series", "folder", "luna16", "volumes", "phantom"]


@dataclass(frozen=True, eq=False)
class Slab:
    """What one run of a network sees.

    Attributes:
        hu: (packing.slices, height, width) HU in the dtype of the series, not clipped; depth grows to superior.
        series: Which of the given series it is from, counted from 0.
        first: Index of its first answered slice in the axial series; ``hu`` starts ``packing.before`` slices lower.
    """

    hu: npt.NDArray[Any]
    series: int
    first: int


@dataclass(frozen=True)
class Provenance:
    """Where slabs come from, without a path, a name, a date or an identifier.

    Attributes:
        kind: What was given; ``phantom`` when that was nothing.
        purpose: ``fitting``, or ``verification`` for slabs of the held-out block.
        series_given: CT series that were there to choose from.
        series_used: Series that slabs were taken of.
        series_unsuitable: Series that were read and had no lungs, or none where slabs may be.
        slabs: How many.
        slices: Slices of each.
        seed: Of the choice; None where nothing is drawn.
        holdout: (low, high) of the block that was kept out, or that the slabs are from.
        gap: Slices on both sides of the block that fitting does not see either.
        salt: Hexadecimal key of ``hashes``.
        hashes: HMAC-SHA256 of shape and voxels of each used series: who has a CT can check whether it was used, and
            nobody can tell from the hashes of two bundles with different salts that they share one.
    """

    kind: Kind
    purpose: Literal["fitting", "verification"]
    series_given: int
    series_used: int
    series_unsuitable: int
    slabs: int
    slices: int
    seed: int | None
    holdout: tuple[int, int] | None
    gap: int
    salt: str
    hashes: tuple[str, ...]

    @property
    def is_phantom(self) -> bool:
        """True when real CTs should be asked for."""
        return self.kind == "phantom"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class CalibrationSet:
    """Slabs and where they come from."""

    slabs: tuple[Slab, ...]
    provenance: Provenance
