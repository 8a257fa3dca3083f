"""Which channels go, given how much each one matters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Scope", "choose_dropped", "count_kept"]


Scope = Literal["layer", "global"]
_ROUNDING = 1e-9  # 10 * (1 - 0.9) is 0.9999999999999998


def count_kept(channels: int, ratio: float, round_to: int) -> int:
    """How many of ``channels`` stay: at least what the ratio leaves, and a multiple of ``round_to`` unless all stay."""
    wanted = max(1, math.ceil(channels * (1 - ratio) - _ROUNDING))
    return _round_up(wanted, channels, round_to)


def choose_dropped(
    scores: Mapping[str, Tensor], *, ratio: float, round_to: int = 1, scope: Scope = "layer"
) -> dict[str, tuple[int, ...]]:
    """The channels with the lowest scores, of each group or of all together; of equals the first.

    Args:
        scores: By group, (channels,) of any float dtype.
        ratio: Share of the channels that goes, from 0 to below 1.
        round_to: The number that stays is rounded up to a multiple of this.
        scope: ``layer`` takes the share from each group; ``global`` from all together, where the scores are lowest.

    Returns:
        By group, the indices that go, in rising order; empty where all stay.
    """
    if scope == "layer":
        kept = {name: count_kept(len(values), ratio, round_to) for name, values in scores.items()}
    else:
        kept = _count_kept_globally(scores, ratio, round_to)
    return {
        name: tuple(sorted(torch.argsort(values, stable=True)[: len(values) - kept[name]].tolist()))
        for name, values in scores.items()
    }


def _count_kept_globally(scores: Mapping[str, Tensor], ratio: float, round_to: int) -> dict[str, int]:
    if not scores:
        return {}
    pooled = torch.cat([values.double() for values in scores.values()])
    going = torch.argsort(pooled, stable=True)[: len(pooled) - count_kept(len(pooled), ratio, 1)]
    goes = torch.zeros(len(pooled), dtype=torch.bool)
    goes[going] = True
    parts = goes.split([len(values) for values in scores.values()])  # type: ignore[no-untyped-call]
    return {
        name: _round_up(max(1, int((~part).sum())), len(part), round_to)
        for name, part in zip(scores, parts, strict=True)
    }


def _round_up(count: int, most: int, round_to: int) -> int:
    return min(most, math.ceil(count / round_to) * round_to)
