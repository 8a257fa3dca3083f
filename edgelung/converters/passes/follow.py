"""A network's ``forward`` followed once into a graph, and the proof that the graph is the network.

``torch.fx`` runs ``forward`` with stand-ins for tensors and notes what is called. What Python does with names, what
does not go through a tensor, and what stand-ins are taken for is lost to it without a word, so every graph is compared
with the network itself.
"""

from __future__ import annotations

import copy
import inspect
import math
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgelung.converters.passes.in_place import IN_PLACE, LINE, Unfollowed, without_changes
from edgelung.errors import ConversionError, InputError

__all__ = ["LIMIT", "NOT_REPEATABLE", "REPEATABLE_HINT", "follow", "refuse_hidden", "user_line"]

LIMIT = 1e-9  # of the spread of the output, in float64
OWN_LIMIT = 1e-5  # the same for a network that runs in float32 alone
_TORCH = str(Path(torch.__file__).parent)
_HINT = "its forward must not choose by the values or the shape of tensors"
_SCRIPT_HINT = "build it without torch.jit.script and torch.jit.trace"
_OTHER_HINT = "its forward must not ask for the type of what it was given, nor go on after an error (try)"
_IN_PLACE_HINT = "write x = x + ... in place of x += ..."
NOT_REPEATABLE = "the network gives another answer to the same input each time, in eval mode too"
REPEATABLE_HINT = (
    "nothing in it may be random, or remembered from one run to the next, outside of training: "
    "F.dropout(..., training=self.training), say"
)


def follow(model: nn.Module, example: Tensor | None, stage: str, way_out: str) -> fx.GraphModule:
    """A copy of a network as a graph of layers that changes nothing in place, in eval mode.

    The network takes one tensor; all other arguments of its ``forward`` keep their defaults. See ``graph.trace``.
    """
    whole = copy.deepcopy(model).eval()
    refuse_hidden(whole, stage, way_out)
    try:
        graph = _Follower().trace(whole)
        network = fx.GraphModule(whole, graph, type(model).__name__)
        without_changes(network)
    except Unfollowed as reason:
        told = f"the network cannot be followed: {reason}"
        raise ConversionError(stage, told, hint=f"{_IN_PLACE_HINT}; {way_out}") from None
    except Exception as error:  # whatever the user's forward raises when it is handed stand-ins
        told = f"the network cannot be followed: {_first_line(error)}"
        raise ConversionError(stage, told, hint=f"{_HINT}; {way_out}") from error
    network.graph.eliminate_dead_code()
    network.recompile()
    if example is not None:
        _require_same(model, network, example, stage, way_out)
    return network


def refuse_hidden(whole: nn.Module, stage: str, way_out: str) -> None:
    """Refuse what no tracer can look into, and what does not come into eval mode.

    Args:
        whole: A network after ``eval()``.
        stage: Who asks, for the error.
        way_out: What else can be done.

    Raises:
        ConversionError: Naming the layer.
    """
    for name, module in whole.named_modules():
        where = name or "the network"
        if isinstance(module, torch.jit.ScriptModule):
            told = f"the network cannot be followed: {where} is a TorchScript module"
            raise ConversionError(stage, told, hint="; ".join(filter(None, (_SCRIPT_HINT, way_out))))
        if module.training:
            told = f"{where} stays in training mode after eval(): a train() of its own does not pass it on"
            raise ConversionError(stage, told, hint="let train(mode) call super().train(mode) first")


