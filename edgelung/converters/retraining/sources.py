"""Scenes of a user's data: with its own labels, or with inserted nodules where it has none; or of phantoms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgelung.calibration import DataSource, Holdout, insert_nodules, make_phantom, read_ct, segment_lungs
from edgelung.converters.datasets import LabelCounts, LunaScan, is_complete, label_scan, read_luna16, split_scans
from edgelung.converters.retraining.scenes import Points, Scene
from edgelung.converters.retraining.teacher import Teacher
from edgelung.errors import InputError
from edgelung.runtime.preprocess import prepare_stack
from edgelung.spec import NetworkInput
from edgelung.volume import CtVolume

__all__ = ["Scenes", "crowd", "gather_scenes"]

FIRST_SEED = 2_000_000  # added to the recipe's: no nodule of verification or evaluation is one of training
ASKED_RUNS = 8  # of each scene are answered by the original, to see where it marks
MARKED = 20_000  # pixels of those that are remembered
SERIES_PER_SCENE = 4  # scans of several, for one copy of a single CT
NODULES_PER_LITRE = 8.0  # of lung: crowded, since each is a lesson, and still apart
MAX_NODULES = 40
PHANTOM_SLICES, PHANTOM_SPACINGS_MM = 24, (1.25, 2.5)
PHANTOM_PIXEL_MM = 0.7
NEAR_PX, NEAR_SLICES = 6, 1  # so far around an inserted nodule there is nothing but it

Tick = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Scenes:
    """What there is to learn from.

    Attributes:
        all: The scenes.
        labelled: Whether their masks are labels of the data, so that the original is not asked.
        words: What they are, by kind and number.
    """

    all: tuple[Scene, ...]
    labelled: bool
    words: str


def gather_scenes(
    source: DataSource | None,
    spec: NetworkInput,
    teacher: Teacher,
    *,
    count: int,
    holdout: Holdout | None,
    seed: int,
    note: Callable[[str], None] | None = None,
    tick: Tick | None = None,
) -> Scenes:
    """Make the scenes of a retraining, and see where the original marks what is no known nodule.

    Args:
        source: The data. LUNA16 has labels; other series get inserted nodules; None takes phantoms.
        spec: What the network eats.
        teacher: The original.
        count: Copies of one series with other nodules in each, or phantoms; of several series four times as many.
        holdout: Slices of the one series that nothing is learnt from.
        seed: Of the choice of series, and of nodules.
        note: Called with what a user should know of the labels.
        tick: Called with (scenes made, scenes in all).

    Raises:
        InputError: When the data cannot be read, or leave nothing to train on.
    """
    if source is None:
        total, words, labelled = count, "phantoms with their exact masks", False
        made = _phantoms(spec, teacher, total, seed)
    elif source.kind == "luna16":
        root, remark = source.series[0].parent.parent, note or (lambda text: None)
        chosen = [scan for scan in split_scans(read_luna16(root, note=remark))[0] if scan.nodules]
        order = np.random.default_rng(seed).permutation(len(chosen))[: count * SERIES_PER_SCENE]
        made = _labelled([chosen[int(index)] for index in order], root, spec, remark)
        total, words, labelled = len(order), "LUNA16 scans with masks grown from their annotations", True
    else:
        made = _inserted(source, spec, teacher, count, holdout, seed)
        total = max(count, min(len(source.series), count * SERIES_PER_SCENE))
        words, labelled = "copies of the CTs with inserted nodules", False
    scenes = []
    for scene in made:
        scenes.append(scene)
        if tick is not None:
            tick(len(scenes), total)
    if not scenes:
        raise InputError("there is no CT with a nodule to train on", field="data", hint="give other data")
    return Scenes(tuple(scenes), labelled, f"{len(scenes)} {words}")


def crowd(lungs: npt.NDArray[np.bool_], voxel_mm3: float) -> int:
    """How many nodules have room in lungs, close to each other but apart."""
    litres = float(np.count_nonzero(lungs)) * voxel_mm3 / 1e6
    return int(np.clip(round(NODULES_PER_LITRE * litres), 1, MAX_NODULES))


def _phantoms(spec: NetworkInput, teacher: Teacher, count: int, seed: int) -> Iterator[Scene]:
    for index in range(count):
        spacing_mm = (PHANTOM_SPACINGS_MM[index % 2], PHANTOM_PIXEL_MM, PHANTOM_PIXEL_MM)
        phantom = make_phantom(
            FIRST_SEED + seed + index, shape=(PHANTOM_SLICES, *spec.tensor.plane), spacing_mm=spacing_mm
        )
        hu, mask = phantom.volume.hu, phantom.mask
        yield _scene(hu, mask, np.ones_like(mask), spec, None, teacher, seed + index)


def _labelled(
    scans: Sequence[LunaScan], root: Path, spec: NetworkInput, note: Callable[[str], None]
) -> Iterator[Scene]:
    counts, nodules = LabelCounts(), sum(len(scan.nodules) for scan in scans)
    for scan in scans:
        labelled = label_scan(scan)
        counts = counts.with_scan(scan, labelled)
        counts.check(root, nodules)
        if not is_complete(labelled):
            continue
        slices = np.flatnonzero(labelled.mask.any(axis=(1, 2)))
        near = np.unique(np.clip(slices[:, None] + np.arange(-4, 5), 0, len(labelled.hu) - 1))
        yield _scene(labelled.hu, labelled.mask, np.ones_like(labelled.mask), spec, near, None, 0)
    if scans and counts.left_out == len(scans):
        raise counts.refusal(root, consequence="no scan is left to train on")
    for line in counts.notes():
        note(line)


def _inserted(
    source: DataSource, spec: NetworkInput, teacher: Teacher, count: int, holdout: Holdout | None, seed: int
) -> Iterator[Scene]:
    order = np.random.default_rng(seed).permutation(len(source.series))[: count * SERIES_PER_SCENE]
    copies = -(-count // len(order))
    for place, index in enumerate(order):
        volume = read_ct(source.series[int(index)])
        lungs = segment_lungs(volume)
        allowed = _allowed(volume, spec, holdout)
        where = np.zeros_like(lungs)
        where[allowed] = lungs[allowed]
        wanted = crowd(where, volume.voxel_volume_mm3)
        for copy in range(copies):
            own = FIRST_SEED + seed + 1000 * place + copy
            made = insert_nodules(volume, seed=own, count=wanted, lungs=where)
            yield _scene(made.volume.hu, made.mask, _near(made.mask), spec, allowed, teacher, own)


def _allowed(volume: CtVolume, spec: NetworkInput, holdout: Holdout | None) -> npt.NDArray[np.int64]:
    firsts = _runs(len(volume.hu), spec)
    free = [first for first in firsts if holdout is None or not holdout.blocks(int(first), spec.packing)]
    if not free:
        problem = "the held-out block and its gap leave no slices to train on"
        raise InputError(problem, field="holdout", hint="hold fewer slices out, or give more CTs")
    return np.array(free)


def _runs(depth: int, spec: NetworkInput) -> npt.NDArray[np.int64]:
    packing = spec.packing
    return np.arange(packing.before, depth - packing.after - packing.outputs + 1)


def _near(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The mask grown by some voxels, in axis order, each axis by a running maximum."""
    grown = mask
    for axis, reach in enumerate((NEAR_SLICES, NEAR_PX, NEAR_PX)):
        padded = np.pad(grown, [(reach, reach) if other == axis else (0, 0) for other in range(3)])
        length = mask.shape[axis]
        parts = (np.take(padded, range(shift, shift + length), axis=axis) for shift in range(2 * reach + 1))
        grown = np.logical_or.reduce(list(parts))
    return grown


