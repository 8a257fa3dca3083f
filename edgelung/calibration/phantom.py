"""A seeded chest-CT phantom with nodules whose masks are known exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgelung.calibration import anatomy
from edgelung.calibration.acquisition import Acquisition, Scanner, draw_acquisition
from edgelung.calibration.anatomy import Chest, Patient, draw_patient
from edgelung.calibration.implicit import ramp, tube
from edgelung.calibration.lattice import Floats, Grid, Lattice, coverage, distance_mm, in_voxels, smooth_noise
from edgelung.calibration.nodules import Nodule, NoduleShape
from edgelung.calibration.placement import Site, place_nodules
from edgelung.calibration.trees import Polyline, Trees, grow_trees, lumen_radius_mm
from edgelung.calibration.tubes import paint_tubes
from edgelung.errors import InputError
from edgelung.volume import CtVolume

__all__ = ["AXIAL", "PHANTOM_VERSION", "Phantom", "make_phantom"]

PHANTOM_VERSION = 1  # raised whenever equal seeds give other voxels

# Columns: depth to superior (+z), height to posterior (+y), width to the left (+x).
AXIAL = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
_BLOCK = 12  # slices worked on at once: bounds the memory
_FIELDS = ("skin", "soft", "blood", "bone", "lung", "oblique", "horizontal", "lung_hu", "soft_hu")
_NARROW_MM = 240.0  # a field of view narrower than this shows the right lung instead of the midline
_RIGHT_LUNG_MM = (-72.0, 0.0)


@dataclass(frozen=True, eq=False)
class Phantom:
    """A chest CT that nobody ever had.

    Attributes:
        volume: int16 HU, axial: depth grows to superior, height to posterior, width to the left.
        nodules: Its nodules, with the volume of their voxels.
        mask: (depth, height, width) bool, True where the centre of a voxel lies inside a nodule.
        lungs: (depth, height, width) bool, both lungs with their vessels, airways and nodules.
        look_alikes_lps_mm: (n, 3) places in the lungs that resemble nodules and are none: forks of vessels.
        patient: The anatomy's numbers.
        acquisition: Kernel and noise.
    """

    volume: CtVolume
    nodules: tuple[Nodule, ...]
    mask: npt.NDArray[np.bool_]
    lungs: npt.NDArray[np.bool_]
    look_alikes_lps_mm: npt.NDArray[np.float64]
    patient: Patient
    acquisition: Acquisition


def make_phantom(
    seed: int,
    *,
    shape: tuple[int, int, int] = (200, 512, 512),
    spacing_mm: tuple[float, float, float] = (1.25, 0.7, 0.7),
    nodules: int | None = None,
) -> Phantom:
    """Make a chest CT.

    The anatomy lives in millimetres around the origin of the patient's coordinates, in the middle of the chest; a
    thin shape is a slab through its middle, and equal seeds give equal chests whatever the shape. A field of view
    narrower than 240 mm shows the right lung. The order of ``shape`` and ``spacing_mm`` is (depth, height, width).

    Args:
        seed: Decides patient, vessels, nodules, kernel and noise.
        shape: Voxels.
        spacing_mm: Distance between voxel centres; slices are as thick as they are apart.
        nodules: How many; None draws a number that fits the volume of lung in view.

    Raises:
        InputError: When shape or spacing is no volume, or when so many nodules have no room.
    """
    grid = _grid(shape, spacing_mm)
    seeds = np.random.SeedSequence(seed).spawn(6)
    patient_rng, tree_rng, texture_rng, nodule_rng, acquisition_rng, noise_rng = map(np.random.default_rng, seeds)
    patient = draw_patient(patient_rng)
    acquisition = draw_acquisition(acquisition_rng)
    chest = Chest(patient)
    lattice = Lattice(grid)
    fields, depth_mm = _fields(chest, lattice, texture_rng, grid)
    trees = grow_trees(chest, tree_rng, grid)
    shapes = _nodules(Site(grid, lattice, depth_mm, trees.vessels), nodules, nodule_rng)
    painter = _Painter(grid, lattice, fields, patient, trees, shapes)
    scanner = Scanner(acquisition, (shape[1], shape[2]), (spacing_mm[1], spacing_mm[2]))
    hu = np.empty(grid.shape, dtype=np.int16)
    mask, lungs = np.zeros(grid.shape, dtype=bool), np.zeros(grid.shape, dtype=bool)
    for start in range(0, shape[0], _BLOCK):
        part = slice(start, min(start + _BLOCK, shape[0]))
        ideal = painter.paint(part, lungs[part])
        for index, plane in enumerate(ideal, start=start):
            hu[index] = np.clip(np.rint(scanner.scan(plane, noise_rng)), -1024, 3071)
    found = tuple(_mark(item, grid, mask) for item in shapes)
    volume = CtVolume(hu, grid.spacing_mm, (grid.x_mm[0], grid.y_mm[0], grid.z_mm[0]), AXIAL)
    look_alikes = _look_alikes(trees, found, grid, lungs)
    return Phantom(volume, found, mask, lungs | mask, look_alikes, patient, acquisition)


def _grid(shape: Sequence[int], spacing_mm: Sequence[float]) -> Grid:
    sizes_fit = len(shape) == 3 and min(shape) >= 1
    if not sizes_fit or len(spacing_mm) != 3 or not all(0.05 <= size <= 50 for size in spacing_mm):
        raise InputError(
            f"shape {tuple(shape)} with spacing {tuple(spacing_mm)} mm is no volume",
            hint="give three numbers each, depth height width: whole ones from 1, and millimetres from 0.05 to 50",
        )
    middle = (0.0, 0.0, 0.0)
    if shape[2] * spacing_mm[2] < _NARROW_MM:
        middle = (0.0, _RIGHT_LUNG_MM[1], _RIGHT_LUNG_MM[0])
    axes = [
        np.asarray((np.arange(count) - (count - 1) / 2) * size + centre, dtype=np.float64)
        for count, size, centre in zip(shape, spacing_mm, middle, strict=True)
    ]
    spacing = (float(spacing_mm[0]), float(spacing_mm[1]), float(spacing_mm[2]))
    return Grid(axes[0], axes[1], axes[2], spacing)


def _fields(chest: Chest, lattice: Lattice, rng: np.random.Generator, grid: Grid) -> tuple[Floats, Floats]:
    """All fields of :data:`_FIELDS`, packed, and the distance from the lungs' surface in millimetres."""
    patient = chest.patient
    x, y, z = chest.to_reference(*lattice.coordinates_mm())
    wall = anatomy.chest_wall(x, y, z)
    outside_mm = distance_mm(wall)
    top = chest.diaphragm(x, y)
    lungs = chest.lungs(x, y, z)
    organs, organ_hu = anatomy.organs(x, y, z, top)
    muscles = np.maximum(outside_mm - anatomy.muscle_mm(x, y, z), -1.2 - outside_mm)
    gullet = tube(x, y, z, ((7, 20, 130), (9, 24, -120)), 6.5)
    inner = np.minimum(np.maximum(organs, wall), np.minimum(gullet, anatomy.paraspinal(x, y, z) + 1.0))
    skin = anatomy.skin(x, y, z, patient)
    soft = np.maximum(np.minimum(muscles, inner), skin + 4.0)
    oblique, horizontal = chest.fissures(x, y, z)
    oblique = oblique + 2.0 * smooth_noise(rng, oblique.shape, 18.0)
    front, back = patient.lung_hu
    lung_hu = front + (back - front) * (0.75 * ramp(y, -100.0, 95.0) + 0.25 * ramp(y, 30.0, 95.0))
    lung_hu = lung_hu + 13.0 * smooth_noise(rng, y.shape, 3.2) + 9.0 * smooth_noise(rng, y.shape, 14.0)
    enhanced = 0.22 * (patient.blood_hu - 45.0)
    soft_hu = np.where(organs < 4.0, organ_hu + enhanced, 52.0) + 6.0 * smooth_noise(rng, y.shape, 6.0)
    implicit = {
        "skin": skin,
        "soft": soft,
        "blood": chest.blood(x, y, z),
        "bone": np.maximum(anatomy.bones(x, y, z, outside_mm, patient.rib_phase), skin + 3.0),
        "lung": lungs,
        "oblique": oblique,
        "horizontal": horizontal,
    }
    scaled = [in_voxels(implicit[name].astype(np.float32), grid.spacing_mm) for name in _FIELDS[:7]]
    fields = lattice.pack([*scaled, lung_hu, soft_hu])
    return fields, distance_mm(lungs.astype(np.float32))


