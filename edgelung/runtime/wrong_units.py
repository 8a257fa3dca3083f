"""The likely cause of numbers that are not Hounsfield units, and the way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["likely_cause"]

MASK_VALUES = 16  # a CT has noise, and hundreds of values
CUT_SHARE = 0.02  # of the voxels at the smallest value, or the largest: they were clipped to it
DARKEST_WHITE = 100  # a picture of 8 bits has pixels that are at least so bright
STANDARDIZED = 30.0  # standard deviations
ORIGINAL = "give the CT as it was before"
ANEW = "write the series again"

Floats = npt.NDArray[np.floating[Any]]


def likely_cause(values: Floats, low: float, high: float, dtype: np.dtype[Any]) -> tuple[str, str]:
    """Find out what would turn the numbers into Hounsfield units, or how they came about.

    Args:
        values: A sample without padding, one-dimensional.
        low: Smallest of all voxels, padding left out.
        high: Largest of all.
        dtype: Of the volume.

    Returns:
        The cause and the way out; both empty when nothing speaks for any.
    """
    if not values.size:
        return "", ""
    if len(np.unique(values)) <= MASK_VALUES:
        return "a mask or labels", "give the CT and not its mask"
    for change, cause, way_out in _changes(dtype, high):
        if _is_ct(change(values)):
            return cause, way_out
    return _by_range(values, low, high)


def _changes(dtype: np.dtype[Any], high: float) -> list[tuple[Callable[[Floats], Floats], str, str]]:
    changes: list[tuple[Callable[[Floats], Floats], str, str]] = [
        (
            lambda values: values - 1024,
            "the RescaleIntercept of -1024 was not applied",
            f"subtract 1024 and {ANEW}, or export it with its RescaleIntercept",
        ),
        (lambda values: values + 1024, "the RescaleIntercept of -1024 was applied twice", f"add 1024 and {ANEW}"),
        (lambda values: -values, "their sign is inverted", f"multiply by -1 and {ANEW}"),
        (lambda values: values / 10, "they are ten times too large", f"divide by 10 and {ANEW}"),
        (lambda values: values * 10, "they are ten times too small", f"multiply by 10 and {ANEW}"),
        (lambda values: values * 1000, "they are in thousands", f"multiply by 1000 and {ANEW}"),
    ]
    if dtype.kind == "u" and high > 1 << 15:
        bits = 16 if high < 1 << 16 else 8 * dtype.itemsize

        def signed(values: Floats) -> Floats:
            return np.where(values >= 2.0 ** (bits - 1), values - 2.0**bits, values)

        changes.insert(0, (signed, "negative numbers were stored as unsigned ones", f"{ANEW} as signed 16-bit numbers"))
    return changes


def _is_ct(hu: Floats) -> bool:
    """Air and soft tissue with little between, bone above and nothing below: what only a CT has."""
    air, soft = np.mean((hu > -1500) & (hu <= -650)), np.mean(np.abs(hu) <= 250)
    between, dense, below = np.mean((hu > -650) & (hu < -250)), np.mean(hu > 250), np.mean(hu <= -1300)
    return bool(air > max(0.05, 1.5 * between) and soft > max(0.05, 1.5 * between, dense) and below < 0.001)


def _by_range(values: Floats, low: float, high: float) -> tuple[str, str]:
    if low >= 0 and high <= 1:
        return "scaled to 0..1 for a network", f"{ORIGINAL} it was scaled"
    if low >= -1 and high <= 1:
        return "scaled to -1..1 for a network", f"{ORIGINAL} it was scaled"
    if -STANDARDIZED <= low < 0 < high <= STANDARDIZED:
        return "standardized to mean 0 and deviation 1", f"{ORIGINAL} it was standardized"
    if low >= 0 and DARKEST_WHITE < high <= 255:
        return "an 8-bit picture of a window", f"{ORIGINAL} it was windowed to 0..255"
    if -650 < low < 0 and np.mean(values <= low) > CUT_SHARE:
        return f"a window that cuts off all below {low:g}", f"{ORIGINAL} it was clipped, with air at -1000"
    if high < 250 and np.mean(values >= high) > CUT_SHARE:
        return f"a window that cuts off all above {high:g}", f"{ORIGINAL} it was clipped, with bone and soft tissue"
    return "", ""
