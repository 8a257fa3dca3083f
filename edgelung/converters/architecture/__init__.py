"""One's own network: built by its factory, and brought to plain layers in float32 on the CPU."""

from edgelung.converters.architecture.computed import ComputedWeight, bake, find_computed
from edgelung.converters.architecture.factory import load_factory
from edgelung.converters.architecture.plain import copy_network, materialize, to_plain

__all__ = ["ComputedWeight", "bake", "copy_network", "find_computed", "load_factory", "materialize", "to_plain"]
