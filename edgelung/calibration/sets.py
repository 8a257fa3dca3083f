"""Calibration sets: slabs of CTs that a network is quantised and fine-tuned with, and slabs kept out for verification.

A slab is the consecutive slices that one run of a network sees. docs/calibration-sets.md says how they are chosen.
"""

from __future__ import annotations

import hmac
import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgelung.calibration.holdout import GAP_SLICES, Holdout
from edgelung.calibration.luna16_writer import scan_seed
from edgelung.calibration.lungs import axial_view, segment_lungs
from edgelung.calibration.phantom import make_phantom
from edgelung.calibration.picking import lung_starts, pick_spread
from edgelung.calibration.series import DataSource
from edgelung.calibration.slabs import CalibrationSet, Kind, Provenance, Slab
from edgelung.errors import InputError
from edgelung.runtime.plausibility import check_finite, check_hounsfield
from edgelung.runtime.readers import read_series
from edgelung.spec import SlicePacking
from edgelung.volume import CtVolume

__all__ = ["choose_held_out", "choose_slabs", "phantom_slabs"]

PHANTOM_SLICES = 64
PHANTOM_SPACING_MM = (3.0, 0.7, 0.7)  # 64 slices: 19 cm, the height of the lungs
SLABS_PER_PHANTOM = 4
SALT_BYTES = 16
Progress = Callable[[int, int], None]


def choose_slabs(
    data: DataSource | Sequence[CtVolume],
    packing: SlicePacking,
    count: int,
    *,
    seed: int,
    holdout: Holdout | None = None,
    salt: bytes | None = None,
    progress: Progress | None = None,
) -> CalibrationSet:
    """Choose slabs to fit with: through the lungs, spread over depth and intensities, never near the held-out block.

    The choice depends on the voxels, the order of the series and the seed alone. One series is in memory at a time.

    Args:
        data: Where to choose from. As many series as there are slabs are used, or all of them.
        packing: Which slices a run sees. Slabs lie whole in their series: no slice is repeated.
        count: How many slabs, no two of them at the same place.
        seed: Equal seeds give equal slabs.
        holdout: Slices to keep out, with the gap. For one series only, since slices of several have no common count.
        salt: Key of the hashes; random when not given.
        progress: Called with (done, total) whenever slabs are chosen.

    Raises:
        InputError: If there are too few places for slabs, the holdout does not fit, or a series cannot be read or
            holds NaN; of a single series also if it is not in Hounsfield units or has no lungs.
    """
    kind, readers = _readers(data)
    if holdout is not None and len(readers) != 1:
        problem = f"{len(readers)} series were given, so it is not clear which one's slices to hold out"
        raise InputError(problem, field="holdout", hint="give one series, or keep whole series aside instead")
    return _choose(kind, readers, packing, count, seed, holdout, salt, progress)


def choose_held_out(
    data: DataSource | Sequence[CtVolume],
    packing: SlicePacking,
    count: int,
    *,
    holdout: Holdout,
    salt: bytes | None = None,
) -> CalibrationSet:
    """Slabs to verify with, evenly spread over the held-out block; all that they see lies within it.

    Args:
        data: The one series that the block is of.
        packing: Which slices a run sees.
        count: How many slabs; where the block has fewer places, all of them.
        holdout: The block.
        salt: Key of the hash; random when not given.

    Raises:
        InputError: If several series were given, the series is not in Hounsfield units, the block does not fit it, or
            no slab fits the block.
    """
    kind, readers = _readers(data)
    if len(readers) != 1 or count < 1:
        problem = f"{count} slabs of {len(readers)} series cannot be held out"
        raise InputError(problem, field="holdout", hint="give one series, and ask for at least one slab")
    ct = readers[0]()
    volume = _axial(ct.volume)
    check_hounsfield(volume, ct.source)
    holdout.check_within(volume.shape[0])
    places = [first for first in range(volume.shape[0]) if holdout.contains(first, packing)]
    if not places:
        problem = f"{holdout.low}:{holdout.high} is too short for a slab of {packing.slices} slices"
        raise InputError(problem, field="holdout", hint=f"hold out at least {packing.slices} slices")
    chosen = np.unique(np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int))
    slabs = tuple(_cut(volume, places[index], packing, 0) for index in chosen)
    salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt
    provenance = Provenance(
        kind, "verification", 1, 1, 0, len(slabs), packing.slices, None, (holdout.low, holdout.high), GAP_SLICES,
        salt.hex(), (_hash(volume, salt),),
    )  # fmt: skip
    return CalibrationSet(slabs, provenance)


def phantom_slabs(
    packing: SlicePacking,
    count: int,
    *,
    seed: int,
    plane: tuple[int, int] = (512, 512),
    salt: bytes | None = None,
    progress: Progress | None = None,
) -> CalibrationSet:
    """Slabs of phantoms, for when there are no CTs; ``provenance.is_phantom`` says so.

    Args:
        packing: Which slices a run sees.
        count: How many slabs; every four of them are of another phantom.
        seed: Decides phantoms and slabs. Other seeds give other phantoms, to verify with.
        plane: (height, width) in pixels of 0.7 mm.
        salt: Key of the hashes; random when not given.
        progress: Called with (done, total) whenever slabs are chosen.

    Raises:
        InputError: If ``count`` is below 1.
    """
    shape = (PHANTOM_SLICES, *plane)

    def read(index: int) -> _Ct:
        phantom = make_phantom(scan_seed(seed, index), shape=shape, spacing_mm=PHANTOM_SPACING_MM)
        return _Ct(phantom.volume, phantom.lungs)

    readers = [partial(read, index) for index in range(math.ceil(max(count, 1) / SLABS_PER_PHANTOM))]
    return _choose("phantom", readers, packing, count, seed, None, salt, progress)