class _Painter:
    """Puts tissues, vessels, airways and nodules into blocks of slices, without blur and noise."""

    def __init__(
        self,
        grid: Grid,
        lattice: Lattice,
        fields: Floats,
        patient: Patient,
        trees: Trees,
        shapes: Sequence[NoduleShape],
    ) -> None:
        self._grid, self._lattice, self._fields = grid, lattice, fields
        self._patient, self._trees = patient, trees
        self._patches = [patch for patch in (shape.patch(grid) for shape in shapes) if patch is not None]
        self._couch = _couch(grid, patient)
        airways = trees.airways
        self._lumen = Polyline(airways.points_mm, lumen_radius_mm(airways.radius_mm), airways.step_mm)

    def paint(self, part: slice, lungs: npt.NDArray[np.bool_]) -> Floats:
        """(depth, height, width) HU of some slices; marks their lungs in ``lungs``."""
        block = self._grid.block(part.start, part.stop)
        hu = np.stack([self._tissues(index, lungs[index - part.start]) for index in range(part.start, part.stop)])
        _mix(hu, paint_tubes(self._trees.vessels, block), self._patient.blood_hu)
        _mix(hu, paint_tubes(self._trees.airways, block), 30.0)
        _mix(hu, paint_tubes(self._lumen, block), -990.0)
        for patch in self._patches:
            first, last = max(patch.where[0].start, part.start), min(patch.where[0].stop, part.stop)
            if first >= last:
                continue
            rows = slice(first - patch.where[0].start, last - patch.where[0].start)
            target = hu[first - part.start : last - part.start, patch.where[1], patch.where[2]]
            target += patch.share[rows] * np.maximum(patch.hu[rows] - target, 0.0)
        return np.asarray(hu)

    def _tissues(self, index: int, lungs: npt.NDArray[np.bool_]) -> Floats:
        values = self._lattice.to_slice(self._fields, index)
        planes = {name: values[:, place] for place, name in enumerate(_FIELDS)}
        pixel = self._grid.spacing_mm[1]
        hu = self._couch.copy()
        _mix(hu, coverage(planes["skin"]), 5.0)
        _mix(hu, coverage(planes["skin"] + 1.8 / pixel), -104.0)
        _mix(hu, coverage(planes["soft"]), planes["soft_hu"])
        _mix(hu, coverage(planes["blood"]), self._patient.blood_hu)
        _mix(hu, coverage(planes["bone"]), 620.0)
        _mix(hu, coverage(planes["bone"] + 1.7 / pixel), 190.0)
        np.less(planes["lung"], 0.0, out=lungs)
        _mix(hu, coverage(planes["lung"]), planes["lung_hu"])
        width_mm = 0.7 * (self._grid.spacing_mm[0] + self._grid.spacing_mm[1])
        sheet = np.maximum(1.0 - np.abs(planes["oblique"]), 1.0 - np.abs(planes["horizontal"]))
        share = np.clip(sheet, 0.0, 1.0) * min(1.0, self._patient.fissure_mm / width_mm)
        _mix(hu, share * lungs, 0.0)
        return np.asarray(hu)


