"""How much of the original is left in an artefact: numbers with limits, for float16 and int8 as for float32.

Everything is compared as probabilities, whatever an artefact gives, and as masks at the pipeline's threshold. The mask
of the original is the reference, so with M the original's mask and A the artefact's, over all pixels of all slabs,

    recall = |A and M| / |M|,  precision = |A and M| / |A|,  Dice = 2 |A and M| / (|A| + |M|).

docs/verification.md has the measurements that the limits come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgelung.bundle import FidelityRow
from edgelung.converters.verify import FP32_LIMIT, FP32_RELATIVE_LIMIT, Agreement, compare_outputs
from edgelung.errors import VerificationError

__all__ = ["LIMITS", "FidelityLimits", "measure_fidelity", "require_fidelity", "to_probability"]

Array = npt.NDArray[np.float32]
AGAINST = "original network in float32"
NOTHING_MARKED = "choose slices with nodules: --data and --holdout, or another --seed"


@dataclass(frozen=True)
class FidelityLimits:
    """What an artefact of one precision has to keep; None is only reported.

    Attributes:
        largest: Largest difference of a probability.
        relative: Root mean square difference over the spread of the original.
        recall: Least mask recall.
        precision: Least mask precision.
        dice: Least mask Dice.
    """

    largest: float | None
    relative: float
    recall: float | None
    precision: float | None
    dice: float | None


LIMITS = MappingProxyType(
    {
        "fp32": FidelityLimits(FP32_LIMIT, FP32_RELATIVE_LIMIT, None, None, None),
        "fp16": FidelityLimits(None, 0.05, 0.99, 0.99, 0.99),
        "int8": FidelityLimits(None, 0.6, 0.75, 0.75, 0.8),
    }
)


def to_probability(output: npt.ArrayLike, quantity: Literal["probability", "logit"]) -> Array:
    """An output as probabilities in 0..1, in its own shape."""
    values = np.asarray(output, dtype=np.float32)
    if quantity == "probability":
        return values
    # 0.5 (1 + tanh(x / 2)) is the sigmoid without an exponential that overflows.
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)), dtype=np.float32)


def measure_fidelity(
    expected: Sequence[Array], found: Sequence[Array], threshold: float, limits: FidelityLimits, data: str
) -> tuple[FidelityRow, ...]:
    """Compare probabilities of the original with those of an artefact.

    Args:
        expected: The original's, for each slab.
        found: The artefact's, in the same shapes.
        threshold: From which probability on a pixel belongs to the mask.
        limits: What has to be kept.
        data: What the slabs are, by kind, for the record.

    Raises:
        ConversionError: If shapes differ.
        VerificationError: If a value is not finite, the original is the same everywhere, or its mask has a limit and
            is empty: then nothing is proven.
    """
    agreement = compare_outputs(expected, found)
    rows = [
        _row("largest difference", agreement.max_abs, limits.largest, data, agreement),
        _row("mean difference", agreement.mean_abs, None, data, agreement),
        _row("difference relative to spread", agreement.relative_rms, limits.relative, data, agreement),
    ]
    ours = np.concatenate([np.asarray(output).ravel() >= threshold for output in expected])
    theirs = np.concatenate([np.asarray(output).ravel() >= threshold for output in found])
    both, marked, answered = (int(np.count_nonzero(mask)) for mask in (ours & theirs, ours, theirs))
    if not marked:
        if limits.dice is not None:
            raise VerificationError("pixels that the original marks (at least)", 0, 1, hint=NOTHING_MARKED)
        return tuple(rows)
    shares = (
        ("mask recall", both / marked, limits.recall),
        ("mask precision", both / answered if answered else 0.0, limits.precision),
        ("mask Dice", 2 * both / (marked + answered), limits.dice),
    )
    rows += [_row(metric, value, limit, data, agreement, "at least") for metric, value, limit in shares]
    return tuple(rows)


def require_fidelity(rows: Sequence[FidelityRow], name: str) -> None:
    """Accept only rows that all keep their limits.

    Raises:
        VerificationError: Naming the first that does not.
    """
    for row in rows:
        if row.limit is not None and not row.kept:
            hint = "the original is not kept; try real CTs with --data, another --ptq, or --precision fp16"
            raise VerificationError(
                f"{name}: {row.metric} on {row.data} ({row.bound})", row.value, row.limit,
                hint=f"{hint}; --keep-failing writes the bundle all the same, marked",
            )  # fmt: skip


def _row(
    metric: str,
    value: float,
    limit: float | None,
    data: str,
    agreement: Agreement,
    bound: Literal["at most", "at least"] = "at most",
) -> FidelityRow:
    return FidelityRow(metric, value, AGAINST, data, agreement.samples, limit, bound)
