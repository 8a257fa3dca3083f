"""A network of one's own: its factory and the weights of a checkpoint, brought together in plain layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgelung.converters.architecture import (
    ComputedWeight,
    bake,
    copy_network,
    find_computed,
    materialize,
    to_plain,
)
from edgelung.converters.checkpoint import LoadedState, MatchedState, apply_state, match_keys
from edgelung.converters.checkpoint.wording import shown
from edgelung.converters.pruning import shrink_to_state
from edgelung.spec import NetworkInput

__all__ = ["build_own_network", "describe_weights"]

_GIVEN, _TWIN, _BAKED = range(
    3
)  # forms of a state_dict: as the network has it, in torch's other form, computed already


def build_own_network(
    factory: Callable[[], nn.Module], loaded: LoadedState, spec: NetworkInput
) -> tuple[nn.Module, tuple[str, ...]]:
    """Build the network, bring the weights to its names, load them, and make computed weights ordinary ones.

    Args:
        factory: Gives a fresh network; see ``load_factory``.
        loaded: Its weights, or those of its pruned form: then the network is made as narrow as they are.
        spec: Of its input, on which lazy layers get their shapes and computed weights are proven.

    Returns:
        The network, in eval mode, in float32, on the CPU; and in words what was done to network and weights.

    Raises:
        InputError: When network and weights do not belong together, or cannot be brought to plain layers.
    """
    model, changes = to_plain(factory())
    if materialize(model, spec.tensor.shape):
        changes = (*changes, "lazy layers got their shapes from the spec's input")
    computed = find_computed(model)
    forms = _forms(list(model.state_dict()), computed)
    matched = match_keys(loaded, *forms)
    changes = (*changes, *describe_weights(loaded, matched))
    state = matched.state
    if matched.form == _TWIN:
        back = dict(zip(forms[_TWIN], forms[_GIVEN], strict=True))
        state = {back.get(key, key): value for key, value in state.items()}
    if matched.form == _BAKED:
        bake(model, computed)
        computed = ()
    if not computed and _is_narrower(model, state):
        return shrink_to_state(copy_network(model), state, loaded.source), changes
    apply_state(model, state, loaded.source)
    if computed:
        bake(model, computed, _example(spec))
        makers = ", ".join(dict.fromkeys(one.maker for one in computed))
        changes = (*changes, f"what {makers} computes made ordinary weights ({len(computed)}), proven equal")
    return copy_network(model), changes


def describe_weights(loaded: LoadedState, matched: MatchedState) -> tuple[str, ...]:
    """In words, which weights were taken and how they were changed to fit the network."""
    floats = {value.dtype for value in matched.state.values() if value.is_floating_point()} - {torch.float32}
    types = [str(dtype).removeprefix("torch.") for dtype in floats]
    words = [f"weights under {shown(loaded.container)}"] if loaded.container else []
    words += matched.changes
    words += [f"{' and '.join(sorted(types))} weights converted to float32"] if types else []
    return tuple(words)


def _forms(given: list[str], computed: tuple[ComputedWeight, ...]) -> tuple[list[str], ...]:
    """The keys of a network in the three ways in which a state_dict may have its computed weights."""
    if not computed:
        return (given,)
    twins = {key: twin for one in computed for key, twin in one.twins.items()}
    inside = {key for one in computed for key in one.keys}
    baked = [*(key for key in given if key not in inside), *(one.baked for one in computed)]
    return given, [twins.get(key, key) for key in given], baked


def _is_narrower(model: nn.Module, state: dict[str, Tensor]) -> bool:
    """Whether weights are of the network's pruned form: of other shapes, or with a bias that it had not."""
    own = model.state_dict()
    if any(key in own and own[key].shape != value.shape for key, value in state.items()):
        return True
    return any(f"{key.removesuffix('bias')}weight" in own and key not in own for key in state)


def _example(spec: NetworkInput) -> Tensor:
    """Random values of the range that the network sees, the same each time."""
    intensity, generator = spec.intensity, torch.Generator().manual_seed(0)
    low, high = (value * intensity.scale + intensity.offset for value in intensity.clip_hu)
    return torch.rand(spec.tensor.shape, generator=generator) * (high - low) + low
