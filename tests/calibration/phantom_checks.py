"""What a nodule's mask must have to do with the nodule, for phantoms and insertions alike."""

import numpy as np


def own_voxels(volume, mask, nodule, nodules):
    """(n, 3) LPS millimetres of the mask's voxels that lie nearer to this nodule than to the others."""
    points = volume.index_to_lps_mm(np.argwhere(mask))
    gaps = [np.linalg.norm(points - other.center_lps_mm, axis=1) - other.diameter_mm / 2 for other in nodules]
    return points[np.argmin(gaps, axis=0) == nodules.index(nodule)]


def centroid_error_voxels(volume, points_mm, center_lps_mm):
    """Largest offset along any array axis between the points' mean and a centre, in voxels."""
    offset = volume.lps_mm_to_index(points_mm.mean(axis=0)) - volume.lps_mm_to_index(center_lps_mm)
    return float(np.abs(offset).max())


def sphere_mm3(diameter_mm):
    return np.pi / 6 * diameter_mm**3
