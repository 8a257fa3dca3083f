"""Small labelled scans whose masks can be told from their values."""

import numpy as np

from edgelung.converters.datasets import LabelledScan


def bright_scan(seed=0, shape=(12, 96, 80)):
    """Noise with bright blocks; every voxel above 500 HU is nodule, and no other."""
    random = np.random.default_rng(seed)
    hu = random.integers(-1000, 0, size=shape).astype(np.int16)
    for depth, row, column in random.integers((2, 10, 10), (8, 80, 64), size=(6, 3)):
        hu[depth : depth + 3, row : row + 8, column : column + 8] = 800
    mask = hu > 500
    return LabelledScan(hu, mask, np.argwhere(mask), np.argwhere(~mask)[::50])
