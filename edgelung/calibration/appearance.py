"""What a CT's own kernel and dose look like: its noise and its sharpness, measured in its lungs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = ["Appearance", "measure_appearance"]

FINE_PX = 1.5  # noise finer than a Gaussian of this width is kept from the CT itself
_COARSE_PX = 4.0
_SLICES = 24
_MAD = 1.4826  # from the median absolute deviation to the standard deviation of a normal distribution


@dataclass(frozen=True)
class Appearance:
    """Noise and in-plane sharpness of a CT.

    Attributes:
        fine_noise_hu: Standard deviation of the noise that a Gaussian of 1.5 pixels takes away.
        coarse_noise_hu: Standard deviation of the noise between 1.5 and 4 pixels.
        blur_mm: Standard deviation of the Gaussian that blurs an edge as this CT does, pixel included.
    """

    fine_noise_hu: float
    coarse_noise_hu: float
    blur_mm: float


def measure_appearance(
    hu: npt.NDArray[np.generic], lungs: npt.NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> Appearance:
    """Measure up to 24 axial slices.

    Noise is the robust spread of parenchyma around its smoothed self. Sharpness comes from the lungs' border: an edge
    of height A blurred by a Gaussian of width s has the slope A / (s sqrt(2 pi)). The lower quartile over the border
    counts, because the chest wall runs obliquely through many slices.

    Args:
        hu: (depth, height, width) axial.
        lungs: Mask of the same shape.
        spacing_mm: (depth, height, width).
    """
    shown = np.flatnonzero(lungs.any(axis=(1, 2)))
    chosen = shown[np.unique(np.linspace(0, len(shown) - 1, min(_SLICES, len(shown))).astype(int))]
    fine, broad = [], []
    for index in chosen:
        plane = hu[index].astype(np.float32)
        inner = ndimage.binary_erosion(lungs[index], iterations=8) & (plane < -700) & (plane > -990)
        fine.append((plane - ndimage.gaussian_filter(plane, FINE_PX))[inner])
        broad.append((plane - ndimage.gaussian_filter(plane, _COARSE_PX))[inner])
    fine_hu, broad_hu = (_spread(np.concatenate(parts)) for parts in (fine, broad))
    edges = np.concatenate(
        [_edge_blurs_mm(hu[index].astype(np.float32), lungs[index], spacing_mm[1:], fine_hu) for index in chosen]
    )
    # Without a clean edge, a medium kernel: typical for chest CT.
    blur_mm = float(np.percentile(edges, 25)) if len(edges) >= 20 else 0.65
    return Appearance(fine_hu, float(np.sqrt(max(broad_hu**2 - fine_hu**2, 0.0))), float(np.clip(blur_mm, 0.3, 1.5)))


def _edge_blurs_mm(
    plane: npt.NDArray[np.float32], lung: npt.NDArray[np.bool_], spacing_mm: tuple[float, ...], noise_hu: float
) -> npt.NDArray[np.float32]:
    rows, columns = np.gradient(plane, *spacing_mm)
    slope = np.hypot(rows, columns)
    reach = tuple(2 * int(np.ceil(3.0 / size)) + 1 for size in spacing_mm)
    height = ndimage.maximum_filter(plane, reach) - ndimage.minimum_filter(plane, reach)
    height = height - 4.0 * noise_hu  # the extremes of a window stick out by about twice the noise on either side
    ridge = slope >= ndimage.maximum_filter(slope, 3) - 1e-3
    border = lung ^ ndimage.binary_erosion(lung)
    edge = ridge & ndimage.binary_dilation(border, iterations=2) & (height > 650) & (height < 1300)
    squared = (height[edge] / (np.sqrt(2 * np.pi) * slope[edge])) ** 2
    # Central differences average the slope over two pixels, which widens the edge by a variance of (2 px)^2 / 12.
    squared = squared - float(np.mean(spacing_mm)) ** 2 / 3.0
    return np.asarray(np.sqrt(np.maximum(squared, 0.0)), dtype=np.float32)


def _spread(values: npt.NDArray[np.float32]) -> float:
    return float(_MAD * np.median(np.abs(values - np.median(values)))) if len(values) else 0.0
