"""From an axial CT volume to the input of one run: intensity, packing, padding and tiles, as the manifest says."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgelung.errors import InputError
from edgelung.runtime.plane import PlanePlan
from edgelung.spec import InPlaneRule, IntensityRule, NetworkInput, SlicePacking
from edgelung.volume import CtVolume

__all__ = ["SlicePacker", "apply_intensity", "check_geometry", "prepare_stack"]

_BUFFER_WINDOWS = 4  # a window slides this many lengths before the buffer's tail is copied back to its head


def apply_intensity(
    hu: npt.NDArray[Any], rule: IntensityRule, out: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """``clip(hu, *rule.clip_hu) * rule.scale + rule.offset`` in float32.

    Args:
        hu: Hounsfield units in any shape and number type.
        rule: The rule of the manifest.
        out: Where to write; a new array when not given.
    """
    low, high = rule.clip_hu
    # NaN stays NaN: a pipeline refuses it before (plausibility.py), and the check of an engine's output after.
    result = np.clip(hu, low, high, out=out, dtype=np.float32, casting="unsafe")
    if rule.scale != 1.0:
        result *= np.float32(rule.scale)
    if rule.offset != 0.0:
        result += np.float32(rule.offset)
    return result


def prepare_stack(stack: npt.NDArray[Any], spec: NetworkInput) -> npt.NDArray[np.float32]:
    """The input of one run from slices that already have the network's plane.

    Args:
        stack: (slices, height, width) Hounsfield units.
        spec: The network's input.

    Returns:
        (1, slices, height, width) float32.
    """
    return apply_intensity(stack, spec.intensity)[np.newaxis]


def check_geometry(volume: CtVolume, rule: InPlaneRule, source: object = "") -> None:
    """Refuse a volume that the network is not meant for.

    Args:
        volume: In its axial view.
        rule: The rule of the manifest.
        source: Named in the error.

    Raises:
        InputError: When spacing or tilt lie outside of the rule.
    """
    limits = (
        ("slice spacing", volume.spacing_mm[0], rule.slice_spacing_mm),
        ("pixel spacing", volume.spacing_mm[1], rule.pixel_spacing_mm),
        ("pixel spacing", volume.spacing_mm[2], rule.pixel_spacing_mm),
    )
    for name, value, (low, high) in limits:
        # Header digits are few: a spacing of 1.2 may arrive as 1.2000001.
        if not low * (1 - 1e-4) <= value <= high * (1 + 1e-4):
            raise InputError(
                f"{value:g} mm is outside of {low:g}..{high:g} mm, the range this bundle was made for",
                source=source,
                field=name,
                hint="reconstruct or resample the series to a spacing within the range",
            )
    tilt = volume.obliquity_degrees()
    if tilt > rule.max_obliquity_degrees:
        raise InputError(
            f"slices are tilted by {tilt:.1f} degrees, the bundle's rule allows {rule.max_obliquity_degrees:g}",
            source=source,
            field="direction",
            hint="reformat the series to axial slices",
        )


class SlicePacker:
    """Slides over a volume and hands out the prepared slices of each run.

    Every slice is clipped and cast once, into a buffer in which the window of a run is a contiguous view; the memory
    is that of a few windows, whatever the length of the volume.

    Args:
        volume: In its axial view.
        spec: The network's input.
        plan: How the volume's plane fits the network's.
    """

    def __init__(self, volume: CtVolume, spec: NetworkInput, plan: PlanePlan) -> None:
        self._hu = volume.hu
        self._packing: SlicePacking = spec.packing
        self._rule = spec.intensity
        self._plan = plan
        height, width = plan.padded
        self._buffer = np.empty((_BUFFER_WINDOWS * self._packing.slices, height, width), dtype=np.float32)
        pad = np.full((), spec.in_plane.pad_hu)
        self._buffer[:] = apply_intensity(pad, self._rule)
        self._start = 0  # place in the buffer of the window's first slice
        self._filled = 0  # prepared slices from there on
        self._position = 0  # window's first slice, counted from the first (repeated) context slice

    def window(self, first_output: int) -> npt.NDArray[np.float32]:
        """Prepared slices of the run that answers for slices from ``first_output`` on; call in rising order.

        Returns:
            (slices, padded height, padded width) float32, a view that the next call overwrites.
        """
        skip = first_output - self._position
        slices = self._packing.slices
        self._position = first_output
        self._start += skip
        self._filled = max(self._filled - skip, 0)
        if self._start + slices > len(self._buffer):
            kept = self._buffer[self._start : self._start + self._filled].copy()
            self._start = 0
            self._buffer[: self._filled] = kept
        while self._filled < slices:
            self._prepare(self._position + self._filled, self._start + self._filled)
            self._filled += 1
        return self._buffer[self._start : self._start + slices]

    def _prepare(self, position: int, place: int) -> None:
        index = min(max(position - self._packing.before, 0), len(self._hu) - 1)
        apply_intensity(self._hu[index], self._rule, out=self._plan.inner(self._buffer[place]))
