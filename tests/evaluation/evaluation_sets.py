"""A small evaluation set built by hand, and networks that answer to it in known ways."""

import numpy as np

from edgelung.calibration import Nodule
from edgelung.converters.evaluation import EvaluationCase, EvaluationSet
from edgelung.spec import SlicePacking

PLANE = (24, 32)
VOXEL_MM3 = 1.5


def hand_made(copies=3, per_copy=8, seed=0):
    """Copies of a block of seven slices, five of them answered, with box-shaped nodules in slices 1 to 5."""
    rng = np.random.default_rng(seed)
    cases = []
    for _ in range(copies):
        ids = np.zeros((7, *PLANE), dtype=np.int16)
        for index in range(per_copy):
            row, column = 1 + 6 * (index // 4), 1 + 8 * (index % 4)
            height, width, first = rng.integers(2, 5), rng.integers(2, 7), rng.integers(1, 4)
            ids[first : first + 2, row : row + height, column : column + width] = index + 1
        hu = np.where(ids > 0, 0, -850).astype(np.int16)
        nodules = tuple(Nodule((0.0, 0.0, 0.0), 6.0, "solid", "free") for _ in range(per_copy))
        cases.append(EvaluationCase(hu, ids, nodules))
    return EvaluationSet(tuple(cases), (10, 17), SlicePacking(1, 1, 1), VOXEL_MM3, seed)


def answers(evaluation, *, recall=0.9, false=0.02, seed=1):
    """Random probabilities: above 0.5 in this share of the pixels of nodules and of the others."""
    rng = np.random.default_rng(seed)
    for case in evaluation.cases:
        for index in evaluation.answered:
            inside = case.ids[index] > 0
            marked = rng.random(PLANE) < np.where(inside, recall, false)
            probability = np.where(marked, rng.uniform(0.5, 1.0, PLANE), rng.uniform(0.0, 0.49, PLANE))
            yield probability[np.newaxis, np.newaxis].astype(np.float32)
