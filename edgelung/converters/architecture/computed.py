"""Weights that a network computes from others: weight_norm, spectral_norm, pruning masks and any parametrization.

Everything after loading changes weights, so each computed weight becomes an ordinary one with the value it has in eval
mode. T. Salimans, D. Kingma, Weight normalization, 2016; T. Miyato et al., Spectral normalization, 2018.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.prune import BasePruningMethod, PruningContainer
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._pytree import tree_leaves

from edgelung.errors import InputError

__all__ = ["ComputedWeight", "bake", "find_computed"]

SAME: Final = 1e-4  # of the spread of the outputs: float32 sums the same products in another order
_HINT: Final = "give the network and the weights without it, as its remove_... function leaves them"
# The keys of the old and of the new form of one thing, behind the layer's name and with the weight's in {}.
_TWINS: Final = (
    ("{}_g", "parametrizations.{}.original0"),
    ("{}_v", "parametrizations.{}.original1"),
    ("{}_orig", "parametrizations.{}.original"),
    ("{}_u", "parametrizations.{}.0._u"),
    ("{}_v", "parametrizations.{}.0._v"),
)
_NAMES: Final = {
    "_WeightNorm": "weight_norm",
    "_SpectralNorm": "spectral_norm",
    "_Orthogonal": "orthogonal",
    "WeightNorm": "weight_norm",
    "SpectralNorm": "spectral_norm",
}
_OLD_HOOKS: Final = (WeightNorm, SpectralNorm, BasePruningMethod)


@dataclass(frozen=True, eq=False)
class ComputedWeight:
    """A weight that is computed from tensors of the state_dict.

    Attributes:
        layer: Name of the layer.
        weight: Its attribute, ``weight`` as a rule.
        maker: What computes it, in words.
        keys: Of the tensors in the state_dict that it is computed from.
        twins: The same by their keys in the other form that torch has for it.
        hook: The hook that computes it; None for a parametrization.
    """

    layer: str
    weight: str
    maker: str
    keys: tuple[str, ...]
    twins: Mapping[str, str] = field(default_factory=dict)
    hook: Any = None

    @property
    def baked(self) -> str:
        """Key of the weight as an ordinary one."""
        return f"{self.layer}.{self.weight}".lstrip(".")


def find_computed(model: nn.Module) -> tuple[ComputedWeight, ...]:
    """All computed weights of a network, in the order of its modules."""
    found: list[ComputedWeight] = []
    for name, layer in model.named_modules():
        if isinstance(layer, parametrize.ParametrizationList):
            continue
        if parametrize.is_parametrized(layer):
            for weight, steps in layer.parametrizations.items():
                makers = " and ".join(_NAMES.get(type(step).__name__, type(step).__name__) for step in steps)
                keys = [key for key in layer.state_dict() if key.startswith(f"parametrizations.{weight}.")]
                found.append(_describe(name, weight, makers, keys))
        for hook in layer._forward_pre_hooks.values():
            if isinstance(hook, _OLD_HOOKS):
                weight = str(getattr(hook, "name", None) or getattr(hook, "_tensor_name", ""))
                keys = [key for key in layer.state_dict() if key in {f"{weight}{end}" for end in _ends(hook)}]
                found.append(_describe(name, weight, _maker(hook), keys, hook))
    return tuple(found)


def bake(model: nn.Module, computed: tuple[ComputedWeight, ...], example: Tensor | None = None) -> None:
    """Make computed weights ordinary ones; changed in place, in eval mode.

    Args:
        model: The network.
        computed: What :func:`find_computed` found in it.
        example: An input on which the outputs before and after are compared; None compares nothing (the weights are
            not there yet).

    Raises:
        InputError: When a weight cannot be taken out of what computes it, or the network answers differently after it.
    """
    model.eval()
    before = _answers(model, example)
    for one in computed:
        layer = model.get_submodule(one.layer)
        try:
            _bake(layer, one)
        except Exception as error:  # a parametrization of the user's may raise anything
            told = (str(error).strip().splitlines() or [""])[0][:200]
            problem = (
                f"{one.baked} is computed by {one.maker} and cannot be taken out of it: {type(error).__name__}: {told}"
            )
            raise InputError(problem, field="--arch", hint=_HINT) from error
    after = _answers(model, example)
    for first, second in zip(before, after, strict=True):
        off = float((second - first).abs().max())
        spread = float(first.std(correction=0))
        if not off <= SAME * max(spread, float(first.abs().max())):
            names = ", ".join(f"{one.baked} ({one.maker})" for one in computed)
            problem = (
                f"the network is another one when its computed weights are made ordinary: {names}; off by {off:.3g}"
            )
            raise InputError(problem, field="--arch", hint=_HINT)


def _bake(layer: nn.Module, one: ComputedWeight) -> None:
    hook = one.hook
    if hook is None:
        with torch.no_grad():
            parametrize.remove_parametrizations(layer, one.weight, leave_parametrized=True)
    elif isinstance(hook, BasePruningMethod):
        prune.remove(layer, one.weight)  # type: ignore[no-untyped-call]
    elif isinstance(hook, SpectralNorm):
        nn.utils.remove_spectral_norm(layer, one.weight)
        _remove_loading_hook(layer, hook)  # torch leaves it, because it stores it wrapped
    else:
        nn.utils.remove_weight_norm(layer, one.weight)


def _remove_loading_hook(layer: nn.Module, hook: SpectralNorm) -> None:
    hooks = layer._load_state_dict_pre_hooks
    for key, found in list(hooks.items()):
        inner = getattr(found, "hook", found)
        if isinstance(inner, SpectralNormLoadStateDictPreHook) and inner.fn is hook:
            del hooks[key]


def _answers(model: nn.Module, example: Tensor | None) -> list[Tensor]:
    if example is None:
        return []
    with torch.no_grad():
        return [leaf.double() for leaf in tree_leaves(model(example)) if isinstance(leaf, Tensor) and leaf.numel()]


def _describe(layer: str, weight: str, maker: str, keys: list[str], hook: Any = None) -> ComputedWeight:
    start = f"{layer}." if layer else ""
    pairs = [(old.format(weight), new.format(weight)) for old, new in _TWINS]
    # weight_norm and spectral_norm both call something weight_v
    pairs = (
        pairs[:2] if any(key in keys for key in (f"{weight}_g", f"parametrizations.{weight}.original0")) else pairs[2:]
    )
    names = dict(pairs) | {new: old for old, new in pairs}
    twins = {start + key: start + names[key] for key in keys if key in names}
    return ComputedWeight(layer, weight, maker, tuple(start + key for key in keys), twins, hook)


def _ends(hook: Any) -> tuple[str, ...]:
    if isinstance(hook, WeightNorm):
        return ("_g", "_v")
    return ("_orig", "_u", "_v") if isinstance(hook, SpectralNorm) else ("_orig", "_mask")


def _maker(hook: Any) -> str:
    if isinstance(hook, PruningContainer):
        return "pruning masks"
    return _NAMES.get(type(hook).__name__, f"the pruning mask of {type(hook).__name__}")
