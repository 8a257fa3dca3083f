"""The step between two integers, chosen so that every engine rounds a mean of integers alike.

A quarter of the means of four integers lie halfway between two. Which way they go is for rounding half to even to say,
and with most steps it is not: ``(q - zero_point) * step`` is rounded to float32, so the sum is a little off the tie, to
a side that depends on how an engine goes on. Torch, onnxruntime's float and its integer kernels each go on in another
way. With a step of few significant bits all of it is exact; docs/qat.md has what that is worth.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["even_zero_point", "exact_step"]

# 24 bits of a float32, less 8 of an integer and 4 of a sum of up to 16 of them.
STEP_BITS = 12
INVERSE_ERROR = 2.0**-25  # relative; below it (k + 0.5) * step * (1 / step) is k + 0.5 in float32


def exact_step(step: float) -> float:
    """The least step from ``step`` on that has 12 significant bits and an almost exact inverse.

    0.03 % larger on average, so that the range still covers what was seen.

    Args:
        step: Finite and above 0.
    """
    mantissa, exponent = math.frexp(step)
    count = math.ceil(math.ldexp(mantissa, STEP_BITS))
    while not _has_exact_inverse(math.ldexp(count, exponent - STEP_BITS)):
        count += 1
    return math.ldexp(count, exponent - STEP_BITS)


def even_zero_point(low: float, step: float, limits: tuple[int, int]) -> int:
    """The even integer that stands for 0, so that rounding to even is the same before and after it is added.

    Args:
        low: Lowest value of the range, at most 0.
        step: Between two integers.
        limits: Lowest and highest integer.
    """
    first, last = limits
    nearest = 2 * round((first - low / step) / 2)
    return min(max(nearest, first + first % 2), last - last % 2)


def _has_exact_inverse(step: float) -> bool:
    return abs(float(np.float32(1 / step)) * step - 1) <= INVERSE_ERROR
