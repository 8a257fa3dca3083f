"""How slices of any height and width meet a network of fixed height and width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from edgelung.errors import InputError
from edgelung.spec import InPlaneRule

__all__ = ["PlanePlan", "Tile", "plan_plane"]


@dataclass(frozen=True)
class Tile:
    """One run's part of a padded slice.

    Attributes:
        rows, columns: What the network sees.
        keep_rows, keep_columns: What of it is kept, in coordinates of the padded slice.
    """

    rows: slice
    columns: slice
    keep_rows: slice
    keep_columns: slice

    def kept(self, output: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The part of this tile's output (..., height, width) that is kept."""
        top, left = self.rows.start, self.columns.start
        rows = slice(self.keep_rows.start - top, self.keep_rows.stop - top)
        columns = slice(self.keep_columns.start - left, self.keep_columns.stop - left)
        return output[..., rows, columns]


@dataclass(frozen=True)
class PlanePlan:
    """Padding and tiles of one slice.

    Attributes:
        size: (height, width) of the volume's slices.
        padded: (height, width) after padding.
        offset: (row, column) of the slice's first pixel in the padded one.
        tiles: Cover the padded slice; their kept parts do not overlap.
    """

    size: tuple[int, int]
    padded: tuple[int, int]
    offset: tuple[int, int]
    tiles: tuple[Tile, ...]

    def inner(self, plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The view of a padded (..., height, width) array that holds the volume's own pixels."""
        (top, left), (height, width) = self.offset, self.size
        return plane[..., top : top + height, left : left + width]


def plan_plane(size: tuple[int, int], tile: tuple[int, int], rule: InPlaneRule, source: object = "") -> PlanePlan:
    """Plan padding and tiles.

    Args:
        size: (height, width) of the volume's slices in pixels.
        tile: (height, width) of the network.
        rule: The rule of the manifest.
        source: Named in the error.

    Raises:
        InputError: When more tiles would be needed than the rule allows.
    """
    rows = _Axis.plan(size[0], tile[0], rule)
    columns = _Axis.plan(size[1], tile[1], rule)
    count = len(rows.origins) * len(columns.origins)
    if count > rule.max_tiles:
        raise InputError(
            f"slices of {size[0]}x{size[1]} pixels need {count} tiles of {tile[0]}x{tile[1]}, "
            f"the bundle's rule allows {rule.max_tiles}",
            source=source,
            field="matrix size",
            hint="resample the series, or convert the network for a larger plane",
        )
    tiles = tuple(
        Tile(slice(top, top + tile[0]), slice(left, left + tile[1]), keep_rows, keep_columns)
        for top, keep_rows in zip(rows.origins, rows.keeps(), strict=True)
        for left, keep_columns in zip(columns.origins, columns.keeps(), strict=True)
    )
    return PlanePlan(size, (rows.padded, columns.padded), (rows.offset, columns.offset), tiles)


@dataclass(frozen=True)
class _Axis:
    padded: int
    offset: int
    origins: Sequence[int]
    halo: int

    @classmethod
    def plan(cls, size: int, tile: int, rule: InPlaneRule) -> _Axis:
        if size <= tile:
            return cls(tile, (tile - size) // 2, (0,), 0)
        padded = -(-size // rule.align_px) * rule.align_px
        step = (tile - 2 * rule.halo_px) // rule.align_px * rule.align_px
        origins = (*range(0, padded - tile, step), padded - tile)
        return cls(padded, 0, origins, rule.halo_px)

    def keeps(self) -> list[slice]:
        starts = [0, *(origin + self.halo for origin in self.origins[1:])]
        return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], self.padded], strict=True)]
