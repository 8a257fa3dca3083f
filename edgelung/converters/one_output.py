"""The one map that is taken of what a network gives: a tensor, or one in a list, a dict or a record.

Networks with deep supervision give several maps, and many give their one map in a dict. The choice becomes a part of
the network, by a class of its own that keeps its layers, their names and so the keys of its state_dict.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgelung.converters.spec_file import NetworkSpec
from edgelung.errors import ConversionError, InputError

__all__ = ["OPTION", "every_map", "settle_output"]

OPTION = "output-key"
STAGE = "read"
_SHAPE_HINT = "let it give (1, outputs, height, width) with a channel for each answered slice, or correct the spec"

_Step = tuple[bool, Any]  # whether it is an attribute, and its name or key


def settle_output(model: nn.Module, spec: NetworkSpec, key: str = "") -> str:
    """Run a network once, and let it give one float32 tensor in the shape of its spec from there on; in place.

    Args:
        model: In eval mode.
        spec: Its input and output.
        key: Which of several maps: a key, an index or the name of a field, dotted where they are nested; or empty.

    Returns:
        What was chosen, in words; empty when the network gives a tensor.

    Raises:
        ConversionError: When the network does not run on the spec's input, or gives no tensor.
        InputError: When it gives several maps and ``key`` names none of them, or a map that is not the spec's.
    """
    output = _run(model, spec)
    maps = dict(_maps(output))
    listed = ", ".join(f"{'.'.join(_name(step) for step in path)} {tuple(found.shape)}" for path, found in maps.items())
    kind = type(output).__name__
    if isinstance(output, Tensor):
        if key:
            raise InputError(
                f"the network gives one map, so {key!r} chooses nothing", field=OPTION, hint="leave it out"
            )
        _check(output, spec)
        return ""
    if not maps:
        raise ConversionError(STAGE, f"the network gives a {kind} without a tensor", hint="let it return its map")
    named = {".".join(_name(step) for step in path): path for path in maps}
    if not key and len(maps) > 1:
        problem = f"the network gives a {kind} of {len(maps)} maps: {listed}"
        raise InputError(problem, hint=f"choose one with --{OPTION} {next(iter(named))}, say")
    if key and key not in named:
        raise InputError(f"the network gives no {key!r}", field=OPTION, hint=f"it gives {listed}")
    name = key or next(iter(named))
    _check(maps[named[name]], spec)
    _give_only(model, named[name])
    return f"takes {name} of the {kind} of {len(maps)} that the network gives"


class _OneMap:
    """Mixed into the class of a network."""

    _path_of_map: tuple[_Step, ...]

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """The one map."""
        value = super().forward(*inputs, **options)  # type: ignore[misc]
        for is_attribute, key in self._path_of_map:
            value = getattr(value, key) if is_attribute else value[key]
        return value


def every_map(model: nn.Module, value: Tensor) -> Any:
    """All that a network gives, the maps included that were not chosen: layers that only they read are layers too."""
    return super(_OneMap, model).forward(value) if isinstance(model, _OneMap) else model(value)  # type: ignore[misc]


def _give_only(model: nn.Module, path: tuple[_Step, ...]) -> None:
    kind = type(model)
    own = types.new_class(kind.__name__, (_OneMap, kind), exec_body=lambda body: body.update(_path_of_map=path))
    own.__module__, own.__qualname__ = kind.__module__, kind.__qualname__
    try:
        model.__class__ = own
    except TypeError as error:  # TorchScript, say, whose objects are not Python's
        hint = "return the one map from its forward"
        raise ConversionError(STAGE, f"no map can be chosen of a {kind.__name__}", hint=hint) from error


def _run(model: nn.Module, spec: NetworkSpec) -> Any:
    rule, shape = spec.input.intensity, spec.input.tensor.shape
    share = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    hu = rule.clip_hu[0] + (rule.clip_hu[1] - rule.clip_hu[0]) * share
    try:
        with torch.no_grad():
            return model(hu * rule.scale + rule.offset)
    except Exception as error:  # whatever the user's forward raises
        line = (str(error).splitlines() or [""])[0]
        reason = f"the network does not run on the spec's input {shape}: {type(error).__name__}: {line}"
        raise ConversionError(STAGE, reason, hint="it is called with one float32 tensor of that shape") from error


def _maps(value: Any, path: tuple[_Step, ...] = ()) -> list[tuple[tuple[_Step, ...], Tensor]]:
    """Every tensor in what a network gives, and the way to it."""
    if isinstance(value, Tensor):
        return [(path, value)]
    if isinstance(value, Mapping):
        steps: list[tuple[_Step, Any]] = [((False, key), part) for key, part in value.items()]
    elif hasattr(value, "_fields"):
        steps = [((True, name), getattr(value, name)) for name in value._fields]
    elif isinstance(value, (list, tuple)):
        steps = [((False, index), part) for index, part in enumerate(value)]
    elif dataclasses.is_dataclass(value):
        steps = [((True, field.name), getattr(value, field.name)) for field in dataclasses.fields(value)]
    else:
        return []
    return [found for step, part in steps for found in _maps(part, (*path, step))]


def _name(step: _Step) -> str:
    return str(step[1])


def _check(output: Tensor, spec: NetworkSpec) -> None:
    wanted = spec.output.tensor
    if output.dtype != torch.float32:
        dtype = str(output.dtype).removeprefix("torch.")
        real = "let it end in a real map" if output.is_complex() else "let its forward end in .float()"
        raise InputError(f"the network gives {dtype}, in the spec {wanted.dtype}", field="output.tensor", hint=real)
    if tuple(output.shape) != wanted.shape:
        problem = f"the network gives the shape {tuple(output.shape)}, in the spec {wanted.shape}"
        raise InputError(problem, field="output.tensor.shape", hint=_SHAPE_HINT)
