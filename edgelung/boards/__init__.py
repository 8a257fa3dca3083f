"""Boards as data, and which of them this is."""

from edgelung.boards.detection import detect_board
from edgelung.boards.profiles import BOARDS, BoardProfile, get_board

__all__ = ["BOARDS", "BoardProfile", "detect_board", "get_board"]
