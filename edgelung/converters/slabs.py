"""The slices a conversion works with: fitted to, verified on, and the golden one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgelung.calibration import (
    CalibrationSet,
    DataSource,
    Holdout,
    Phantom,
    Slab,
    choose_held_out,
    choose_slabs,
    describe_data,
    insert_nodules,
    make_phantom,
    phantom_slabs,
    read_ct,
    segment_lungs,
)
from edgelung.converters.recipe import Recipe
from edgelung.converters.retraining import crowd
from edgelung.converters.spec_file import NetworkSpec
from edgelung.errors import InputError
from edgelung.runtime.plane import plan_plane
from edgelung.runtime.preprocess import SlicePacker, prepare_stack
from edgelung.spec import NetworkInput
from edgelung.volume import CtVolume

__all__ = ["Slabs", "gather_slabs"]

SLAB_NODULES = 6  # in every phantom slab that is verified on, so that the network has something to answer to
FIELD_OF_VIEW_MM = 360.0
SLICE_MM = 1.25
FITTING_SEED = 1_000_000  # added to the recipe's seed, so that phantoms fitted to are not those verified on
INSERTION_SEED = 3_000_000  # likewise, for nodules inserted into the held-out block
MARKS = (3000, -1024)  # HU that a mask is packed and tiled as, like a CT
AXIAL = np.eye(3)[:, ::-1]

Array = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Slabs:
    """Network inputs, float32 in the compiled shape.

    Attributes:
        golden_hu: (slices, height, width) int16 HU of a phantom slab with nodules.
        golden: The same as network input.
        verify: Inputs that nothing is fitted to.
        nodules: For each of them, where a known nodule is, (1, outputs, height, width) bool; empty unless
            ``retrains``.
        verify_words: What they are, by kind.
        data_words: What ``recipe.data`` was taken for; empty without data.
        retrains: Whether the network is trained again, and judged by known nodules.
        fit: Inputs to fit ranges and weights to; empty when nothing is fitted.
        fitted: Where those come from.
    """

    golden_hu: npt.NDArray[np.int16]
    golden: Array
    verify: tuple[Array, ...]
    nodules: tuple[npt.NDArray[np.bool_], ...]
    verify_words: str
    data_words: str
    retrains: bool
    fit: tuple[Array, ...] = ()
    fitted: CalibrationSet | None = None


def gather_slabs(recipe: Recipe, spec: NetworkSpec, *, progress: Progress | None = None) -> Slabs:
    """Choose all slices of a conversion.

    With a held-out block, everything is verified on slabs of it; without one, on phantom slabs with nodules. Ranges
    are fitted to ``recipe.data`` outside of the block, or to other phantoms when there are no data.

    Raises:
        InputError: When the data cannot be read, or the block does not fit them.
    """
    packing = spec.input.packing
    phantoms = [_phantom_slab(spec, recipe.seed + index) for index in range(recipe.verification_slabs)]
    golden = phantoms[0].volume.hu.astype(np.int16)
    verify = tuple(prepare_stack(phantom.volume.hu.astype(np.int16), spec.input) for phantom in phantoms)
    answered = slice(packing.before, packing.before + packing.outputs)
    nodules = tuple(phantom.mask[np.newaxis, answered] for phantom in phantoms) if recipe.retrains else ()
    words = "phantom slabs with nodules"
    source = None if recipe.data is None else describe_data(recipe.data)
    holdout = None if recipe.holdout is None else Holdout(*recipe.holdout)
    if source is not None and holdout is not None:
        if recipe.retrains:
            verify, nodules = _with_nodules(recipe, source, holdout, spec.input)
            words = "held-out slabs with inserted nodules"
        else:
            verify = _inputs(choose_held_out(source, packing, recipe.verification_slabs, holdout=holdout), spec.input)
            words = "held-out slabs"
    found = "" if source is None else source.words
    slabs = Slabs(golden, prepare_stack(golden, spec.input), verify, nodules, words, found, recipe.retrains)
    if recipe.route.algorithm is None and not recipe.retrains:
        return slabs
    if source is not None:
        fitted = choose_slabs(
            source, packing, recipe.calibration_slabs, seed=recipe.seed, holdout=holdout, progress=progress
        )
        unsuitable = fitted.provenance.series_unsuitable
        if unsuitable:
            found += f"; {unsuitable} passed over, not in Hounsfield units or without room for slices in the lungs"
    else:
        seed, plane = recipe.seed + FITTING_SEED, spec.input.tensor.plane
        fitted = phantom_slabs(packing, recipe.calibration_slabs, seed=seed, plane=plane, progress=progress)
    return replace(slabs, data_words=found, fit=_inputs(fitted, spec.input), fitted=fitted)


def _with_nodules(
    recipe: Recipe, source: DataSource, holdout: Holdout, spec: NetworkInput
) -> tuple[tuple[Array, ...], tuple[npt.NDArray[np.bool_], ...]]:
    """Slabs of the held-out block with nodules inserted into it, and where these are."""
    if len(source.series) != 1:
        problem = f"{len(source.series)} series were given, so it is not clear which one's slices to hold out"
        raise InputError(problem, field="holdout", hint="give one series, or leave --holdout out")
    volume = read_ct(source.series[0])
    holdout.check_within(len(volume.hu))
    lungs = segment_lungs(volume)
    lungs[: holdout.low] = False
    lungs[holdout.high :] = False
    count = crowd(lungs, volume.voxel_volume_mm3)
    made = insert_nodules(volume, seed=recipe.seed + INSERTION_SEED, count=count, lungs=lungs)
    chosen = choose_held_out([made.volume], spec.packing, recipe.verification_slabs, holdout=holdout)
    marks = np.where(made.mask, *MARKS).astype(np.int16)
    masks = replace(chosen, slabs=tuple(_same_place(marks, slab, spec.packing.before) for slab in chosen.slabs))
    answered = slice(spec.packing.before, spec.packing.before + spec.packing.outputs)
    lowest = _inputs(
        replace(masks, slabs=(replace(masks.slabs[0], hu=np.full_like(masks.slabs[0].hu, MARKS[1])),)), spec
    )
    nothing = float(lowest[0].max())
    return _inputs(chosen, spec), tuple(tensor[:, answered] > nothing for tensor in _inputs(masks, spec))


def _same_place(marks: npt.NDArray[np.int16], slab: Slab, before: int) -> Slab:
    start = slab.first - before
    return replace(slab, hu=marks[start : start + len(slab.hu)])


def _phantom_slab(spec: NetworkSpec, seed: int) -> Phantom:
    packing, (height, width) = spec.input.packing, spec.input.tensor.plane
    pixel_mm = FIELD_OF_VIEW_MM / max(height, width)
    shape, spacing_mm = (packing.slices, height, width), (SLICE_MM, pixel_mm, pixel_mm)
    return make_phantom(seed, shape=shape, spacing_mm=spacing_mm, nodules=SLAB_NODULES)


def _inputs(chosen: CalibrationSet, spec: NetworkInput) -> tuple[Array, ...]:
    return tuple(tensor for slab in chosen.slabs for tensor in _tiles(slab, spec))


def _tiles(slab: Slab, spec: NetworkInput) -> list[Array]:
    """The slab as the runtime would give it to the network: padded or in tiles where its plane is another one."""
    volume = CtVolume(np.ascontiguousarray(slab.hu), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), AXIAL)
    plan = plan_plane((slab.hu.shape[1], slab.hu.shape[2]), spec.tensor.plane, spec.in_plane)
    window = SlicePacker(volume, spec, plan).window(spec.packing.before)
    return [np.ascontiguousarray(window[np.newaxis, :, tile.rows, tile.columns]) for tile in plan.tiles]
