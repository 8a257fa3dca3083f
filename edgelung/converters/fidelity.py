"""How much of the original is left in an artefact: numbers with limits, for float16 and int8 as for float32.

Everything is compared as probabilities, whatever an artefact gives, and as masks at the pipeline's threshold. The mask
of the original is the reference, so with M the original's mask and A the artefact's, over all pixels of all slabs,

    recall = |A and M| / |M|,  precision = |A and M| / |A|,  Dice = 2 |A and M| / (|A| + |M|).

docs/verification.md has the measurements that the limits come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgelung.bundle import FidelityRow
from edgelung.converters.route import Precision
from edgelung.converters.verify import FP32_LIMIT, FP32_RELATIVE_LIMIT, Agreement, compare_outputs
from edgelung.errors import VerificationError

__all__ = [
    "LIMITS",
    "NO_LIMITS",
    "RETRAINED",
    "TRAINED_LIMITS",
    "FidelityLimits",
    "find_ways_out",
    "measure_fidelity",
    "measure_nodules",
    "require_fidelity",
    "to_probability",
]

Array = npt.NDArray[np.float32]
ORIGINAL = "original network in float32"
RETRAINED = "retrained network before it was compiled"
TRUTH = "inserted nodules"
# Of a retrained network: so much of the original's recall may be lost, and so many times its false positives be made.
LOST_RECALL, MORE_FALSE = 0.1, 1.5
LEAST_FALSE = 50  # pixels a slab: a few more than next to none are no failure
NOTHING_MARKED = "choose slices with nodules: --data and --holdout, or another --seed"
NOTHING_LEARNT = "train it longer (--preset, --epochs), prune less, or give real CTs with --data if there were none"


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
    relative: float | None
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
NO_LIMITS = FidelityLimits(None, None, None, None, None)
# A network that was trained while it rounded is compiled as it is (docs/qat.md); additions are rounded once more.
TRAINED_LIMITS = FidelityLimits(None, 0.6, 0.9, 0.9, 0.9)


def to_probability(output: npt.ArrayLike, quantity: Literal["probability", "logit"]) -> Array:
    """An output as probabilities in 0..1, in its own shape."""
    values = np.asarray(output, dtype=np.float32)
    if quantity == "probability":
        return values
    # 0.5 (1 + tanh(x / 2)) is the sigmoid without an exponential that overflows.
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)), dtype=np.float32)


def measure_fidelity(
    expected: Sequence[Array],
    found: Sequence[Array],
    threshold: float,
    limits: FidelityLimits,
    data: str,
    *,
    against: str = ORIGINAL,
) -> tuple[FidelityRow, ...]:
    """Compare probabilities of the original with those of an artefact.

    Args:
        expected: The original's, for each slab.
        found: The artefact's, in the same shapes.
        threshold: From which probability on a pixel belongs to the mask.
        limits: What has to be kept.
        data: What the slabs are, by kind, for the record.
        against: What ``expected`` is, for the record.

    Raises:
        ConversionError: If shapes differ.
        VerificationError: If a value is not finite, the original is the same everywhere, or its mask has a limit and
            is empty: then nothing is proven.
    """
    agreement = compare_outputs(expected, found)
    rows = [
        _row("largest difference", agreement.max_abs, limits.largest, data, agreement, against),
        _row("mean difference", agreement.mean_abs, None, data, agreement, against),
        _row("difference relative to spread", agreement.relative_rms, limits.relative, data, agreement, against),
    ]
    ours = np.concatenate([np.asarray(output).ravel() >= threshold for output in expected])
    theirs = np.concatenate([np.asarray(output).ravel() >= threshold for output in found])
    both, marked, answered = (int(np.count_nonzero(mask)) for mask in (ours & theirs, ours, theirs))
    if not marked:
        if limits.dice is not None:
            hint = NOTHING_LEARNT if against == RETRAINED else NOTHING_MARKED
            raise VerificationError(f"pixels that the {against} marks (at least)", 0, 1, hint=hint)
        return tuple(rows)
    shares = (
        ("mask recall", both / marked, limits.recall),
        ("mask precision", both / answered if answered else 0.0, limits.precision),
        ("mask Dice", 2 * both / (marked + answered), limits.dice),
    )
    rows += [_row(metric, value, limit, data, agreement, against, "at least") for metric, value, limit in shares]
    return tuple(rows)


def measure_nodules(
    original: Sequence[Array],
    found: Sequence[Array],
    nodules: Sequence[npt.NDArray[np.bool_]],
    threshold: float,
    data: str,
) -> tuple[FidelityRow, ...]:
    """What a retrained network finds of nodules that are known, and marks elsewhere, beside the original.

    Args:
        original: The original's probabilities, for each slab.
        found: The artefact's, in the same shapes.
        nodules: The truth, likewise.
        threshold: From which probability on a pixel belongs to the mask.
        data: What the slabs are, by kind, for the record.

    Raises:
        VerificationError: If there is no nodule pixel: then nothing is proven.
    """
    truth = np.concatenate([mask.ravel() for mask in nodules])
    if not truth.any():
        raise VerificationError("pixels of known nodules (at least)", 0, 1, hint=NOTHING_MARKED)
    masks = [np.concatenate([answer.ravel() >= threshold for answer in answers]) for answers in (original, found)]
    recalls = [float(np.count_nonzero(mask & truth)) / float(np.count_nonzero(truth)) for mask in masks]
    false = [float(np.count_nonzero(mask & ~truth)) / len(nodules) for mask in masks]
    count = len(nodules)
    return (
        FidelityRow("nodule recall", recalls[1], TRUTH, data, count, max(recalls[0] - LOST_RECALL, 0.0), "at least"),
        FidelityRow("nodule recall of the original", recalls[0], TRUTH, data, count, None, "at least"),
        FidelityRow(
            "false-positive pixels a slab", false[1], TRUTH, data, count, MORE_FALSE * max(false[0], LEAST_FALSE),
            "at most",
        ),
        FidelityRow("false-positive pixels a slab of the original", false[0], TRUTH, data, count, None, "at most"),
    )  # fmt: skip


def require_fidelity(rows: Sequence[FidelityRow], name: str, ways_out: Mapping[str, str] | None = None) -> None:
    """Accept only rows that all keep their limits.

    Args:
        rows: Of one artefact.
        name: Of the artefact.
        ways_out: By what a row is measured against, what a user can do about one that misses.

    Raises:
        VerificationError: Naming the first that does not.
    """
    for row in rows:
        if row.limit is not None and not row.kept:
            hints = ((ways_out or {}).get(row.against, ""), "--keep-failing writes the bundle all the same, marked")
            metric = f"{name}: {row.metric} on {row.data} ({row.bound})"
            raise VerificationError(metric, row.value, row.limit, hint="; ".join(filter(None, hints)))


def find_ways_out(precision: Precision, *, npu: bool, trained: bool, trainable: bool, has_data: bool) -> dict[str, str]:
    """What to do about an artefact that misses a limit, by what it is measured against: only what can help.

    Args:
        precision: Of the artefact.
        npu: Whether it is for an NPU.
        trained: Whether the network was trained to round as it does.
        trainable: Whether it could be.
        has_data: Whether CTs were given.
    """
    real = [] if has_data else ["give real CTs with --data"]
    if trained:
        compiled = "the engine computes something else than the network that was trained; training again does not help"
    elif precision == "fp32":
        compiled = "the compiled file computes something else than the network, which is an error of edgelung"
    elif precision == "fp16":
        compiled = "its values may not fit float16: try --ptq"
    else:
        others = [*(["another --ptq"] if npu else []), *(["--qat"] if trainable else [])]
        options = _alternatives([*others, "--precision fp16" if npu else "--precision fp32"])
        compiled = "; ".join(["int8 does not keep the network", *real, f"try {options}"])
    learnt = _alternatives(["train it longer (--preset, --epochs)", "prune less", *real])
    return {ORIGINAL: compiled, RETRAINED: compiled, TRUTH: f"the network has not learnt enough: {learnt}"}


def _alternatives(options: Sequence[str]) -> str:
    *first, last = options
    return f"{', '.join(first)} or {last}" if first else last


def _row(
    metric: str,
    value: float,
    limit: float | None,
    data: str,
    agreement: Agreement,
    against: str,
    bound: Literal["at most", "at least"] = "at most",
) -> FidelityRow:
    return FidelityRow(metric, value, against, data, agreement.samples, limit, bound)
