"""The original as teacher: its logits, their size, and how large a crop it has to see."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn

from edgelung.converters.passes.graph import trace
from edgelung.converters.passes.probe import find_probe, middle_of, plane_of
from edgelung.converters.passes.split_sigmoid import cut_sigmoid, ends_in_sigmoid
from edgelung.errors import ConversionError

__all__ = ["Teacher", "find_teacher", "to_logits"]

CROP_PX = 192
ALIGN_PX = 32
MARGIN_TOLERANCE = 0.01  # of the spread of the logits: what a border may change
SOFTNESS = 3.0  # the logits' root mean square is divided down to this, so that a sigmoid of them is not all 0 and 1
STAGE = "retraining"


@dataclass(frozen=True, eq=False)
class Teacher:
    """A network to learn from.

    Attributes:
        network: Gives logits, in eval mode.
        temperature: Logits are divided by this before they are compared (Hinton, Vinyals and Dean, 2015).
        crop: Height and width in pixels of what is trained on.
    """

    network: fx.GraphModule
    temperature: float
    crop: tuple[int, int]

    def answer(self, tensor: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(outputs, height, width) logits to one input of (1, slices, height, width)."""
        with torch.inference_mode():
            logits: npt.NDArray[np.float32] = self.network(torch.from_numpy(tensor))[0].numpy()
        return logits


def to_logits(model: nn.Module, quantity: str, example: Tensor | None = None) -> fx.GraphModule:
    """A traced copy of a network that gives logits, compared with it on an example.

    Raises:
        ConversionError: When it gives probabilities that are no sigmoid's.
    """
    network = trace(model, example, STAGE, "convert it without --prune and --qat")
    if quantity == "logit":
        return network
    if not ends_in_sigmoid(network):
        hint = 'let it end in a sigmoid, or give logits and say quantity = "logit" in its spec'
        raise ConversionError(STAGE, "the network gives probabilities, but does not end in a sigmoid", hint=hint)
    cut_sigmoid(network)
    return network


def find_teacher(
    model: nn.Module, quantity: str, example: npt.NDArray[np.float32], *, align_px: int = ALIGN_PX
) -> Teacher:
    """Measure a network on an input.

    Args:
        model: The original.
        quantity: What it gives, ``probability`` or ``logit``.
        example: (1, slices, height, width) float32, as the network eats it.
        align_px: Total stride of the network: crops are multiples of it.

    Raises:
        ConversionError: When it cannot be followed, or gives the same everywhere.
    """
    whole = torch.from_numpy(example)
    still = copy.deepcopy(model).to("cpu").eval()
    probe = find_probe(still, whole, align_px, CROP_PX)
    # Channels last: the published U-Net answers in 0.6 of the time on a CPU.
    network = to_logits(model, quantity, probe).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.inference_mode():
        expected: Tensor = network(whole)
    spread = float(expected.std())
    if not spread > 0:
        raise ConversionError(STAGE, "the original gives the same everywhere, so there is nothing to learn from it")
    temperature = max(float(expected.square().mean().sqrt()) / SOFTNESS, 1.0)
    return Teacher(network, temperature, _crop(network, whole, expected, align_px))


def _crop(network: fx.GraphModule, whole: Tensor, expected: Tensor, align_px: int) -> tuple[int, int]:
    """Height and width of crops that are answered as in their slice; else those of whole slices."""
    height, width = int(whole.shape[-2]), int(whole.shape[-1])
    crop = plane_of((height, width), align_px, CROP_PX)
    try:
        with torch.inference_mode():
            found: Tensor = network(middle_of(whole, crop, align_px))
    except RuntimeError:  # a learnt map of positions, say
        return height, width
    if tuple(found.shape[-2:]) != crop:
        return height, width
    off = (found - middle_of(expected, crop, align_px)).abs().amax((0, 1)) > MARGIN_TOLERANCE * float(expected.std())
    margin = max(_depth(off, axis, size) for axis, size in ((0, height), (1, width)))
    return (height, width) if 4 * margin >= min(crop) else crop


def _depth(off: Tensor, axis: int, size: int) -> int:
    """How deep a crop is wrong from the borders of one axis that are not the plane's own."""
    if off.shape[axis] == size or not bool(off.any()):
        return 0
    middle = off.shape[1 - axis] // 2
    line = off.movedim(axis, 0)[:, middle - 8 : middle + 8].any(dim=1).nonzero().flatten()
    if not len(line):
        return 0
    length = off.shape[axis]
    return int(torch.minimum(line, length - 1 - line).max()) + 1
