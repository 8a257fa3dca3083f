"""The chest of the phantom as implicit surfaces in millimetres.

A patient is a set of numbers drawn from a seed. The organs are written once, in the coordinates of a reference chest
(LPS axes: +x left, +y posterior, +z superior, origin in the middle of the chest a little below the carina), and a
patient differs from it by scales and a gentle random warp. Every function takes broadcastable coordinate arrays and
gives values below 0 inside and above 0 outside, near the surface roughly in millimetres.

Sizes are round numbers after textbook anatomy and measured by eye on chest CTs; nobody's anatomy is copied.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator

from edgelung.calibration.implicit import Array, blend, capsule, ellipse, ellipsoid, ramp, smooth_max, smooth_min, tube

__all__ = ["LOBES", "Chest", "Patient", "draw_patient"]

LOBES = ("right upper", "right middle", "right lower", "left upper", "left lower")

_PROFILE_Z = (-170.0, -120.0, -80.0, -40.0, 0.0, 40.0, 70.0, 95.0, 110.0, 119.0)
_PROFILES = {  # half axes and centre of the rib cage's inside and of the skin, along z
    "cage_x": (126.0, 130.0, 131.0, 128.0, 122.0, 109.0, 92.0, 67.0, 42.0, 12.0),
    "cage_y": (90.0, 94.0, 96.0, 96.0, 93.0, 84.0, 71.0, 53.0, 34.0, 10.0),
    "cage_centre": (0.0, 0.0, -2.0, -4.0, -3.0, 4.0, 13.0, 23.0, 30.0, 33.0),
    "skin_x": (150.0, 151.0, 151.0, 151.0, 153.0, 160.0, 175.0, 188.0, 192.0, 194.0),
    "skin_y": (113.0, 114.0, 115.0, 114.0, 111.0, 106.0, 98.0, 90.0, 84.0, 80.0),
    "skin_centre": (2.0, 2.0, 1.0, 0.0, 1.0, 4.0, 9.0, 14.0, 18.0, 20.0),
    "spine": (44.0, 45.0, 47.0, 49.0, 50.0, 49.0, 45.0, 40.0, 36.0, 33.0),
}
_TABLE_Z = np.arange(-260.0, 200.0, 1.0)
_TABLES = {
    name: np.asarray(PchipInterpolator(_PROFILE_Z, values)(np.clip(_TABLE_Z, _PROFILE_Z[0], _PROFILE_Z[-1])))
    for name, values in _PROFILES.items()
}


@dataclass(frozen=True)
class Patient:
    """What makes one phantom differ from the next.

    Attributes:
        scale: (x, y, z) size relative to the reference chest.
        fat_mm: Thickness of the subcutaneous fat added all around.
        breast_mm: Size of the breasts, 0 for none.
        heart: Size of the heart relative to the reference.
        domes_mm: Height of the right and left dome of the diaphragm, relative to the reference.
        blood_hu: Heart and vessels: about 45 without, 120..300 with a contrast agent.
        lung_hu: Parenchyma at the front and at the back (gravity), without its vessels.
        rib_phase: Where along z the ribs begin, 0..1 of their distance.
        fissure_mm: Thickness of the fissures.
        waves: (9, 5) amplitude in mm, wave vector per mm (x, y, z) and phase of the warp, three rows per axis.
    """

    scale: tuple[float, float, float]
    fat_mm: float
    breast_mm: float
    heart: float
    domes_mm: tuple[float, float]
    blood_hu: float
    lung_hu: tuple[float, float]
    rib_phase: float
    fissure_mm: float
    waves: npt.NDArray[np.float32]


def draw_patient(rng: np.random.Generator) -> Patient:
    """Draw a patient: adult sizes, about half with a contrast agent, half with breasts."""
    size = rng.uniform(0.92, 1.08)
    scale = tuple(float(size * factor) for factor in rng.uniform(0.95, 1.05, 3))
    lengths_mm = rng.uniform(90.0, 220.0, 9)
    vectors = rng.normal(size=(9, 3))
    vectors *= (2 * np.pi / lengths_mm / np.linalg.norm(vectors, axis=1))[:, None]
    waves = np.column_stack([rng.uniform(0.6, 2.4, 9), vectors, rng.uniform(0, 2 * np.pi, 9)])
    back = rng.uniform(-845.0, -785.0)
    return Patient(
        scale=(scale[0], scale[1], scale[2]),
        fat_mm=float(rng.gamma(3.0, 4.0)),
        breast_mm=float(rng.uniform(18.0, 38.0)) if rng.random() < 0.5 else 0.0,
        heart=float(rng.uniform(0.9, 1.1)),
        domes_mm=(float(rng.uniform(-10, 12)), float(rng.uniform(-12, 10))),
        blood_hu=float(rng.uniform(120, 300) if rng.random() < 0.5 else rng.uniform(38, 52)),
        lung_hu=(float(back - rng.uniform(35.0, 80.0)), float(back)),
        rib_phase=float(rng.random()),
        fissure_mm=float(rng.uniform(0.08, 0.25)),
        waves=waves.astype(np.float32),
    )


class Chest:
    """The organs of one patient, in patient millimetres."""

    def __init__(self, patient: Patient) -> None:
        self.patient = patient

    def to_reference(self, x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
        """Coordinates in the reference chest of points in the patient."""
        moved = [x / self.patient.scale[0], y / self.patient.scale[1], z / self.patient.scale[2]]
        for row, (amplitude, kx, ky, kz, phase) in enumerate(self.patient.waves):
            moved[row // 3] = moved[row // 3] + amplitude * np.sin(kx * x + ky * y + (kz * z + phase))
        return moved[0], moved[1], moved[2]

    def from_reference(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Patient coordinates of (n, 3) points of the reference chest: the inverse of :meth:`to_reference`."""
        wanted = np.asarray(points, dtype=np.float64)
        found = wanted * self.patient.scale
        for _ in range(6):  # the warp is gentle (slopes below 0.3), so this converges quickly
            there = np.column_stack(self.to_reference(*found.T))
            found = found + (wanted - there) * self.patient.scale
        return found

    def lungs(self, x: Array, y: Array, z: Array) -> Array:
        """Both lungs, from *reference* coordinates."""
        inside = smooth_max(chest_wall(x, y, z), -self.mediastinum(x, y, z), 12.0)
        inside = smooth_max(inside, z - 116.0, 6.0)
        return smooth_max(inside, self.diaphragm(x, y) - z, 5.0)

    def mediastinum(self, x: Array, y: Array, z: Array) -> Array:
        """Everything between the lungs: heart, great vessels, spine, fat; from reference coordinates."""
        together = smooth_min(self.blood(x, y, z), tube(x, y, z, TRACHEA, 11.0), 14.0)
        together = smooth_min(together, capsule(x, y, z, (7, 22, 130), (9, 24, -120), 9.0), 14.0)
        together = smooth_min(together, paraspinal(x, y, z), 12.0)
        # Fat in the midline keeps the lungs apart: a sheet behind the breastbone, a broad wedge at the top.
        half_width = 2.0 + 26.0 * ramp(z, 45.0, 105.0) + 7.0 * ramp(y, -70.0, -100.0)
        return smooth_min(together - 2.0, np.abs(x - 4.0 - 0.03 * y) - half_width, 10.0)

    def blood(self, x: Array, y: Array, z: Array) -> Array:
        """Heart chambers and great vessels, from reference coordinates."""
        size = self.patient.heart
        u, v = (x - 26.0) * 0.84 - (y + 30.0) * 0.54, (x - 26.0) * 0.54 + (y + 30.0) * 0.84
        heart = ellipsoid(u, v, z + 58.0, (0, 0, 0), (56.0 * size, 43.0 * size, 46.0 * size))
        heart = smooth_min(heart, ellipsoid(x, y, z, (-20, -18, -46), (27 * size, 30 * size, 36 * size)), 10.0)
        heart = smooth_min(heart, ellipsoid(x, y, z, (6, 16, -26), (36 * size, 17 * size, 21 * size)), 6.0)
        for path, radius in GREAT_VESSELS:
            heart = smooth_min(heart, tube(x, y, z, path, radius), 3.0)
        return heart

    def diaphragm(self, x: Array, y: Array) -> Array:
        """Height z of the diaphragm's upper surface, from reference coordinates."""
        tops = (-50.0 + self.patient.domes_mm[0], -62.0 + self.patient.domes_mm[1])
        back = y + 22.0
        slope = np.where(back > 0, 92.0 * np.abs(back / 108.0) ** 1.6, 34.0 * (back / 70.0) ** 2)
        right = tops[0] - 52.0 * ((x + 62.0) / 72.0) ** 2
        left = tops[1] - 52.0 * ((x - 64.0) / 70.0) ** 2
        return -smooth_min(-right, -left, 14.0) - slope

    def fissures(self, x: Array, y: Array, z: Array) -> tuple[Array, Array]:
        """Signed distance from the oblique fissures and from the horizontal one (right lung only, front only)."""
        oblique = (z + 14.0 - 0.85 * y - 0.0022 * (np.abs(x) - 60.0) ** 2 + np.where(x > 0, 6.0, 0.0)) * 0.76
        horizontal = z - 4.0 - 0.12 * y + 0.0022 * (x + 55.0) ** 2
        nowhere = 40.0 + 0 * horizontal
        return oblique, np.where((x < 0) & (oblique > 0), horizontal, nowhere)

    def lobe(self, x: Array, y: Array, z: Array) -> npt.NDArray[np.int8]:
        """Index into :data:`LOBES` of points in the lungs, from reference coordinates."""
        oblique, horizontal = self.fissures(x, y, z)
        right = np.where(oblique < 0, 2, np.where(horizontal < 0, 1, 0))
        return np.where(x < 0, right, np.where(oblique < 0, 4, 3)).astype(np.int8)


