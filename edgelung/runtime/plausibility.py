"""Hounsfield units or not: a look at a CT before anything runs on it.

A network that gets other numbers than it was trained on finds nothing, and says so as calmly as for a healthy lung. So
every volume is looked at first. Only the unit of the numbers is judged, by what each CT of a body holds whatever the
patient, the scanner and the field of view: air near -1000 HU and soft tissue around 0, by the definition of the unit
(-1000 is air, 0 is water). Which part of the body it shows is not judged.

Of the voxels that are no padding, at least 0.2 % must be air and 0.5 % soft tissue. At most 10 % may be denser than 600
HU, at most 10 % may lie below -1500 HU, and from 250 to 600 HU there may not be twice as many as are soft tissue.
docs/readers.md has the shares that were measured, on scans and on what is none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgelung.errors import InputError
from edgelung.runtime.wrong_units import likely_cause
from edgelung.volume import CtVolume

__all__ = ["check_finite", "check_hounsfield", "find_doubt"]

LOWEST_HU = -1500.0  # noise of air reaches -1200; what lies below is padding when it is one value or two
AIR_HU = -650.0  # and below: air, and lung that breathes
SOFT_HU = 250.0  # on both sides of water: fat, muscle, blood with contrast
DENSE_HU = 600.0  # and above: cortical bone, metal
LEAST_AIR, LEAST_SOFT = 0.002, 0.005
MOST_DENSE, MOST_BELOW, MOST_BETWEEN = 0.1, 0.1, 0.05
MOST_OF_A_SLICE = 0.3  # denser, or below: one slice of a scan may be the odd one
LARGEST_HU = 1e5  # metal is 30,000 in the extended scale, padding at most -32,768
PADDINGS, PADDING_SPREAD_HU = 2, 16.0  # lossy compression leaves a padding near its value
SAMPLES, SLICE_SAMPLES, SLICES = 1 << 17, 128, 1024
NOT_HU = "these are not Hounsfield units"
SERIES_ANEW = "give a CT in Hounsfield units, in which air is -1000 and water 0"

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Doubt:
    """A reason not to take a volume for a CT in Hounsfield units.

    Attributes:
        seen: The numbers that speak against it, and what they most likely are.
        way_out: What the user can do about it.
    """

    seen: str
    way_out: str


def check_hounsfield(volume: CtVolume, source: object = "", *, allow: bool = False, override: str = "") -> str:
    """Refuse a volume whose numbers cannot be used: not finite, or not Hounsfield units.

    Some 100,000 voxels spread over all slices are looked at, and every voxel of a float volume for NaN and infinity.
    For 512x512x400 voxels that takes 5 ms, in float32 40 to 80 ms, and 2 MiB.

    Args:
        volume: Seen as axial slices, which messages count from 0.
        source: Named in the error.
        allow: Take finite numbers as they are, whatever they mean.
        override: How the user says so; ends the hint.

    Returns:
        What speaks against Hounsfield units and was allowed; empty for a volume without a doubt.

    Raises:
        InputError: With what was seen, the likely cause and the way out.
    """
    check_finite(volume, source)
    doubt = find_doubt(volume.hu)
    if doubt is None:
        return ""
    if not allow:
        raise InputError(doubt.seen, source=source, hint="; ".join(filter(None, (doubt.way_out, override))))
    return doubt.seen


def check_finite(volume: CtVolume, source: object = "") -> None:
    """Refuse NaN, infinity, and floats so large that they are no CT number. Integers cost nothing.

    Args:
        volume: Seen as axial slices; looked at slice by slice, without a copy.
        source: Named in the error.

    Raises:
        InputError: With how many voxels there are of them, and the first slice that has one.
    """
    hu = volume.hu
    if hu.dtype.kind != "f":
        return
    stored = np.moveaxis(hu, int(np.argmax(np.abs(hu.strides))), 0)  # slices as they lie in memory: four times faster
    if all(float(plane.min()) > -LARGEST_HU and float(plane.max()) < LARGEST_HU for plane in stored):  # false for NaN
        return
    for words, is_bad in (
        ("NaN", np.isnan),
        ("infinite", np.isinf),
        (f"no CT number, beyond {LARGEST_HU:,.0f}", lambda plane: np.abs(plane) >= LARGEST_HU),
    ):
        counts = [int(np.count_nonzero(is_bad(plane))) for plane in hu]
        if any(counts):
            first = next(index for index, count in enumerate(counts) if count)
            problem = (
                f"{sum(counts):,} of {hu.size:,} voxels are {words}, the first in slice {first} of 0..{len(hu) - 1}"
            )
            hint = "write -1024 instead where nothing was measured" if 2 * sum(counts) < hu.size else SERIES_ANEW
            raise InputError(problem, source=source, hint=hint)


def find_doubt(hu: npt.NDArray[Any]) -> Doubt | None:
    """What speaks against Hounsfield units, if anything.

    Args:
        hu: (depth, height, width), finite, axial.
    """
    sample = _sample(hu)
    blank = _blank_slices(hu, sample)
    if blank.all():
        return _doubt_blank_slices(sample, blank, hu)
    measured = sample[~blank]
    padding = _is_padding(measured)
    odd = _doubt_odd_slices(measured, padding, np.flatnonzero(~blank) * _slice_step(hu))
    if odd is not None:
        return odd
    kept = measured[~padding]
    against = _against(kept)
    if not against:
        return _doubt_blank_slices(sample, blank, hu)
    scattered = np.count_nonzero(kept < LOWEST_HU) > MOST_BELOW * kept.size
    low, high = _range(hu, -math.inf if scattered or not padding.any() or not kept.size else LOWEST_HU)
    cause, way_out = likely_cause(measured.ravel() if scattered else kept, low, high, hu.dtype)
    words = f"values lie in {low:g}..{high:g}, {against}: {NOT_HU}"
    return Doubt(f"{words}, most likely {cause}" if cause else words, way_out or SERIES_ANEW)


def _sample(hu: npt.NDArray[Any]) -> Floats:
    """(slices, n) voxels on a grid in each slice; where there are very many slices, of some of them."""
    _, height, width = hu.shape
    slices = hu[:: _slice_step(hu)]
    wanted = max(SAMPLES // len(slices), SLICE_SAMPLES)
    step = max(1, math.ceil(math.sqrt(height * width / wanted)))
    grid = slices[:, (height - 1) % step // 2 :: step, (width - 1) % step // 2 :: step]
    return grid.reshape(len(slices), -1).astype(np.promote_types(hu.dtype, np.float32))


def _slice_step(hu: npt.NDArray[Any]) -> int:
    return math.ceil(len(hu) / SLICES)


def _blank_slices(hu: npt.NDArray[Any], sample: Floats) -> npt.NDArray[np.bool_]:
    """Slices of one value, which no scanner makes."""
    blank = np.asarray(sample.min(axis=1) == sample.max(axis=1))
    for index in np.flatnonzero(blank):
        plane = hu[index * _slice_step(hu)]
        blank[index] = plane.min() == plane.max()
    return blank


def _doubt_blank_slices(sample: Floats, blank: npt.NDArray[np.bool_], hu: npt.NDArray[Any]) -> Doubt | None:
    """Slices that were never filled. Some of padding are no reason, volumes are padded to a depth; nor any of air."""
    values = sample[:, 0]
    if blank.all() and (values == values[0]).all():
        way_out = "export the series again, or write the CT numbers and not only the header"
        return Doubt(f"every voxel is {values[0]:g}: nothing was measured", way_out)
    odd = blank & ((values > AIR_HU) | blank.all())
    if 2 * np.count_nonzero(blank & (values < LOWEST_HU)) > len(blank):
        odd = blank & (values < LOWEST_HU)
    if not odd.any():
        return None
    first = int(np.flatnonzero(odd)[0])
    count, total = np.count_nonzero(odd), len(blank)
    which = f"slice {first * _slice_step(hu)} of 0..{hu.shape[0] - 1} holds {values[first]:g}"
    problem = f"{count} of {total} slices hold one value throughout ({which}): nothing was measured there"
    return Doubt(problem, "export the series again, or leave out the slices that are empty")


def _is_padding(sample: Floats) -> npt.NDArray[np.bool_]:
    """Voxels far below air that share a value or two."""
    padding = np.zeros(sample.shape, dtype=bool)
    for _ in range(PADDINGS):
        rest = sample[(sample < LOWEST_HU) & ~padding]
        if not rest.size:
            break
        values, counts = np.unique(np.rint(rest), return_counts=True)
        padding |= (np.abs(sample - values[np.argmax(counts)]) <= PADDING_SPREAD_HU) & (sample < LOWEST_HU)
    return padding


def _against(kept: Floats) -> str:
    """The first rule that voxels without padding break; empty when they keep all."""
    if not kept.size:
        return "all of it padding"
    air = np.mean((kept >= LOWEST_HU) & (kept <= AIR_HU))
    soft, dense, below = np.mean(np.abs(kept) <= SOFT_HU), np.mean(kept > DENSE_HU), np.mean(kept < LOWEST_HU)
    if below > MOST_BELOW:
        return f"{below:.0%} of them below {LOWEST_HU:g}, where there is only padding"
    if air < LEAST_AIR:
        return f"{'almost ' if air else ''}none is air (about -1000)"
    if soft < LEAST_SOFT:
        return f"{'almost ' if soft else ''}none is soft tissue (about -100 to 80)"
    if dense > MOST_DENSE:
        return f"{dense:.0%} of them above {DENSE_HU:g}, as dense as bone"
    between = np.mean((kept > SOFT_HU) & (kept <= DENSE_HU))
    if between > max(MOST_BETWEEN, 2 * soft):
        return f"{between:.0%} of them from {SOFT_HU:g} to {DENSE_HU:g}, and only {soft:.0%} near water"
    return ""


def _doubt_odd_slices(sample: Floats, padding: npt.NDArray[np.bool_], numbers: npt.NDArray[np.int64]) -> Doubt | None:
    """Slices of another unit among good ones."""
    kept = np.maximum((~padding).sum(axis=1), 1)
    dense = ((sample > DENSE_HU) & ~padding).sum(axis=1) / kept
    below = ((sample < LOWEST_HU) & ~padding).sum(axis=1) / kept
    odd = (kept >= SLICE_SAMPLES // 4) & (np.maximum(dense, below) > MOST_OF_A_SLICE)
    if not odd.any() or odd.all() or _against(sample[~odd][~padding[~odd]]):
        return None
    first = int(np.flatnonzero(odd)[0])
    share, limit = max((dense[first], f"above {DENSE_HU:g}"), (below[first], f"below {LOWEST_HU:g}"))
    example = f"slice {numbers[first]} has {share:.0%} {limit}"
    words = f"{np.count_nonzero(odd)} of {len(sample)} slices differ from the others ({example})"
    return Doubt(f"{words}: not all are in Hounsfield units", "export the series again; each slice has its own rescale")


def _range(hu: npt.NDArray[Any], above: float) -> tuple[float, float]:
    """Smallest and largest voxel, those up to ``above`` left out."""
    low, high = math.inf, -math.inf
    for plane in hu:
        values = plane if above == -math.inf else plane[plane > above]
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    return low, high
