"""What a scanner does to an ideal slice: a reconstruction kernel and its noise.

Both are applied in the plane, in the frequency domain. The kernel's transfer function is a Gaussian (soft kernels)
or one raised at middle frequencies (sharp kernels, which overshoot at edges). The noise of filtered backprojection
has a spectrum that rises with the frequency before the kernel cuts it off (Riederer, Pelc & Chesler, Phys Med Biol
1978, 23:446), so soft kernels give coarse, weak noise and sharp ones fine, strong noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft

from edgelung.calibration.lattice import Floats

__all__ = ["Acquisition", "Scanner", "draw_acquisition"]

_PAD = 8  # pixels mirrored at the border, so that the kernel does not wrap around


@dataclass(frozen=True)
class Acquisition:
    """Kernel and dose of one scan.

    Attributes:
        blur_mm: Standard deviation of the kernel's Gaussian core, in the plane.
        sharpening: How much middle frequencies are raised: 0 for soft kernels, up to about 0.6 for sharp ones.
        noise_hu: Standard deviation of the noise in the middle of the body.
        slice_overlap: Correlation of the noise of neighbouring slices, 0..0.5.
    """

    blur_mm: float
    sharpening: float
    noise_hu: float
    slice_overlap: float


def draw_acquisition(rng: np.random.Generator) -> Acquisition:
    """Draw a kernel and a dose: two thirds soft to medium kernels with 10..35 HU, one third sharp with 25..60 HU."""
    overlap = float(rng.uniform(0.0, 0.4))
    if rng.random() < 0.65:
        return Acquisition(float(rng.uniform(0.50, 0.72)), float(rng.uniform(0.0, 0.15)), _noise(rng, 10, 35), overlap)
    return Acquisition(float(rng.uniform(0.36, 0.5)), float(rng.uniform(0.25, 0.6)), _noise(rng, 25, 60), overlap)


class Scanner:
    """Applies an acquisition to slices, one after the other in order of their index."""

    def __init__(self, acquisition: Acquisition, plane: tuple[int, int], spacing_mm: tuple[float, float]) -> None:
        self._acquisition = acquisition
        self._plane = plane
        self._padded = tuple(fft.next_fast_len(size + 2 * min(_PAD, size - 1), real=True) for size in plane)
        frequency = np.hypot(
            fft.fftfreq(self._padded[0], spacing_mm[0])[:, None], fft.rfftfreq(self._padded[1], spacing_mm[1])[None, :]
        )
        transfer = np.exp(-2.0 * (np.pi * acquisition.blur_mm * frequency) ** 2)
        transfer *= 1.0 + 4.0 * acquisition.sharpening * _bump(frequency * acquisition.blur_mm)
        self._transfer = transfer.astype(np.float32)
        amplitude = np.sqrt(frequency + 0.02) * transfer
        # Parseval: unit white noise filtered with `amplitude` has the variance mean(amplitude^2) over all frequencies.
        doubled = np.full(transfer.shape[1], 2.0)
        doubled[0] = 1.0
        power = float((amplitude**2 * doubled).sum() / (self._padded[0] * self._padded[1]))
        self._noise = (amplitude * acquisition.noise_hu / np.sqrt(power)).astype(np.float32)
        rows, columns = (np.linspace(-1, 1, size, dtype=np.float32) for size in plane)
        # Rays through the middle are attenuated most: noise falls by about a third towards the rim.
        self._strength = 0.72 + 0.34 * np.exp(-1.8 * (rows[:, None] ** 2 + columns[None, :] ** 2))
        self._previous: Floats | None = None

    def scan(self, ideal: Floats, rng: np.random.Generator) -> Floats:
        """The slice as the scanner shows it: (height, width) HU in, HU out."""
        fresh = rng.standard_normal(self._padded, dtype=np.float32)
        overlap = self._acquisition.slice_overlap
        white = fresh if self._previous is None else overlap * self._previous + np.sqrt(1 - overlap**2) * fresh
        self._previous = fresh
        height, width = self._plane
        top, left = ((size - small) // 2 for size, small in zip(self._padded, self._plane, strict=True))
        bottom, right = self._padded[0] - height - top, self._padded[1] - width - left
        padded = np.pad(ideal, ((top, bottom), (left, right)), mode="edge")
        spectrum = fft.rfft2(white) * self._noise
        noise = fft.irfft2(spectrum, s=self._padded)[top : top + height, left : left + width]
        seen = fft.irfft2(fft.rfft2(padded) * self._transfer, s=self._padded)
        noisy: Floats = seen[top : top + height, left : left + width] + noise * self._strength
        return noisy


def _bump(scaled: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """0 at frequency 0, 1 at 0.22 of the reciprocal blur, falling again beyond."""
    ratio = (scaled / 0.22) ** 2
    return ratio * np.exp(1.0 - ratio)


def _noise(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