TRACHEA = ((1.0, 4.0, 140.0), (2.0, 2.0, 70.0), (3.0, 3.0, 24.0))
GREAT_VESSELS = (
    (
        ((2, -28, -30), (-8, -26, 20), (-4, -26, 46), (12, -18, 60), (28, 4, 62), (32, 24, 54), (28, 34, 40)),
        13.5,
    ),  # aorta, arch
    (((28, 34, 40), (29, 32, 0), (24, 28, -60), (14, 24, -180)), 12.0),  # descending aorta
    (((-24, -12, -20), (-24, -12, 40), (-20, -20, 80)), 9.0),  # superior vena cava
    (((-22, 4, -60), (-24, 8, -180)), 12.5),  # inferior vena cava
    (((26, -40, -20), (24, -28, 6), (26, -12, 18)), 13.5),  # pulmonary trunk
    (((26, -12, 18), (40, 6, 20), (45, 16, 8)), 10.5),  # left pulmonary artery
    (((24, -16, 12), (0, -8, 4), (-26, -2, 2), (-42, 4, -2)), 10.5),  # right pulmonary artery
    (((-16, 14, -22), (-44, 10, -24)), 7.0),  # pulmonary veins
    (((28, 14, -18), (48, 12, -20)), 7.0),
    (((0, -16, 56), (-16, -10, 84), (-26, -2, 140)), 6.0),  # vessels of head and arms
    (((10, -4, 60), (10, -2, 140)), 4.5),
    (((20, 12, 62), (24, 14, 140)), 5.5),
    (((-20, -20, 78), (16, -22, 86), (34, -8, 140)), 6.0),
)


