"""Which runs touch, and what hangs together: the graph work behind :mod:`edgelung.runtime.components`, without loops
over runs."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["compressed", "roots_of", "touching"]

Integer = TypeVar("Integer", bound=np.signedinteger)
Int64 = npt.NDArray[np.int64]


def touching(first: Int64, last: Int64, starts: Int64, ends: Int64) -> tuple[Int64, Int64]:
    """All pairs (i, j) for which the interval first[i]..last[i] meets the run starts[j]..ends[j], both inclusive."""
    low = np.searchsorted(ends, first, side="left")
    counts = np.maximum(np.searchsorted(starts, last, side="right") - low, 0)
    i = np.repeat(np.arange(len(first)), counts)
    within = np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts)
    return i, low[i] + within


def roots_of(nodes: int, a: Int64, b: Int64) -> Int64:
    """For every node the smallest node it is connected to by the edges a-b.

    Roots hook to the smallest root beside them, trees collapse, and edges inside a tree drop out, until none is left.
    """
    parents = np.arange(nodes)
    while len(a):
        np.minimum.at(parents, np.maximum(a, b), np.minimum(a, b))
        parents = compressed(parents)
        a, b = parents[a], parents[b]
        outside = a != b
        a, b = a[outside], b[outside]
    return parents


def compressed(parents: npt.NDArray[Integer]) -> npt.NDArray[Integer]:
    """Every node's root, by pointer jumping; each parent is at most its node."""
    while True:
        grandparents = parents[parents]
        if np.array_equal(grandparents, parents):
            return parents
        parents = grandparents
