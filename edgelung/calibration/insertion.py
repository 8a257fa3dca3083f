"""Nodules of known shape, inserted into the lungs of a real CT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from edgelung.calibration.appearance import FINE_PX, Appearance, measure_appearance
from edgelung.calibration.host_places import HostPlaces
from edgelung.calibration.lattice import Floats
from edgelung.calibration.lungs import axial_view, segment_lungs
from edgelung.calibration.nodules import PLACES, Nodule, NodulePatch, NoduleShape, draw_diameter_mm, draw_kind
from edgelung.errors import InputError
from edgelung.runtime.plausibility import check_hounsfield
from edgelung.volume import CtVolume

__all__ = ["Insertion", "insert_nodules"]

_COUNT = 3
_ATTEMPTS = 300


@dataclass(frozen=True, eq=False)
class Insertion:
    """A CT with nodules that were not there before.

    Attributes:
        volume: The CT, in the voxel order and dtype of the original.
        nodules: The inserted nodules; diameter and centre are those of the shape, volume_mm3 that of its voxels.
        mask: bool array in the same voxel order, True where the centre of a voxel lies inside an inserted nodule.
    """

    volume: CtVolume
    nodules: tuple[Nodule, ...]
    mask: npt.NDArray[np.bool_]


def insert_nodules(
    volume: CtVolume,
    *,
    seed: int,
    count: int | None = None,
    nodules: Sequence[Nodule] | None = None,
    diameter_mm: tuple[float, float] = (3.0, 20.0),
    lungs: npt.NDArray[np.bool_] | None = None,
) -> Insertion:
    """Insert nodules into a CT as its scanner would have shown them.

    Each nodule is blurred as sharply as the CT's own edges and gets the CT's own noise; a denser vessel keeps its
    density. Voxels further than a few pixels from a nodule keep their value.

    Args:
        volume: A chest CT in Hounsfield units, in any orientation.
        seed: Decides places, kinds, shapes and densities.
        count: How many to place at random; 3 unless told otherwise.
        nodules: Insert these instead, at their centres.
        diameter_mm: Smallest and largest diameter of those placed at random.
        lungs: bool array in the volume's voxel order; segmented with :func:`segment_lungs` when absent.

    Raises:
        InputError: When the CT is not in Hounsfield units or has no lungs, a nodule's centre is outside them, or there
            is no room.
    """
    if count is not None and nodules is not None:
        raise InputError("count and nodules exclude each other", hint="give the number or the nodules themselves")
    if not 0 < diameter_mm[0] <= diameter_mm[1]:
        raise InputError(f"diameters from {diameter_mm[0]} to {diameter_mm[1]} mm are no range", field="diameter_mm")
    changed = replace(volume, hu=volume.hu.copy())
    view = axial_view(volume, changed.hu)  # what is written there lands in `changed`
    axial = replace(volume.to_axial(), hu=view)
    check_hounsfield(axial)
    inside = _axial_lungs(volume, lungs)
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    look = measure_appearance(axial.hu, inside, axial.spacing_mm)
    places = HostPlaces(axial.hu, inside, axial.spacing_mm)
    if nodules is None:
        shapes = _place(places, _COUNT if count is None else count, rng, diameter_mm)
    else:
        shapes = [_given(nodule, axial, places, rng) for nodule in nodules]
    mask = np.zeros(volume.shape, dtype=bool)
    axial_mask = axial_view(volume, mask)
    found = []
    for shape in shapes:
        patch = shape.patch(places.grid)
        if patch is None or not patch.mask.any():
            raise InputError("a nodule is too small for the voxels of this CT", hint="give a larger diameter_mm")
        _blend(axial.hu, patch, look, axial.spacing_mm, rng)
        axial_mask[patch.where][patch.mask] = True
        lps = axial.index_to_lps_mm(np.array(shape.nodule.center_lps_mm)[::-1] / axial.spacing_mm)
        drawn = shape.drawn(float(patch.mask.sum()) * axial.voxel_volume_mm3)
        found.append(replace(drawn, center_lps_mm=(float(lps[0]), float(lps[1]), float(lps[2]))))
    return Insertion(changed, tuple(found), mask)


def _axial_lungs(volume: CtVolume, lungs: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_]:
    if lungs is None:
        lungs = segment_lungs(volume)
    elif lungs.shape != volume.shape or lungs.dtype != bool:
        raise InputError(f"a lung mask is a bool array of shape {volume.shape}, got {lungs.dtype} {lungs.shape}")
    elif not lungs.any():
        raise InputError("the lung mask is empty", hint="leave it out, and the lungs are segmented")
    return np.ascontiguousarray(axial_view(volume, lungs))


def _place(
    places: HostPlaces, count: int, rng: np.random.Generator, diameter_mm: tuple[float, float]
) -> list[NoduleShape]:
    smallest = max(diameter_mm[0], min(1.2 * max(places.grid.spacing_mm), diameter_mm[1]))
    shapes: list[NoduleShape] = []
    for _ in range(count):
        for attempt in range(_ATTEMPTS):
            if attempt % 30 == 0:
                place = PLACES[int(rng.choice(3, p=(0.4, 0.3, 0.3)))]
                diameter = draw_diameter_mm(rng, smallest, diameter_mm[1])
            found = places.propose(place, diameter, rng)
            if found is None or not _apart(found.centre_mm, diameter, shapes):
                continue
            x, y, z = map(float, found.centre_mm)
            shape = NoduleShape(Nodule((x, y, z), diameter, draw_kind(rng, diameter), place), rng, found.normal)
            if places.accepts(shape):
                shapes.append(shape)
                break
        else:
            raise InputError(
                f"found room for {len(shapes)} of {count} nodules in these lungs",
                hint="ask for fewer or smaller nodules, or give a CT that shows more of the lungs",
            )
    return shapes


def _apart(centre: npt.NDArray[np.float64], diameter: float, shapes: Sequence[NoduleShape]) -> bool:
    gaps = (
        np.linalg.norm(centre - np.array(other.nodule.center_lps_mm)) - 0.6 * (diameter + other.nodule.diameter_mm)
        for other in shapes
    )
    return all(gap > 4.0 for gap in gaps)


def _given(nodule: Nodule, axial: CtVolume, places: HostPlaces, rng: np.random.Generator) -> NoduleShape:
    index = axial.lps_mm_to_index(nodule.center_lps_mm)
    voxel = tuple(int(value) for value in np.rint(index))
    if any(not 0 <= value < size for value, size in zip(voxel, axial.shape, strict=True)) or not places.lungs[voxel]:
        centre = tuple(round(value, 1) for value in nodule.center_lps_mm)
        raise InputError(
            f"a nodule's centre {centre} lies outside the lungs",
            hint="centres are LPS millimetres (x left, y posterior, z superior) in the lungs",
        )
    x, y, z = map(float, (index * axial.spacing_mm)[::-1])
    local = replace(nodule, center_lps_mm=(x, y, z))
    normal = places.inward(np.array([x, y, z])) if nodule.place == "juxta-pleural" else None
    return NoduleShape(local, rng, normal)


def _blend(
    hu: npt.NDArray[Any],
    patch: NodulePatch,
    look: Appearance,
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
) -> None:
    """Put a nodule into axial voxels, in place."""
    blur_px = [np.sqrt(max(look.blur_mm**2 - size**2 / 12.0, 0.0)) / size for size in spacing_mm[1:]]
    reach = [int(np.ceil(3.0 * blur)) + 1 for blur in blur_px]
    where, margins = _grown(patch.where, (0, *reach), hu.shape)
    share = ndimage.gaussian_filter(np.pad(patch.share, margins), (0, *blur_px), mode="constant", truncate=3.0)
    tissue = np.pad(patch.hu, margins, mode="edge")
    around, inner = _grown(where, (0, 8, 8), hu.shape)
    smooth = ndimage.gaussian_filter(hu[around].astype(np.float32), (0, FINE_PX, FINE_PX))
    crop = tuple(slice(low, size - high) for (low, high), size in zip(inner, smooth.shape, strict=True))
    background = smooth[crop]
    old = hu[where].astype(np.float32)
    # The CT's own fine noise stays; what sticks out further is a small vessel, which the nodule hides.
    noise = np.clip(old - background, -2.5 * look.fine_noise_hu, 2.5 * look.fine_noise_hu)
    target = np.maximum(tissue, background) + noise + _coarse_noise(old.shape, look, rng)
    new = old + share * (target - old)
    kept = share > 1e-3
    if hu.dtype.kind in "iu":
        limits = np.iinfo(hu.dtype)
        new = np.clip(np.rint(new), limits.min, limits.max)
    hu[where] = np.where(kept, new, old).astype(hu.dtype)


def _coarse_noise(shape: tuple[int, ...], look: Appearance, rng: np.random.Generator) -> Floats:
    white = rng.standard_normal(shape, dtype=np.float32)
    smooth = ndimage.gaussian_filter(white, (0, FINE_PX, FINE_PX), mode="wrap")
    # A two-dimensional Gaussian of width s keeps 1 / (4 pi s^2) of the variance of white noise.
    return np.asarray(smooth * (look.coarse_noise_hu * FINE_PX * np.sqrt(4.0 * np.pi)), dtype=np.float32)


def _grown(
    where: tuple[slice, ...], by: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[tuple[slice, ...], list[tuple[int, int]]]:
    """Slices grown by some voxels within the volume, and by how many on each side."""
    grown, margins = [], []
    for part, more, size in zip(where, by, shape, strict=True):
        low, high = max(part.start - more, 0), min(part.stop + more, size)
        grown.append(slice(low, high))
        margins.append((part.start - low, high - part.stop))
    return tuple(grown), margins