def profile(name: str, z: Array) -> Array:
    """A half axis or a centre along z, interpolated smoothly."""
    return np.asarray(np.interp(z, _TABLE_Z, _TABLES[name]), dtype=np.float32)


def superellipse(x: Array, y: Array, half_x: Array, half_y: Array, exponent: float) -> Array:
    """About the distance to a superellipse."""
    ratio = (np.abs(x / half_x) ** exponent + np.abs(y / half_y) ** exponent) ** (1.0 / exponent)
    return (ratio - 1.0) * np.minimum(half_x, half_y)


def chest_wall(x: Array, y: Array, z: Array) -> Array:
    """The inside of the rib cage, open at both ends; from reference coordinates."""
    return superellipse(x, y - profile("cage_centre", z), profile("cage_x", z), profile("cage_y", z), 2.35)


def skin(x: Array, y: Array, z: Array, patient: Patient) -> Array:
    """The body's outline, flattened by the table; from reference coordinates."""
    half_x = profile("skin_x", z) + patient.fat_mm
    half_y = profile("skin_y", z) + 0.75 * patient.fat_mm
    body = superellipse(x, y - profile("skin_centre", z), half_x, half_y, 2.25)
    if patient.breast_mm:
        size = patient.breast_mm
        for side in (-1.0, 1.0):
            centre = (side * 72.0, -96.0 - 0.5 * patient.fat_mm, -20.0)
            body = smooth_min(body, ellipsoid(x, y, z, centre, (2.1 * size, 1.2 * size, 2.0 * size)), 22.0)
    return smooth_max(body, y - 113.0 - 0.4 * patient.fat_mm, 18.0)


def paraspinal(x: Array, y: Array, z: Array) -> Array:
    """Vertebrae with the soft tissue beside them, as far as they indent the lungs."""
    front = y - profile("spine", z) + 15.0
    column = ellipse(x, front - 15.0, (19.0, 16.5))
    return smooth_min(column, np.maximum(np.abs(x) - 17.0 - 0.34 * front, 8.0 - front) * 0.94, 10.0)


