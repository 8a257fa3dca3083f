"""The original network asked for its answers, before anything is made of it, and what it says judged by its spec."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from edgelung.converters.passes.follow import NOT_REPEATABLE, REPEATABLE_HINT, refuse_hidden
from edgelung.converters.record import ConversionRecord
from edgelung.converters.slabs import Slabs
from edgelung.converters.targets.onnxruntime import graph_of, read_ready
from edgelung.converters.targets.output_range import OutputRange, output_range
from edgelung.errors import ConversionError, InputError

__all__ = ["ask_original", "judge_quantity"]

STAGE = "original"
FIELD = "output.quantity"
ROUNDING = 1e-4  # a softmax of float32 may give a little more than 1
REPEATS = 12  # of a network that draws random numbers: a layer left out half of the time is always kept by 1 in 4000
SAME = 1e-5  # of the spread: what two runs on one input may differ by, of a network that is the same each time

Array = npt.NDArray[np.float32]


def ask_original(
    record: ConversionRecord, slabs: Slabs, note: Callable[[str], None] | None = None
) -> tuple[Array, ...]:
    """The original's output for every slab that is verified on, in its own unit.

    Args:
        record: As it was read.
        slabs: What to ask it.
        note: Called with what a user should know.

    Raises:
        ConversionError: When it does not run, has no ONNX form, or gives another answer to the same input each time.
        InputError: When its output is not what the spec says that it is.
    """
    if record.model is not None:
        if not isinstance(record.model, torch.jit.ScriptModule):  # as a whole it is exported as it is
            refuse_hidden(record.model, STAGE, "")
        outputs = tuple(_answers(record, slabs.verify))
        model, _ = graph_of(record.model, record.spec)
    elif record.graph is not None:
        model = read_ready(record.graph, record.spec, record.graph_output)  # first: the file is opened to be run
        outputs = tuple(_answers(record, slabs.verify))
    else:
        raise ConversionError(STAGE, "the record holds neither a network nor a graph")
    told = judge_quantity(outputs, output_range(model), record.reference_quantity)
    if told and note is not None:
        note(told)
    return outputs


def judge_quantity(outputs: tuple[Array, ...], bounds: OutputRange, quantity: str) -> str:
    """Compare what a network gives with the unit that its spec says.

    Args:
        outputs: Its answers to slabs.
        bounds: What its last operators permit.
        quantity: ``probability`` or ``logit``.

    Returns:
        What a user should know, when nothing proves the unit wrong and nothing proves it right; else empty.

    Raises:
        InputError: When it is another unit.
    """
    low, high = min(float(output.min()) for output in outputs), max(float(output.max()) for output in outputs)
    seen, end = f"{low:.3g} to {high:.3g}", f"it ends in {bounds.operator}"
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ConversionError(STAGE, "the network gives NaN or infinity", hint="are these its trained weights?")
    if quantity == "probability":
        if low < -ROUNDING or high > 1 + ROUNDING:
            problem = f"the network gives {seen}, which are no probabilities ({end})"
            raise InputError(problem, field=FIELD, hint=_way_out(bounds))
        if not bounds.within(0, 1):
            return f"{FIELD}: the outputs, {seen}, are taken for probabilities, though {end}"
        narrow = bounds.low >= 0.5 or bounds.high <= 0.5
        told = f"no output can leave {bounds.low:.3g} to {bounds.high:.3g}; is a sigmoid applied twice?"
        return f"{FIELD}: {told}" if narrow else ""
    if bounds.within(0, 1):
        problem = f"the network gives probabilities ({end}), so no value is below the logit 0"
        raise InputError(problem, field=FIELD, hint='say quantity = "probability" in the spec')
    if bounds.low >= 0 or bounds.high <= 0 or bounds.within(-1, 1):
        problem = f"the network gives {seen}, which are no logits ({end})"
        raise InputError(problem, field=FIELD, hint=_way_out(bounds))
    return f"{FIELD}: all outputs are {seen}; are these logits?" if low >= 0 and high <= 1 else ""


def _way_out(bounds: OutputRange) -> str:
    if bounds.low == -np.inf and bounds.high == np.inf:
        return 'say quantity = "logit" in the spec, if these are logits'
    if bounds.high <= 0:
        return "these look like logarithms of probabilities: let the network end in a sigmoid, or in what comes before"
    return "let the network end in a sigmoid (probability), or in its last convolution (logit)"


def _answers(record: ConversionRecord, slabs: Sequence[Array]) -> Iterator[Array]:
    """To every slab; the first is asked again behind another one, and often when the network draws random numbers."""
    state = _random_state()
    first = record.reference(slabs[0])
    again = REPEATS if _random_state() != state else 1
    record.reference(np.ascontiguousarray(slabs[0][..., ::-1]))
    spread = float(first.std()) or float(np.abs(first).max()) or 1.0
    for _ in range(again):
        second = record.reference(slabs[0])
        if first.shape != second.shape or not float(np.abs(second - first).max()) <= SAME * spread:
            raise ConversionError(STAGE, NOT_REPEATABLE, hint=REPEATABLE_HINT)
    yield first
    yield from (record.reference(slab) for slab in slabs[1:])


def _random_state() -> tuple[bytes, str, object]:
    """What the next random number of torch, numpy and Python hangs on."""
    return torch.get_rng_state().numpy().tobytes(), str(np.random.get_state()), random.getstate()