def _scene(
    hu: npt.NDArray[Any],
    mask: npt.NDArray[np.bool_],
    known: npt.NDArray[np.bool_],
    spec: NetworkInput,
    wanted: Sequence[int] | npt.NDArray[np.int64] | None,
    teacher: Teacher | None,
    seed: int,
) -> Scene:
    """On planes no smaller than the compiled one."""
    plane, least = hu.shape[1:], spec.tensor.plane
    if any(size < small for size, small in zip(plane, least, strict=True)):
        grow = [(0, 0), *((0, max(small - size, 0)) for size, small in zip(plane, least, strict=True))]
        hu = np.pad(hu, grow, constant_values=hu.min())
        mask, known = np.pad(mask, grow), np.pad(known, grow)
    firsts = _runs(len(hu), spec)
    if wanted is not None:
        firsts = np.intersect1d(firsts, np.asarray(wanted))
    scene = Scene(hu, mask, known, firsts)
    return scene if teacher is None else replace(scene, marked=_marked(scene, spec, teacher, seed))


def _marked(scene: Scene, spec: NetworkInput, teacher: Teacher, seed: int) -> Points:
    """Pixels that the original marks in some of the runs."""
    random, packing = np.random.default_rng(seed), spec.packing
    asked = random.permutation(len(scene.firsts))[:ASKED_RUNS]
    found = []
    for run in asked:
        start = int(scene.firsts[run]) - packing.before
        answer = teacher.answer(prepare_stack(scene.hu[start : start + packing.slices], spec))
        places = np.argwhere(answer.max(axis=0) > 0)
        found.append(np.column_stack([np.full(len(places), run), places]))
    points: Points = np.concatenate(found)
    return random.permutation(points)[:MARKED]
