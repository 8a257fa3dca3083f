"""The original as teacher: its logits, their size, and how large a crop it has to see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn

from edgelung.converters.passes.graph import trace
from edgelung.converters.passes.split_sigmoid import cut_sigmoid, ends_in_sigmoid
from edgelung.errors import ConversionError

__all__ = ["Teacher", "find_teacher", "to_logits"]

CROP_PX = 192
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


def to_logits(model: nn.Module, quantity: str) -> fx.GraphModule:
    """A traced copy of a network that gives logits.

    Raises:
        ConversionError: When it gives probabilities that are no sigmoid's.
    """
    network = trace(model, STAGE, "convert it without --prune and --qat")
    if quantity == "logit":
        return network
    if not ends_in_sigmoid(network):
        hint = 'let it end in a sigmoid, or give logits and say quantity = "logit" in its spec'
        raise ConversionError(STAGE, "the network gives probabilities, but does not end in a sigmoid", hint=hint)
    cut_sigmoid(network)
    return network


def find_teacher(model: nn.Module, quantity: str, example: npt.NDArray[np.float32]) -> Teacher:
    """Measure a network on an input.

    Args:
        model: The original.
        quantity: What it gives, ``probability`` or ``logit``.
        example: (1, slices, height, width) float32, as the network eats it.

    Raises:
        ConversionError: When it cannot be followed, or gives the same everywhere.
    """
    # Channels last: the published U-Net answers in 0.6 of the time on a CPU.
    network = to_logits(model, quantity).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    whole = torch.from_numpy(example)
    height, width = example.shape[-2:]
    rows, columns = (_middle(size) for size in (height, width))
    with torch.inference_mode():
        expected: Tensor = network(whole)
        found: Tensor = network(whole[..., rows, columns].contiguous())
    spread = float(expected.std())
    if not spread > 0:
        raise ConversionError(STAGE, "the original gives the same everywhere, so there is nothing to learn from it")
    off = (found - expected[..., rows, columns]).abs().amax((0, 1)) > MARGIN_TOLERANCE * spread
    margin = max((_depth(off, axis, size) for axis, size in ((0, height), (1, width))), default=0)
    crop = (rows.stop - rows.start, columns.stop - columns.start)
    if 4 * margin >= min(crop):  # most of a crop is answered otherwise than in its slice: whole slices then
        crop = (height, width)
    temperature = max(float(expected.square().mean().sqrt()) / SOFTNESS, 1.0)
    return Teacher(network, temperature, crop)


def _middle(size: int) -> slice:
    start = max(size - CROP_PX, 0) // 2 // 32 * 32
    return slice(start, start + min(size, CROP_PX))


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