def muscle_mm(x: Array, y: Array, z: Array) -> Array:
    """Thickness of the muscles outside the rib cage: thick beside the spine, under the shoulders, at the chest."""
    back = 24.0 * ramp(y, 45.0, 75.0) * np.exp(-(((np.abs(x) - 30.0) / 26.0) ** 2))
    shoulders = 16.0 * ramp(z, 0.0, 70.0) * ramp(np.abs(x), 50.0, 90.0)
    chest = 9.0 * ramp(y, -50.0, -75.0) * ramp(z, -40.0, 10.0) * ramp(np.abs(x), 15.0, 35.0)
    side = 7.0 * ramp(np.abs(x), 90.0, 115.0) * ramp(y, -30.0, 20.0)
    return 9.0 + back + shoulders + chest + side


def bones(x: Array, y: Array, z: Array, outside_mm: Array, rib_phase: float) -> Array:
    """Ribs, spine, breastbone and shoulder blades.

    Args:
        outside_mm: Distance outside the rib cage's inner surface, for each point.
        rib_phase: Shifts the ribs along z, in units of their distance.
    """
    spine_y = y - profile("spine", z)
    # Ribs run downwards from back to front; their distance is 24 mm.
    along = (z - 0.55 * y) / 24.0 + rib_phase
    off_mm = np.abs(along - np.rint(along)) * 21.0
    ribs = (np.sqrt(((outside_mm - 6.5) / 3.7) ** 2 + (off_mm / 5.6) ** 2) - 1.0) * 3.7
    ribs = np.maximum(ribs, np.maximum(12.0 - np.abs(x), -98.0 - y + 0.35 * np.abs(x)))
    ribs = np.maximum(ribs, z - 106.0)
    ribs = np.maximum(ribs, 12.0 + 0.2 * np.abs(x) - np.sqrt(x**2 + spine_y**2))
    level = z / 23.0 + rib_phase * 0.7
    disc = 2.4 - np.abs(level - np.floor(level) - 0.5) * 23.0  # above 0 within the 5 mm between two bodies
    body = np.maximum(ellipse(x, spine_y, (17.0, 14.0)), disc)
    arch = np.maximum(np.abs(ellipse(x, spine_y - 22.0, (12.0, 10.0))) - 2.6, 12.0 - spine_y)
    near = np.abs(level - np.floor(level) - 0.2) * 23.0
    processes = np.maximum(np.maximum(np.abs(x) - 3.2, spine_y - 56.0), np.maximum(30.0 - spine_y, near - 7.0))
    wings = np.maximum(np.abs(spine_y - 20.0 - 0.16 * np.abs(x)) - 4.0, np.maximum(np.abs(x) - 34.0, near - 5.0))
    spine = np.minimum(np.minimum(body, arch), np.minimum(processes, np.maximum(wings, 12.0 - np.abs(x))))
    breastbone = ellipsoid(x, outside_mm - 9.0, 0 * z, (0, 0, 0), (18.0, 6.0, 1.0))
    breastbone = np.maximum(breastbone, np.maximum(y + 40.0, np.abs(z - 5.0) - 85.0))
    blades = np.maximum(np.abs(outside_mm - 21.0 - 0.04 * (np.abs(x) - 80.0)) - 3.3, np.abs(z - 48.0) - 58.0)
    blades = np.maximum(blades, np.maximum(25.0 - y, 62.0 - np.abs(x)))
    return np.asarray(np.minimum(np.minimum(ribs, spine), np.minimum(breastbone, blades)))


def organs(x: Array, y: Array, z: Array, top: Array) -> tuple[Array, Array]:
    """Liver, spleen and stomach under the diaphragm, and their HU (without a contrast agent)."""
    below = z - top + 2.5
    liver = smooth_max(below, x - 30.0 + 0.25 * (y + 20.0), 10.0)
    spleen = smooth_max(below, ellipsoid(x, y, z, (92.0, 45.0, -105.0), (36.0, 44.0, 44.0)), 6.0)
    stomach = smooth_max(below, ellipsoid(x, y, z, (62.0, -18.0, -112.0), (40.0, 46.0, 42.0)), 6.0)
    hu = blend(blend(58.0 + 0 * below, spleen, 50.0), stomach, 30.0)
    return np.minimum(np.minimum(liver, spleen), stomach), hu
