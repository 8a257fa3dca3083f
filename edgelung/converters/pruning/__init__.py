"""Structured pruning: whole channels go, and the network is smaller everywhere."""

from edgelung.converters.pruning.importance import IMPORTANCES
from edgelung.converters.pruning.layer_table import LayerCost, LayerCut, compare_layers, layer_rows
from edgelung.converters.pruning.prune import Pruned, prune
from edgelung.converters.pruning.rebuild import shrink_to_state
from edgelung.converters.pruning.reconstruct import LayerFit, reconstruct
from edgelung.converters.pruning.scan import GroupSensitivity, scan_rows, scan_sensitivity

__all__ = [
    # pruning
    "IMPORTANCES",
    "Pruned",
    "prune",
    "shrink_to_state",
    # the weights that are left
    "LayerFit",
    "reconstruct",
    # which layers bear it
    "GroupSensitivity",
    "scan_rows",
    "scan_sensitivity",
    # what it saves
    "LayerCost",
    "LayerCut",
    "compare_layers",
    "layer_rows",
]
