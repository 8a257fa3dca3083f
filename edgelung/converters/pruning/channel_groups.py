"""Which channels of a network can only go together, found with torch-pruning's dependency graph.

The graph is a trace by autograd. It knows layers, concatenation, splitting and reshaping, and takes every other
operator for one that works on each channel alone. Whether that was right is not believed but proven, by :mod:`proof`.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from edgelung.converters.one_output import every_map
from edgelung.errors import ConversionError

__all__ = ["ONE_CHANNEL", "STAGE", "ChannelGraph", "ChannelGroup", "Consumer", "Layer", "is_transposed"]

STAGE = "prune"
ONE_CHANNEL = "has one channel"
Layer = Any  # a convolution or linear layer: torch types what such a layer holds as Tensor or Module
_FOLLOWED = (_ConvNd, nn.Linear, _BatchNorm, nn.PReLU)
_RESHAPES_WEIGHTS = (nn.PReLU, _InstanceNorm)


@dataclass(frozen=True)
class Consumer:
    """A convolution or linear layer that reads the channels of a group.

    Attributes:
        name: Of the layer.
        inputs: Which of its input channels these are.
        roots: For each of them, which channel of the group it is.
    """

    name: str
    inputs: tuple[int, ...]
    roots: tuple[int, ...]

    def reads(self, dropped: Sequence[int]) -> list[int]:
        """Its input channels that belong to the given channels of the group."""
        wanted = set(dropped)
        return [index for index, root in zip(self.inputs, self.roots, strict=True) if root in wanted]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can only go together, in every layer that makes, normalises or reads them.

    Attributes:
        name: The first layer, in the order of the network's modules, that makes them.
        channels: How many there are.
        members: All layers that make or normalise them, ``name`` among them.
        consumers: The layers that read them.
        operators: What is not a layer on their way, in autograd's words.
        obstacle: Why they cannot go; empty when nothing speaks against it.
    """

    name: str
    channels: int
    members: tuple[str, ...]
    consumers: tuple[Consumer, ...]
    operators: tuple[str, ...]
    obstacle: str


