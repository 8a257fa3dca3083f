"""Weights from a file, without running anything the file brings along, and into a network, all or nothing.

A pickle can execute code, so files are only ever read with torch's weights-only unpickler or as safetensors.
"""

from edgelung.converters.checkpoint.apply import apply_state
from edgelung.converters.checkpoint.load import LoadedState, load_state_dict
from edgelung.converters.checkpoint.naming import MatchedState, match_keys, missing_keys

__all__ = ["LoadedState", "MatchedState", "apply_state", "load_state_dict", "match_keys", "missing_keys"]
