"""Whether a converted network still is the original.

Two numbers of an :class:`Agreement` have to keep a limit each. The absolute one catches a shift; the relative one is
measured in the spread of the reference, so that an output which is small, scaled, constant or zero cannot pass for
agreement: with r the reference and c the candidate,

    relative_rms = rms(c - r) / std(r)

is at least e for c = (1 + e) r, at least 1 for any constant c, zero included, and about sqrt(2) for c unrelated to r.

What float32 itself costs, measured with both public LUNA16 checkpoints on slices of a real CT: torch 2.13 and
onnxruntime 1.31 differ by up to 9e-5 of a probability at some ten to hundred of 262,144 pixels, where the sigmoid is
steep, and by a relative_rms of 3e-6; against float64 each of the two is off by up to 1.4e-4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import nn

from edgelung.errors import BackendError, ConversionError, InputError, VerificationError

__all__ = [
    "FP32_LIMIT",
    "FP32_RELATIVE_LIMIT",
    "Agreement",
    "compare_outputs",
    "onnx_function",
    "torch_function",
    "verify_onnx",
]

Array = npt.NDArray[np.float32]
FP32_LIMIT = 1e-3  # largest difference: about ten times what the two engines were measured to differ by
FP32_RELATIVE_LIMIT = 1e-4  # relative_rms: about thirty times
MIN_SPREAD = 1e-4  # a thousand times the rounding of a float32 probability; below, little is compared but rounding
SPREAD_HINT = "verify on inputs that the network answers to: a CT or the phantom with a nodule, not an empty one"


@dataclass(frozen=True)
class Agreement:
    """How well a candidate's outputs agree with the reference's, over all values of all outputs.

    Attributes:
        max_abs: Largest absolute difference, in the unit of the output.
        mean_abs: Mean absolute difference.
        relative_rms: Root mean square of the difference over ``spread``.
        spread: Standard deviation of the reference.
        samples: How many outputs were compared.
    """

    max_abs: float
    mean_abs: float
    relative_rms: float
    spread: float
    samples: int

    def require(self, limit: float, relative_limit: float | None = None) -> None:
        """Accept only if both ``max_abs`` and ``relative_rms`` keep their limits.

        Args:
            limit: For ``max_abs``, in the unit of the output.
            relative_limit: For ``relative_rms``; ``limit`` when it is not given.

        Raises:
            VerificationError: Naming the first that is not.
        """
        relative_limit = limit if relative_limit is None else relative_limit
        for metric, measured, most in (
            ("largest difference", self.max_abs, limit),
            ("difference relative to spread", self.relative_rms, relative_limit),
        ):
            if not measured <= most:
                hint = "the converted network computes something else than the original"
                raise VerificationError(metric, measured, most, hint=hint)


def compare_outputs(reference: Sequence[npt.ArrayLike], candidate: Sequence[npt.ArrayLike]) -> Agreement:
    """Compare outputs that belong together pairwise.

    Args:
        reference: Outputs of the original.
        candidate: Outputs of the converted network, one for each of the reference's and in its shape.

    Raises:
        ConversionError: If numbers or shapes of the outputs differ.
        VerificationError: If a value is not finite, or the reference's spread is below 0.0001, which proves nothing.
    """
    ours = [np.asarray(output, dtype=np.float64) for output in reference]
    theirs = [np.asarray(output, dtype=np.float64) for output in candidate]
    if [output.shape for output in ours] != [output.shape for output in theirs]:
        shapes = f"{[output.shape for output in theirs]} instead of {[output.shape for output in ours]}"
        raise ConversionError("verify", f"the outputs have the shapes {shapes}")
    if not sum(output.size for output in ours):
        raise InputError("there are no outputs to compare", hint="give at least one input")
    r = np.concatenate([output.ravel() for output in ours])
    c = np.concatenate([output.ravel() for output in theirs])
    for name, values in (("reference", r), ("converted network", c)):
        broken = int(np.count_nonzero(~np.isfinite(values)))
        if broken:
            raise VerificationError(f"number of NaN or infinite outputs of the {name}", broken, 0)
    spread = float(r.std())
    if spread < MIN_SPREAD:
        raise VerificationError("spread of the reference (at least)", spread, MIN_SPREAD, hint=SPREAD_HINT)
    difference = np.abs(c - r)
    return Agreement(
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        relative_rms=float(np.sqrt(np.mean(difference**2))) / spread,
        spread=spread,
        samples=len(ours),
    )


def verify_onnx(
    reference: nn.Module | Callable[[Array], npt.ArrayLike],
    onnx_path: Path | str,
    inputs: Sequence[Array],
    *,
    limit: float = FP32_LIMIT,
    relative_limit: float = FP32_RELATIVE_LIMIT,
) -> Agreement:
    """Run the original and an ONNX file on the same inputs and require that they agree.

    Args:
        reference: A torch network (run in eval mode on its own device, then left as it was) or any function from
            input to output, such as :func:`onnx_function` of another file.
        onnx_path: The candidate, run by onnxruntime on the CPU.
        inputs: Network inputs, float32 in the compiled shape, on which the reference's output varies.
        limit: For ``max_abs``, in the unit of the output.
        relative_limit: For ``relative_rms``. Both defaults are for a float32 candidate.

    Raises:
        InputError: If there are no inputs.
        BackendError: If onnxruntime cannot open or run the file.
        ConversionError: If the shapes of the outputs differ.
        VerificationError: If the outputs do not agree, or the inputs prove nothing.
    """
    if not inputs:
        raise InputError("there are no inputs to verify with", hint="give at least one")
    expected = _run_torch(reference, inputs) if isinstance(reference, nn.Module) else [reference(x) for x in inputs]
    candidate = onnx_function(onnx_path)
    agreement = compare_outputs(expected, [candidate(x) for x in inputs])
    agreement.require(limit, relative_limit)
    return agreement


def onnx_function(path: Path | str, output: str = "") -> Callable[[Array], Array]:
    """An ONNX file with one input and one output as a function, run by onnxruntime on the CPU.

    Files that are not in a bundle yet are run by this; the runtime runs those that are.

    Args:
        path: The file.
        output: Name of the output that is asked for, where there are several; else empty.

    Raises:
        BackendError: If onnxruntime cannot open the file or it has several inputs or outputs; from the function, if
            a run fails.
    """
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # errors reach us as exceptions
    try:
        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(str(path), settings, providers=providers, enable_fallback=0)
    except Exception as error:  # the engine's errors share no public base class
        raise BackendError("onnxruntime", "open", error) from error
    names = [node.name for node in session.get_inputs()]
    outputs = [node.name for node in session.get_outputs() if output in ("", node.name)]
    if len(names) != 1 or len(outputs) != 1:
        raise BackendError("onnxruntime", "open", f"{len(names)} inputs and {len(outputs)} outputs")

    def run(tensor: Array) -> Array:
        try:
            (found,) = session.run(outputs, {names[0]: tensor})
        except Exception as error:
            raise BackendError("onnxruntime", "run", error) from error
        result: Array = found
        return result

    return run


def torch_function(model: nn.Module) -> Callable[[Array], Array]:
    """A torch network as a function; it is run in eval mode on its own device and left as it was.

    Raises:
        ConversionError: From the function, if the network fails.
    """
    return lambda tensor: _run_torch(model, [tensor])[0]


def _run_torch(model: nn.Module, inputs: Sequence[Array]) -> list[Array]:
    first = next(model.parameters(), None)
    device = "cpu" if first is None else first.device
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            return [model(torch.from_numpy(x.copy()).to(device)).cpu().numpy() for x in inputs]  # it may write into x
    except Exception as error:  # whatever the user's forward raises
        raise ConversionError("verify", f"the original network fails: {type(error).__name__}: {error}") from error
    finally:
        for module, mode in training:
            module.training = mode
