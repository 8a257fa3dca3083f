"""What is evaluated on: a held-out block of a CT, several times over, each time with other nodules of known masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from edgelung.calibration import Nodule, insert_nodules, segment_lungs
from edgelung.errors import ConversionError, InputError
from edgelung.spec import SlicePacking
from edgelung.volume import CtVolume

__all__ = ["EvaluationCase", "EvaluationSet", "iter_slabs", "make_evaluation_set", "split_block"]

SPLIT_GAP_SLICES: Final = 6  # no slab of one part shares a slice with one of the other, and no neighbour either
NODULES_PER_COPY: Final = 8  # more find no room in a block of some 50 mm, or crowd
MAX_COPIES: Final = 100
SUBSOLID_FROM_MM: Final = 5.0  # smaller ones cannot be told apart from solid ones (edgelung.calibration.nodules)

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class EvaluationCase:
    """One copy of the block, with nodules.

    Attributes:
        hu: (depth, height, width) HU of the block; depth grows to superior.
        ids: (depth, height, width) int16: 0 outside, k + 1 in the voxels of ``nodules[k]``.
        nodules: Those whose centre lies in an answered slice.
    """

    hu: npt.NDArray[np.int16]
    ids: npt.NDArray[np.int16]
    nodules: tuple[Nodule, ...]


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """Copies of one block of one CT, each with nodules of its own.

    Attributes:
        cases: The copies.
        block: (low, high) axial slices of the series, half-open, that all that is seen lies in.
        packing: How slices become a slab.
        voxel_volume_mm3: Of every voxel.
        seed: That the nodules were drawn with.
    """

    cases: tuple[EvaluationCase, ...]
    block: tuple[int, int]
    packing: SlicePacking
    voxel_volume_mm3: float
    seed: int

    @property
    def nodules(self) -> tuple[Nodule, ...]:
        """All nodules, case after case."""
        return tuple(nodule for case in self.cases for nodule in case.nodules)

    @property
    def answered(self) -> range:
        """Slices of the block that are answered: those whose context lies in the block."""
        return range(self.packing.before, self.block[1] - self.block[0] - self.packing.after)

    def __len__(self) -> int:
        """How many slabs there are."""
        return len(self.cases) * len(self.answered)


def split_block(holdout: tuple[int, int], share: float = 1 / 3) -> tuple[tuple[int, int], tuple[int, int]]:
    """A held-out block as a lower part to fix thresholds on and an upper one to evaluate on, six slices between.

    Args:
        holdout: (low, high), half-open.
        share: Of the slices for the lower part, the gap left out.

    Raises:
        InputError: When the block is too small for both.
    """
    low, high = holdout
    usable = high - low - SPLIT_GAP_SLICES
    lower = round(usable * share)
    if lower < 1 or usable - lower < 1:
        raise InputError(
            f"{low}:{high} is too small for two parts with {SPLIT_GAP_SLICES} slices between",
            field="holdout",
            hint="hold out 30 slices or more, or name the block for thresholds apart",
        )
    return (low, low + lower), (low + lower + SPLIT_GAP_SLICES, high)


def make_evaluation_set(
    volume: CtVolume,
    block: tuple[int, int],
    packing: SlicePacking,
    *,
    seed: int,
    nodules: int = 60,
    diameter_mm: tuple[float, float] = (3.0, 20.0),
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationSet:
    """Insert nodules into copies of a block until there are enough.

    Every second nodule is ground-glass or part-solid, as far as there are enough of 5 mm or more; places are free, at a
    vessel or at the pleura (0.4, 0.3, 0.3). The smallest diameter is 1.2 times the largest side of a voxel when that
    is more than asked for. Nodules whose centre lies in a slice that is not answered are left out.

    Args:
        volume: A chest CT in Hounsfield units, in any orientation.
        block: (low, high) of its axial slices, half-open.
        packing: How slices become a slab; one answered slice per run.
        seed: Of the first copy; the next has the next one. Keep it away from the seeds of training.
        nodules: At least so many.
        diameter_mm: Smallest and largest.
        progress: Called with how many nodules there are and how many there shall be.

    Raises:
        InputError: When the block does not fit the CT or holds no room for nodules, or a run answers several slices.
        ConversionError: When two inserted nodules touch; this would be an error of edgelung.
    """
    base, lungs = _block_of(volume, block, packing)
    empty = EvaluationSet((), block, packing, base.voxel_volume_mm3, seed)
    cases: list[EvaluationCase] = []
    placed: list[Nodule] = []
    for copy in range(MAX_COPIES):
        proposed = insert_nodules(
            base, seed=seed + copy, count=NODULES_PER_COPY, diameter_mm=diameter_mm, lungs=lungs
        ).nodules
        wanted = [nodule for nodule in proposed if _slice_of(nodule, base) in empty.answered]
        if wanted:
            case = _insert(base, lungs, _with_kinds(wanted, placed), seed + copy)
            cases.append(case)
            placed += case.nodules
        if progress is not None:
            progress(min(len(placed), nodules), nodules)
        if len(placed) >= nodules:
            return replace(empty, cases=tuple(cases))
    hint = "hold out more slices of the lungs, or ask for fewer nodules"
    problem = f"found room for {len(placed)} of {nodules} nodules in {block[0]}:{block[1]}"
    raise InputError(problem, field="block", hint=hint)


def iter_slabs(evaluation: EvaluationSet) -> Iterator[Array]:
    """(1, slices, height, width) float32 HU of every answered slice, case after case, upwards within one."""
    before, slices = evaluation.packing.before, evaluation.packing.slices
    for case in evaluation.cases:
        for index in evaluation.answered:
            first = index - before
            yield case.hu[np.newaxis, first : first + slices].astype(np.float32)


def _block_of(
    volume: CtVolume, block: tuple[int, int], packing: SlicePacking
) -> tuple[CtVolume, npt.NDArray[np.bool_]]:
    """The block as a volume of its own, int16, and its lungs."""
    axial = volume.to_axial()
    low, high = block
    if packing.outputs != 1:
        hint = "compile it to answer one slice per run"
        raise InputError(f"a run that answers {packing.outputs} slices cannot be evaluated", hint=hint)
    if not 0 <= low < high <= axial.shape[0] or high - low < packing.slices:
        hint = f"give a block of at least {packing.slices} slices within 0:{axial.shape[0]}"
        raise InputError(f"{low}:{high} cannot be evaluated on", field="block", hint=hint)
    lungs = np.ascontiguousarray(segment_lungs(axial)[low:high])
    if not lungs.any():
        raise InputError(f"there are no lungs in {low}:{high}", field="block", hint="give slices of the lungs")
    limits = np.iinfo(np.int16)
    hu = np.clip(np.rint(axial.hu[low:high]), limits.min, limits.max).astype(np.int16)
    return replace(axial, hu=hu), lungs


def _slice_of(nodule: Nodule, axial: CtVolume) -> int:
    return round(float(axial.lps_mm_to_index(nodule.center_lps_mm)[0]))


def _with_kinds(wanted: Sequence[Nodule], placed: Sequence[Nodule]) -> list[Nodule]:
    """The nodules with kinds that keep the share of subsolid ones at a half, ground-glass and part-solid in turn."""
    subsolid = sum(nodule.kind != "solid" for nodule in placed)
    given: list[Nodule] = []
    for total, nodule in enumerate(wanted, start=len(placed) + 1):
        if nodule.diameter_mm < SUBSOLID_FROM_MM or 2 * subsolid >= total:
            given.append(replace(nodule, kind="solid"))
            continue
        given.append(replace(nodule, kind="ground-glass" if subsolid % 2 == 0 else "part-solid"))
        subsolid += 1
    return given


def _insert(base: CtVolume, lungs: npt.NDArray[np.bool_], nodules: Sequence[Nodule], seed: int) -> EvaluationCase:
    made = insert_nodules(base, seed=seed, nodules=nodules, lungs=lungs)
    points = np.argwhere(made.mask)
    places_mm = base.index_to_lps_mm(points)
    # Distance from the surface of the sphere of the same volume: the smallest one owns the voxel.
    away = [np.linalg.norm(places_mm - n.center_lps_mm, axis=1) - n.diameter_mm / 2 for n in made.nodules]
    owner = np.argmin(away, axis=0)
    voxels = np.bincount(owner, minlength=len(made.nodules))
    stated = np.rint([nodule.volume_mm3 / base.voxel_volume_mm3 for nodule in made.nodules]).astype(np.int64)
    if not np.array_equal(voxels, stated):
        raise ConversionError("evaluation", f"two nodules of seed {seed} touch", hint="choose another seed")
    ids = np.zeros(base.shape, dtype=np.int16)
    ids[tuple(points.T)] = owner + 1
    return EvaluationCase(made.volume.hu, ids, made.nodules)
