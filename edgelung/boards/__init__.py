"""Boards as data, which of them this is, and what a compiled network will cost on one."""

from edgelung.boards.detection import detect_board
from edgelung.boards.estimate import LatencyEstimate, LayerEstimate, SliceLatency, estimate
from edgelung.boards.layers import LayerRecord
from edgelung.boards.processor import describe_processor
from edgelung.boards.profiles import BOARDS, BoardProfile, get_board

__all__ = [
    # boards
    "BOARDS",
    "BoardProfile",
    "describe_processor",
    "detect_board",
    "get_board",
    # latency estimates
    "LatencyEstimate",
    "LayerEstimate",
    "LayerRecord",
    "SliceLatency",
    "estimate",
]