class ChannelGraph:
    """The channel groups of one network, and the means to cut them out of it.

    Args:
        model: In eval mode, with gradients on all its weights. :meth:`cut` changes it in place.
        example: (N, C, height, width), or whatever the network eats, in its dtype.

    Raises:
        ConversionError: When the network does not run on the example or cannot be traced.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self._model = model
        self._names = {module: name for name, module in model.named_modules()}
        self._calls: Counter[nn.Module] = Counter()
        self._graph = self._trace(example)
        self.groups = tuple(self._find_groups())

    def score(self, group: ChannelGroup, importance: Callable[[Any], Tensor | None]) -> Tensor | None:
        """(channels,) float64 scores of a group by one of torch-pruning's importances; None where it has no opinion."""
        scores = importance(self._pruning_group(group.name, range(group.channels)))
        return None if scores is None else scores.detach().double()

    def input_energy(self, name: str) -> Tensor:
        """(in_channels,) float64 sums of a layer's squared weights, by the input channel that they read."""
        layer: Layer = self._model.get_submodule(name)
        weight: Tensor = layer.weight.detach().double()
        return weight.movedim(0 if is_transposed(layer) else 1, 0).flatten(1).square().sum(dim=1)

    def sole_batchnorm(self, name: str) -> _BatchNorm | None:
        """The BatchNorm with running statistics that alone reads a layer's output; None where there is no such one."""
        outputs = self._graph.module2node[self._model.get_submodule(name)].outputs
        norm = outputs[0].module if len(outputs) == 1 else None
        return norm if isinstance(norm, _BatchNorm) and norm.running_mean is not None else None

    def cut(self, dropped: Mapping[str, Sequence[int]]) -> None:
        """Take channels out of the network.

        Args:
            dropped: By the name of the group, which of its channels; some of each group have to stay.
        """
        for name, indices in dropped.items():
            if indices:
                self._pruning_group(name, indices).prune()

    def _trace(self, example: Tensor) -> Any:
        learning = [parameter for parameter in _of_no_channel(self._model) if parameter.requires_grad]
        in_place = [module for module in self._model.modules() if getattr(module, "inplace", False) is True]
        hooks = [module.register_forward_hook(self._count) for module in self._model.modules()]
        try:
            for parameter in learning:
                parameter.requires_grad_(False)
            for module in in_place:  # on a view, as InstanceNorm gives one, it hides the layer from the trace
                module.inplace = False  # type: ignore[assignment]
            with warnings.catch_warnings(), torch.enable_grad():
                warnings.simplefilter("ignore")  # what it could not follow is found out by the proof
                return torch_pruning.DependencyGraph().build_dependency(
                    self._model, example, forward_fn=every_map, verbose=False
                )
        except Exception as error:  # whatever torch-pruning raises: the network itself runs
            reason = f"its channels cannot be followed through the network ({_first_line(error)} in torch-pruning)"
            raise ConversionError(STAGE, reason, hint="convert it without --prune") from error
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)
            for module in in_place:
                module.inplace = True  # type: ignore[assignment]
            for hook in hooks:
                hook.remove()

    def _count(self, module: nn.Module, _inputs: object, _output: object) -> None:
        self._calls[module] += 1

    def _pruning_group(self, name: str, indices: Sequence[int]) -> Any:
        module = self._model.get_submodule(name)
        function = self._graph.get_pruner_of_module(module).prune_out_channels
        return self._graph.get_pruning_group(module, function, list(indices))

    def _find_groups(self) -> list[ChannelGroup]:
        found: list[ChannelGroup] = []
        seen: set[str] = set()
        for name, module in self._model.named_modules():
            if isinstance(module, (_ConvNd, nn.Linear)) and module in self._graph.module2node and name not in seen:
                group = self._describe(name, module)
                seen.update(group.members)
                found.append(group)
        return found

    def _describe(self, name: str, module: Layer) -> ChannelGroup:
        channels = int(module.out_features if isinstance(module, nn.Linear) else module.out_channels)
        members: list[str] = []
        consumers: list[Consumer] = []
        operators: list[str] = []
        obstacles: list[str] = []
        items = self._pruning_group(name, range(channels))
        for item in items:
            layer, function = item.dep.target.module, item.dep.handler
            if layer not in self._names:
                operators.append(_operator_name(item.dep.target))
                continue
            label = self._names[layer]
            obstacles.extend([f"{label} {text}"] if (text := self._obstacle(layer)) else [])
            if self._graph.is_out_channel_pruning_fn(function):
                members.append(label)
            else:
                consumers.append(Consumer(label, tuple(item.idxs), tuple(item.root_idxs)))
        return ChannelGroup(
            name,
            channels,
            tuple(dict.fromkeys(members)),
            tuple(consumers),
            tuple(dict.fromkeys(operators)),
            "; ".join(dict.fromkeys(obstacles)) or (ONE_CHANNEL if channels < 2 else ""),
        )

    def _obstacle(self, layer: nn.Module) -> str:
        if not isinstance(layer, _FOLLOWED):
            kind = type(layer).__name__
            return f"is {'an' if kind[0] in 'AEIOU' else 'a'} {kind}, whose channels are not cut"
        if self._calls[layer] > 1:
            return "is called more than once"
        if isinstance(layer, _ConvNd) and layer.groups > 1:
            depthwise = layer.groups == layer.in_channels == layer.out_channels
            return "" if depthwise else f"is a convolution with {layer.groups} groups"
        return ""


def _of_no_channel(model: nn.Module) -> list[nn.Parameter]:
    """Parameters that a trace takes for a branch of its own: those of layers that reshape them, and single numbers.

    Without a gradient they are none. Of a node with several branches the graph believes the last one when it looks for
    a width, and such a one has none.
    """
    return [
        parameter
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
        if isinstance(module, _RESHAPES_WEIGHTS) or (parameter.numel() == 1 and not isinstance(module, _FOLLOWED))
    ]


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def is_transposed(layer: nn.Module) -> bool:
    """Whether a layer is a transposed convolution, whose weight is (in, out, ...) instead of (out, in, ...)."""
    return isinstance(layer, _ConvNd) and layer.transposed


def _operator_name(node: Any) -> str:
    """As a reader of the network would call it: ``MeanBackward1`` is ``Mean``."""
    function = getattr(node.grad_fn, "name", None)
    name: str = (function() if function else type(node.module).__name__).split("Backward")[0]
    return "a change in place" if name.endswith("CopySlices") else name
