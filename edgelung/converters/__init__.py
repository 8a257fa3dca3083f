"""The host side: from a trained network to a verified bundle. Needs the ``convert`` extra."""

from edgelung.converters.convert import Conversion, convert
from edgelung.converters.recipe import Recipe

__all__ = ["Conversion", "Recipe", "convert"]
