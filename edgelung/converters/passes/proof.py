"""How far a restructured network is from the original, and where in the plane."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgelung.converters.passes.graph import STAGE
from edgelung.errors import ConversionError, InputError

__all__ = ["Difference", "FLOAT64_LIMIT", "measure_difference"]

_PROBE_HINT = "it must run in float64 too, on a probe in the shape of its input: x.new_zeros(...), not torch.zeros(...)"
FLOAT64_LIMIT = 1e-9  # relative; rounding alone gave up to 5e-15 with 299 random networks (docs/restructuring.md)


@dataclass(frozen=True)
class Difference:
    """A candidate's output against a reference's, over the whole plane, borders included.

    Attributes:
        max_abs: Largest absolute difference, in the unit of the output; infinite when an output is not finite.
        relative: ``max_abs`` over the largest absolute value of the reference.
        pixels: Values compared.
        wrong_pixels: Values that differ by more than ``limit`` times that largest absolute value.
        ring_px: They all lie within so many pixels of the border; 0 when there are none.
        reaches_px: The plane's half width: a ring of this size would be the whole plane.
        limit: The relative difference above which a value counts as wrong.
    """

    max_abs: float
    relative: float
    pixels: int
    wrong_pixels: int
    ring_px: int
    reaches_px: int
    limit: float

    @property
    def leaves_interior(self) -> bool:
        """Whether there are pixels beyond the ring, all of them right."""
        return self.ring_px < self.reaches_px


def measure_difference(
    reference: nn.Module,
    candidate: nn.Module,
    probe: Tensor,
    *,
    dtype: torch.dtype = torch.float64,
    limit: float = FLOAT64_LIMIT,
) -> Difference:
    """Run two networks on the same input and compare.

    Args:
        reference: Always run in float64.
        candidate: Run in ``dtype``.
        probe: (N, C, height, width) input in the unit of the network, of any float dtype. Values that fill the
            network's range prove most.
        dtype: What the candidate computes in; its weights are rounded to it.
        limit: Relative difference above which a pixel counts as wrong.

    Raises:
        InputError: If the probe does not suit the network, or the reference's output is the same everywhere.
        ConversionError: If the outputs differ in shape.
    """
    expected = _run(reference, probe, torch.float64)
    found = _run(candidate, probe, dtype).double()
    if expected.shape != found.shape or expected.ndim != 4:
        reason = f"the outputs have the shapes {tuple(found.shape)} and {tuple(expected.shape)}"
        raise ConversionError(STAGE, reason, hint="restructuring is for networks that give one map per slice")
    largest = float(expected.abs().max())
    if not math.isfinite(largest) or float(expected.std()) <= limit * largest:
        raise InputError("the network gives the same everywhere on the probe, which proves nothing", hint="vary it")
    error = (found - expected).abs().nan_to_num(nan=math.inf, posinf=math.inf)
    wrong = (error > limit * largest).any(dim=0).any(dim=0)
    height, width = wrong.shape
    rows, columns = torch.arange(height), torch.arange(width)
    from_edge = torch.minimum(
        torch.minimum(rows, height - 1 - rows)[:, None], torch.minimum(columns, width - 1 - columns)[None, :]
    )
    return Difference(
        max_abs=float(error.max()),
        relative=float(error.max()) / largest,
        pixels=error.numel(),
        wrong_pixels=int((error > limit * largest).sum()),
        ring_px=int(from_edge[wrong].max()) + 1 if bool(wrong.any()) else 0,
        reaches_px=(min(height, width) + 1) // 2,
        limit=limit,
    )


def _run(model: nn.Module, probe: Tensor, dtype: torch.dtype) -> Tensor:
    still = copy.deepcopy(model).to("cpu", dtype).eval()
    try:
        with torch.inference_mode():
            output = still(probe.to("cpu", dtype, copy=True))
    except (RuntimeError, TypeError, ValueError) as error:
        text = (str(error).splitlines() or [""])[0]
        problem = f"the network cannot run on a probe of shape {tuple(probe.shape)}: {text}"
        raise InputError(problem, hint=_PROBE_HINT) from error
    if not isinstance(output, Tensor):
        raise ConversionError(STAGE, f"the network gives a {type(output).__name__}, not one tensor")
    return output
