"""How well a network finds nodules that are known to the voxel, and whether a variant of it does worse.

Needs numpy, scipy and a function from a slab to probabilities; what runs the network is of no concern here.
"""

from edgelung.converters.evaluation.bootstrap import (
    Difference,
    Interval,
    OperatingPoint,
    compare_metrics,
    measure_with_intervals,
)
from edgelung.converters.evaluation.cases import (
    EvaluationCase,
    EvaluationSet,
    iter_slabs,
    make_evaluation_set,
    split_block,
)
from edgelung.converters.evaluation.counts import LEVELS, Counts, count_answers
from edgelung.converters.evaluation.metrics import METRICS, measure_metrics, threshold_at_volume

__all__ = [
    # what is evaluated on
    "EvaluationCase",
    "EvaluationSet",
    "iter_slabs",
    "make_evaluation_set",
    "split_block",
    # counts and metrics
    "LEVELS",
    "METRICS",
    "Counts",
    "count_answers",
    "measure_metrics",
    "threshold_at_volume",
    # intervals
    "Difference",
    "Interval",
    "OperatingPoint",
    "compare_metrics",
    "measure_with_intervals",
]
