"""Where the time goes: every stage under its own name."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

__all__ = ["StageClock", "StageTime"]


@dataclass(frozen=True)
class StageTime:
    """Time of one stage, in milliseconds of wall clock.

    Attributes:
        calls: How often it ran.
        total_ms, median_ms, p90_ms, p99_ms: Sum and percentiles over the calls.
    """

    calls: int
    total_ms: float
    median_ms: float
    p90_ms: float
    p99_ms: float

    @classmethod
    def of(cls, seconds: list[float]) -> StageTime:
        """From single durations in seconds."""
        ms = np.asarray(seconds) * 1e3
        median, p90, p99 = np.percentile(ms, (50, 90, 99))
        return cls(len(ms), float(ms.sum()), float(median), float(p90), float(p99))


class StageClock:
    """Collects durations by stage; for one thread."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {}

    @contextmanager
    def stage(self, name: str, calls: int = 1) -> Iterator[None]:
        """Time the body as ``calls`` equal calls of a stage, also when it raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start, calls)

    def add(self, name: str, seconds: float, calls: int = 1) -> None:
        """Count ``calls`` equal calls of a stage that took ``seconds`` together."""
        self._seconds.setdefault(name, []).extend([seconds / calls] * calls)

    def times(self) -> Mapping[str, StageTime]:
        """Stage -> its times, in the order in which stages first ended."""
        return MappingProxyType({name: StageTime.of(seconds) for name, seconds in self._seconds.items()})
