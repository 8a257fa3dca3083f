"""The tensors of a state_dict, one by one: dense, real, finite and few enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from edgelung.converters.checkpoint.quantized import is_observer
from edgelung.converters.checkpoint.wording import SAVE_HINT, shown
from edgelung.errors import InputError

__all__ = ["check_tensors"]

MAX_ELEMENTS: Final = 2**29  # a view can claim more elements than its file has bytes; 2 GiB of float32
_FLOATS: Final = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def check_tensors(
    state: Mapping[Any, Any], container: str, source: str, *, without_observers: bool = False
) -> dict[str, Tensor]:
    """The same tensors, detached.

    Args:
        state: What may be a state_dict.
        container: Where it lies in the checkpoint.
        source: The file, for messages.
        without_observers: What torch.ao's observers hold will not be used, and may be infinite.

    Raises:
        InputError: Naming a value that is no tensor, is not dense and real, is of a float type that needs a scale
            beside it, or is not finite.
    """
    for key, value in state.items():
        if not isinstance(key, str):
            problem = f"the key {shown(key)} is a {type(key).__name__}, not the name of a tensor"
            raise InputError(problem, source=source, field=container, hint=SAVE_HINT)
        if not isinstance(value, Tensor):
            problem = f"{shown(key)!r} is a {type(value).__name__}, not a tensor"
            hint = f"--weights {shown(container)}. takes the network's tensors alone"
            raise InputError(problem, source=source, field=container, hint=hint)
    if sum(tensor.numel() for tensor in state.values()) > MAX_ELEMENTS:
        raise InputError(f"holds more than {MAX_ELEMENTS} values", source=source, hint="that is no network for a board")
    unused = {key for key in state if without_observers and is_observer(key)}
    return {key: tensor if key in unused else _checked(key, tensor, source) for key, tensor in state.items()}


def _checked(key: str, tensor: Tensor, source: str) -> Tensor:
    unusual = tensor.is_floating_point() and tensor.dtype not in _FLOATS
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta or unusual:
        problem = f"is not a dense tensor of real numbers ({tensor.dtype}, {tensor.layout})"
        hint = "give the float weights from before quantisation"
        if tensor.is_meta:
            problem, hint = "was saved without its values (device meta)", SAVE_HINT
        elif tensor.is_complex():
            hint = "a network of complex numbers cannot be converted"
        elif tensor.layout != torch.strided:
            hint = "save it dense: tensor.to_dense()"
        raise InputError(problem, source=source, field=shown(key), hint=hint)
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        hint = "the training diverged; use an earlier checkpoint"
        raise InputError("holds NaN or infinity", source=source, field=shown(key), hint=hint)
    if tensor.dtype == torch.float64 and not torch.isfinite(tensor.float()).all():
        raise InputError("holds values beyond float32", source=source, field=shown(key), hint="scale the network")
    return tensor.detach()