def user_line(error: BaseException) -> str:
    """``file.py:88`` of the innermost line of an error's traceback that is neither torch's nor ours; else empty."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_users(frame.filename)]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""


class _Map(fx.Proxy):
    """A stand-in that knows what Python's in-place operators do: ``+=`` changes the map that all names are on.

    It passes for a tensor where ``forward`` asks ``isinstance``, as what it stands for would.
    """

    @property  # type: ignore[misc]
    def __class__(self) -> type[Tensor]:  # type: ignore[override]
        return Tensor

    def __setitem__(self, key: object, value: object) -> None:
        raise Unfollowed(f"its forward writes into a part of a map (x[...] = ..., {_line_of(sys._getframe(1))})")


def _in_place(target: Any) -> Any:
    def change(self: _Map, other: object) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", target, (self, other), {})

    return change


for _name, _target in IN_PLACE.items():
    setattr(_Map, _name, _in_place(_target))


class _Follower(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Map(node, self)

    def create_arg(self, value: Any) -> Any:
        return value.node if issubclass(type(value), fx.Proxy) else super().create_arg(value)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        line = _line_of(sys._getframe(1))
        if line:
            node.meta[LINE] = line
        return node

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """One tensor; what else ``forward`` takes keeps its default, so that it can be asked for by ``is None``."""
        names = [
            name
            for name, parameter in list(inspect.signature(root_fn).parameters.items())[1:]
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
        return root_fn, [self.root, self.create_proxy("placeholder", names[0] if names else "x", (), {})]


def _line_of(frame: FrameType | None) -> str:
    while frame is not None:
        if _is_users(frame.f_code.co_filename):
            return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def _is_users(file: str) -> bool:
    return not file.startswith((_TORCH, "<")) and Path(file).parent != Path(__file__).parent


def _require_same(model: nn.Module, network: fx.GraphModule, example: Tensor, stage: str, way_out: str) -> None:
    """Compare graph and network in float64 on the example and on its mirror image.

    Raises:
        ConversionError: When they differ by more than rounding, with the reason as far as it can be found.
        InputError: When the network does not run on the example.
    """
    value = example.detach().to("cpu", torch.float64)
    dtype, limit = torch.float64, LIMIT
    if not _runs(model, value, dtype) and _runs(model, value, torch.float32):  # it makes tensors of its own dtype
        dtype, limit = torch.float32, OWN_LIMIT
    whole, graph = (copy.deepcopy(one).to("cpu", dtype).eval() for one in (model, network))
    for seen in (value.to(dtype), value.to(dtype).flip(-1)):
        expected, found = _answer(whole, seen, stage, way_out), _answer_of_graph(graph, seen, stage, way_out)
        if not torch.isfinite(expected).all():
            raise ConversionError(stage, "the network gives NaN or infinity", hint="are these its trained weights?")
        off = _differ(expected, found)
        if off <= limit:
            continue
        if _differ(expected, _answer(whole, seen, stage, way_out)) > limit:
            raise ConversionError(stage, NOT_REPEATABLE, hint=REPEATABLE_HINT)
        reason = _reason(model, whole, graph, seen, limit)
        told = f"the network cannot be followed: torch.fx makes another network of it ({off:.2g} of its spread off)"
        raise ConversionError(stage, f"{told}; {reason}", hint=f"{_OTHER_HINT}; {way_out}")


def _answer(network: nn.Module, seen: Tensor, stage: str, way_out: str) -> Tensor:
    try:
        with torch.no_grad():
            output = network.forward(seen.clone()) if isinstance(network, fx.GraphModule) else network(seen.clone())
    except Exception as error:  # whatever the user's forward raises
        problem = f"the network cannot run on a probe of shape {tuple(seen.shape)}: {_first_line(error)}"
        raise InputError(problem, hint="the probe is a float tensor in the shape of the network's input") from error
    if not isinstance(output, Tensor):
        raise ConversionError(stage, f"the network gives a {type(output).__name__}, not one tensor", hint=way_out)
    return output


def _answer_of_graph(graph: nn.Module, seen: Tensor, stage: str, way_out: str) -> Tensor:
    """The graph's answer to what the network itself has answered."""
    try:
        return _answer(graph, seen, stage, way_out)
    except InputError as error:
        told = "the network cannot be followed: torch.fx makes another network of it, which does not run"
        raise ConversionError(stage, told, hint=f"{_OTHER_HINT}; {way_out}") from error


def _runs(model: nn.Module, seen: Tensor, dtype: torch.dtype) -> bool:
    try:
        with torch.no_grad():
            copy.deepcopy(model).to("cpu", dtype).eval()(seen.to(dtype))
    except Exception:  # whatever the user's forward raises
        return False
    return True


def _first_line(error: BaseException) -> str:
    line, where = (str(error).splitlines() or [""])[0], user_line(error)
    line = line.replace(f"'{_Map.__name__}'", "a stand-in for a tensor or its size")
    return f"{type(error).__name__}: {line}{f', {where}' if where else ''}"


def _differ(expected: Tensor, found: Tensor) -> float:
    """Largest difference over the spread of what is expected; infinite for other shapes and for what is not finite."""
    if expected.shape != found.shape:
        return math.inf
    off = float((expected - found).abs().nan_to_num(nan=math.inf).max())
    spread = float(expected.std()) or float(expected.abs().max()) or 1.0
    return off / spread if math.isfinite(spread) else math.inf


def _reason(model: nn.Module, whole: nn.Module, graph: nn.Module, seen: Tensor, limit: float) -> str:
    """What stands in the way, as far as it shows."""
    if model._forward_hooks or model._forward_pre_hooks:
        return "hooks on the network itself are lost"
    first = _first_difference(whole, graph, seen, limit)
    return f"its layer {first} reads something else" if first else "it differs behind its last layer"


def _first_difference(whole: nn.Module, graph: nn.Module, seen: Tensor, limit: float) -> str:
    """Name of the first layer, as they are called, that reads something else in the graph."""
    read: list[dict[str, Tensor]] = []
    for one in (whole, graph):
        values: dict[str, Tensor] = {}
        hooks = []
        for name, module in one.named_modules():
            if name and next(module.children(), None) is None:

                def note(_: nn.Module, inputs: tuple[object, ...], name: str = name, to: Any = values) -> None:
                    if inputs and isinstance(inputs[0], Tensor):
                        to.setdefault(name, inputs[0].clone())

                hooks.append(module.register_forward_pre_hook(note))
        with torch.no_grad():
            one.forward(seen.clone())
        for hook in hooks:
            hook.remove()
        read.append(values)
    ours, theirs = read
    return next((name for name in ours if name not in theirs or _differ(ours[name], theirs[name]) > limit), "")
