"""Restructuring: the same function without BatchNorm and without a sigmoid at the end (docs/restructuring.md)."""

from edgelung.converters.passes.proof import Difference, measure_difference
from edgelung.converters.passes.restructure import Restructured, restructure
from edgelung.converters.passes.room import RK3588_FP16, RK3588_INT8, ChannelRoom
from edgelung.converters.passes.split_sigmoid import split_sigmoid, threshold_to_logit
from edgelung.converters.passes.unfold import unfold

__all__ = [
    # all passes, and what they may cost
    "ChannelRoom",
    "RK3588_FP16",
    "RK3588_INT8",
    "Restructured",
    "restructure",
    "unfold",
    # the proof
    "Difference",
    "measure_difference",
    # one pass that stands alone
    "split_sigmoid",
    "threshold_to_logit",
]
