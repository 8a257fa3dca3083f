"""Weights put into a network, all or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from edgelung.converters.checkpoint.naming import missing_keys
from edgelung.converters.checkpoint.wording import SAVE_HINT, first_few, one_line, shown
from edgelung.errors import InputError

__all__ = ["apply_state"]

_OTHER: Final = "the weights are of another network, or of one with other widths"
# Endings of keys that are left out of a network without the same computed weights: what computes them.
_COMPUTED: Final = (
    (("weight_g", "weight.original0"), "weight_norm"),
    (("weight_u", "weight.0._u"), "spectral_norm"),
    (("weight_mask",), "torch.nn.utils.prune"),
)


def apply_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Put weights into a network, all or nothing.

    Args:
        model: Changed in place. Its dtype and device stay.
        state: One tensor for each of its parameters and buffers; only BatchNorm's batch counters may be absent.
        source: Where the weights came from, for messages.

    Raises:
        InputError: Naming the first keys that differ in shape, are missing, or belong to no layer; or the first tensor
            whose type cannot be that of the layer.
    """
    own = model.state_dict()
    differing = [
        f"{shown(key)} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and not _is_counter(key) and state[key].shape != own[key].shape
    ]
    unexpected = [key for key in state if key not in own]
    found = (
        ("wrong shape", differing),
        ("missing", missing_keys(own, state)),
        ("belonging to no layer", unexpected),
    )
    problems = [f"{what}: {first_few(keys)}" for what, keys in found if keys]
    if problems:
        problem = f"the weights do not fit {type(model).__name__}; {'; '.join(problems)}"
        raise InputError(problem, source=source, hint=_computed_hint(unexpected) or _OTHER)
    for key, tensor in state.items():
        _check_type(key, tensor, own[key], source)
    counters = {key: own[key] for key in own if key not in state}
    try:
        model.load_state_dict({**counters, **state}, strict=True)
    except (RuntimeError, TypeError, ValueError) as error:
        problem = f"the weights cannot be applied: {one_line(' '.join(str(error).split()))}"
        raise InputError(problem, source=source, hint=SAVE_HINT) from error


def _is_counter(key: str) -> bool:
    return not missing_keys((key,), ())


def _check_type(key: str, tensor: Tensor, own: Tensor, source: str) -> None:
    """Refuse a type from which the layer's cannot be made without changing values, but for the width of floats."""
    if own.is_floating_point():
        if not tensor.is_floating_point():
            problem = f"is {_name(tensor.dtype)} where the network has {_name(own.dtype)}"
            hint = "give the float weights, from before quantisation"
            raise InputError(problem, source=source, field=shown(key), hint=hint)
    elif not torch.equal(tensor.to(own.dtype).to(tensor.dtype), tensor):
        problem = f"is {_name(tensor.dtype)} with values that {_name(own.dtype)}, which the network has, cannot hold"
        raise InputError(problem, source=source, field=shown(key), hint=_OTHER)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _computed_hint(unexpected: list[str]) -> str:
    makers = [maker for endings, maker in _COMPUTED if any(key.endswith(endings) for key in unexpected)]
    if any("parametrizations." in key for key in unexpected):
        makers.append("a parametrization")
    if makers:
        return f"some of its weights are computed by {makers[0]}; the factory has to use it as the training did"
    return ""
