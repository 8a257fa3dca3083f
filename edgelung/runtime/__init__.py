"""The board side: from a CT series to findings, with numpy and one inference engine."""

from edgelung.runtime.backends import BACKENDS, SessionOptions
from edgelung.runtime.estimates import ArtefactEstimate, estimate_bundle
from edgelung.runtime.findings import Finding
from edgelung.runtime.perf import PerfReport, measure_latency
from edgelung.runtime.pipeline import CTPipeline
from edgelung.runtime.readers import read_series
from edgelung.runtime.result import CtResult, prepare_output
from edgelung.runtime.timing import StageTime
from edgelung.volume import CtVolume

__all__ = [
    # a CT through a bundle
    "CTPipeline",
    "CtResult",
    "Finding",
    "prepare_output",
    # volumes
    "CtVolume",
    "read_series",
    # engines and their times
    "ArtefactEstimate",
    "BACKENDS",
    "PerfReport",
    "SessionOptions",
    "StageTime",
    "estimate_bundle",
    "measure_latency",
]
