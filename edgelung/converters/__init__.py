"""The host side: from a trained network to a verified bundle. Needs the ``convert`` extra."""

from edgelung.converters.convert import Conversion, Recipe, convert

__all__ = ["Conversion", "Recipe", "convert"]
