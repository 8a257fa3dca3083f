"""A fresh network brought to the widths of a pruned state_dict, from the shapes alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from edgelung.converters.checkpoint import apply_state
from edgelung.converters.pruning.channel_groups import Layer, is_transposed
from edgelung.errors import InputError

__all__ = ["shrink_to_state"]

_HINT = "give the network that was pruned, as it was before"


def shrink_to_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> nn.Module:
    """A copy of a network with the widths, and the weights, of a state_dict of its pruned form.

    Args:
        model: The network before pruning, of any weights; left as it is. Tensors that its own modules hold are made
            narrower like those of layers.
        state: The pruned network's.
        source: Where it came from, for messages.

    Returns:
        The pruned network, in eval mode, in the dtype of ``model``.

    Raises:
        InputError: Naming a key that is missing or foreign, or whose shape is no narrower form of the layer's.
    """
    work = copy.deepcopy(model)
    for name, layer in work.named_modules():
        key = f"{name}.weight" if name else "weight"
        if isinstance(layer, (_ConvNd, nn.Linear, nn.PReLU)) and key in state:
            _resize_weight(layer, state[key], key, source)
            _resize_bias(layer, state, f"{key.removesuffix('weight')}bias")
        elif isinstance(layer, _NormBase):
            _resize_norm(layer, state, key.removesuffix("weight"))
        elif not isinstance(layer, (nn.GroupNorm, nn.LayerNorm)):  # they would normalize over other groups
            _resize_tensors(layer, state, key.removesuffix("weight"))
    apply_state(work, state, source)
    return work.eval()


def _resize_weight(layer: Layer, found: Tensor, key: str, source: str) -> None:
    own: Tensor = layer.weight
    if not _is_narrower(found, own) or found.shape[2:] != own.shape[2:]:
        problem = f"has the shape {tuple(found.shape)}, which is no narrower {tuple(own.shape)}"
        raise InputError(problem, source=source, field=key, hint=_HINT)
    layer.weight = _empty_like(own, found)
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = found.shape
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = len(found)
    elif isinstance(layer, _ConvNd) and layer.groups > 1 and layer.groups == layer.in_channels == layer.out_channels:
        layer.groups = layer.in_channels = layer.out_channels = found.shape[0]
    elif is_transposed(layer):
        layer.in_channels, layer.out_channels = found.shape[0], found.shape[1] * layer.groups
    else:
        layer.out_channels, layer.in_channels = found.shape[0], found.shape[1] * layer.groups


def _resize_bias(layer: Layer, state: Mapping[str, Tensor], key: str) -> None:
    """A layer may have got a bias that it had not: it holds the means of dropped channels."""
    if not isinstance(layer, nn.PReLU) and key in state:
        layer.bias = _empty_like(layer.weight, state[key])


def _resize_tensors(layer: nn.Module, state: Mapping[str, Tensor], prefix: str) -> None:
    """Parameters and buffers that a module of the user's holds itself, one number a channel, say.

    One that is no narrower than the module's stays, and is refused with all that do not fit.
    """
    for name, own in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
        found = state.get(f"{prefix}{name}")
        if found is None or found.shape == own.shape or not _is_narrower(found, own):
            continue
        if isinstance(own, nn.Parameter):
            layer.register_parameter(name, _empty_like(own, found))
        else:
            layer.register_buffer(name, torch.empty(found.shape, dtype=own.dtype))


def _is_narrower(found: Tensor, own: Tensor) -> bool:
    return found.ndim == own.ndim and all(f <= o for f, o in zip(found.shape, own.shape, strict=True))


def _resize_norm(norm: _NormBase, state: Mapping[str, Tensor], prefix: str) -> None:
    for part in ("weight", "bias", "running_mean", "running_var"):
        own, found = getattr(norm, part), state.get(f"{prefix}{part}")
        if own is None or found is None or found.ndim != 1:
            continue
        if isinstance(own, nn.Parameter):
            setattr(norm, part, _empty_like(own, found))
        else:
            setattr(norm, part, torch.empty(found.shape, dtype=own.dtype))
        norm.num_features = len(found)


def _empty_like(own: Tensor, found: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.empty(found.shape, dtype=own.dtype), requires_grad=own.requires_grad)