def _couch(grid: Grid, patient: Patient) -> Floats:
    """Air, with the table: two thin shells with foam between them."""
    x, y = grid.x_mm.astype(np.float32)[None, :], grid.y_mm.astype(np.float32)[:, None]
    surface = patient.scale[1] * (116.0 + 0.4 * patient.fat_mm) + 6.0 - 0.0008 * x**2
    hu = np.full((len(grid.y_mm), len(grid.x_mm)), -1000.0, dtype=np.float32)
    below = y - surface
    hu += np.clip(0.5 + below / 2, 0, 1) * np.clip(0.5 + (32.0 - below) / 2, 0, 1) * 45.0
    for depth_mm in (0.0, 32.0):
        shell = np.clip(1.0 - np.abs(below - depth_mm) / max(1.2, grid.spacing_mm[1]), 0, 1)
        _mix(hu, (shell * min(1.0, 1.2 / grid.spacing_mm[1])).astype(np.float32), -150.0)
    return hu


def _nodules(site: Site, count: int | None, rng: np.random.Generator) -> list[NoduleShape]:
    coarsest = max(site.grid.spacing_mm)
    smallest = max(3.0, 1.5 * coarsest)
    extent = float((site.grid.high_mm - site.grid.low_mm).min())
    limits = (smallest, max(smallest, min(30.0, 0.8 * extent)))
    if count is None:
        inside = site.depth_mm[3:-3, 3:-3, 3:-3] < 0
        count = int(1 + rng.poisson(inside.sum() * 2.7e-5)) if inside.any() else 0  # a node stands for 27 mm3
        return place_nodules(site, count, rng, limits)
    shapes = place_nodules(site, count, rng, limits)
    if len(shapes) < count:
        raise InputError(
            f"only {len(shapes)} of {count} nodules have room in a phantom of {site.grid.shape} voxels",
            hint="ask for fewer nodules, or for a larger shape or spacing",
        )
    return shapes


def _mark(shape: NoduleShape, grid: Grid, mask: npt.NDArray[np.bool_]) -> Nodule:
    patch = shape.patch(grid, supersampling=1)
    if patch is None:
        return shape.nodule
    mask[patch.where] |= patch.mask
    return shape.drawn(float(patch.mask.sum()) * float(np.prod(grid.spacing_mm)))


def _look_alikes(
    trees: Trees, nodules: Sequence[Nodule], grid: Grid, lungs: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Forks in the lungs that keep 5 mm clear of every nodule."""
    points = trees.forks_mm
    index = np.rint((points[:, ::-1] - [grid.z_mm[0], grid.y_mm[0], grid.x_mm[0]]) / grid.spacing_mm).astype(int)
    keep = ((index >= 0) & (index < grid.shape)).all(axis=1)
    keep[keep] = lungs[tuple(index[keep].T)]
    for nodule in nodules:
        keep &= np.linalg.norm(points - np.asarray(nodule.center_lps_mm), axis=1) > nodule.diameter_mm / 2 + 5.0
    return np.asarray(points[keep])


def _mix(hu: Floats, share: Floats, tissue: Floats | float) -> None:
    hu += share * (tissue - hu)