@dataclass(frozen=True, eq=False)
class _Ct:
    volume: CtVolume
    lungs: npt.NDArray[np.bool_] | None = None  # in the volume's order, where they are known
    source: Path | str = ""


def _readers(data: DataSource | Sequence[CtVolume]) -> tuple[Kind, list[Callable[[], _Ct]]]:
    if isinstance(data, DataSource):
        return data.kind, [partial(_read, path) for path in data.series]
    if not data:
        raise InputError("there are no volumes to choose from", hint="give at least one")
    return "volumes", [partial(_Ct, volume) for volume in data]


def _read(path: Path) -> _Ct:
    return _Ct(read_series(path), source=path)


def _choose(
    kind: Kind,
    readers: Sequence[Callable[[], _Ct]],
    packing: SlicePacking,
    count: int,
    seed: int,
    holdout: Holdout | None,
    salt: bytes | None,
    progress: Progress | None,
) -> CalibrationSet:
    if count < 1:
        raise InputError(f"{count} slabs are no calibration set", field="count", hint="ask for at least 1")
    rng = np.random.default_rng(seed)
    salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt
    slabs: list[Slab] = []
    hashes: list[str] = []
    unsuitable = 0
    reasons: list[InputError] = []
    for done, index in enumerate(rng.permutation(len(readers))):
        if len(slabs) == count:
            break
        ct = readers[index]()
        volume = _axial(ct.volume)
        check_finite(volume, ct.source)
        if holdout is not None:
            holdout.check_within(volume.shape[0])
        starts = [
            first
            for first in lung_starts(_axial_lungs(ct, reasons), packing)
            if holdout is None or not holdout.blocks(first, packing)
        ]
        if reasons and len(readers) == 1:
            raise reasons[0]
        wanted = count - len(slabs)
        share = math.ceil(wanted / min(wanted, len(readers) - done))
        firsts = pick_spread(volume, starts, packing, share, rng)
        slabs.extend(_cut(volume, first, packing, int(index)) for first in firsts)
        if firsts:
            hashes.append(_hash(volume, salt))
        else:
            unsuitable += 1
        if progress is not None:
            progress(len(slabs), count)
    if len(slabs) < count:
        raise _too_few(len(slabs), count, packing, holdout, reasons, len(readers))
    block = None if holdout is None else (holdout.low, holdout.high)
    provenance = Provenance(
        kind, "fitting", len(readers), len(hashes), unsuitable, count, packing.slices, seed, block,
        GAP_SLICES if holdout is not None else 0, salt.hex(), tuple(sorted(hashes)),
    )  # fmt: skip
    return CalibrationSet(tuple(sorted(slabs, key=lambda slab: (slab.series, slab.first))), provenance)


def _too_few(
    found: int, count: int, packing: SlicePacking, holdout: Holdout | None, reasons: Sequence[InputError], series: int
) -> InputError:
    problem = f"only {found} of {count} slabs of {packing.slices} slices have room in the lungs"
    if holdout is not None:
        problem += " beside the held-out block and its gap"
    if reasons:
        problem += f" ({len(reasons)} of {series} series were passed over, such as {reasons[0].message})"
    return InputError(problem, hint="ask for fewer slabs, give more CTs, or hold fewer slices out")


def _axial(volume: CtVolume) -> CtVolume:
    try:
        return volume.to_axial()
    except ValueError as error:
        raise InputError(str(error), hint="resample the series to axial slices first") from None


def _axial_lungs(ct: _Ct, reasons: list[InputError]) -> npt.NDArray[np.bool_]:
    """(depth, height, width) mask; empty for a series without lungs or of another unit, with the reason appended."""
    lungs = ct.lungs
    if lungs is None:
        try:
            lungs = segment_lungs(ct.volume)
        except InputError as error:
            reasons.append(InputError(error.problem, source=ct.source, field=error.field, hint=error.hint))
            lungs = np.zeros(ct.volume.shape, dtype=bool)
    return np.asarray(axial_view(ct.volume, lungs), dtype=bool)


def _cut(volume: CtVolume, first: int, packing: SlicePacking, series: int) -> Slab:
    start = first - packing.before
    return Slab(np.ascontiguousarray(volume.hu[start : start + packing.slices]).copy(), series, first)


def _hash(volume: CtVolume, salt: bytes) -> str:
    """HMAC-SHA256 (RFC 2104) of the shape and the voxels in axial order, as little-endian float32."""
    digest = hmac.new(salt, repr(volume.shape).encode(), "sha256")
    for plane in volume.hu:
        digest.update(plane.astype("<f4").tobytes())
    return digest.hexdigest()
