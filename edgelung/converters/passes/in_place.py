"""What a traced network changes in place, said without: a new map that is read from there on.

In Python a name can stay on a map that is added to in place (``skip = x; x += f(x)``): the skip is the changed map
then. In a graph of values it has to be read from the node that changed it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

__all__ = ["IN_PLACE", "LINE", "Unfollowed", "without_changes"]

LINE = "line"  # in the meta of a node: the user's file and line
_OPERATORS = (
    (operator.iadd, operator.add),
    (operator.isub, operator.sub),
    (operator.imul, operator.mul),
    (operator.itruediv, operator.truediv),
    (operator.ifloordiv, operator.floordiv),
    (operator.imod, operator.mod),
    (operator.ipow, operator.pow),
    (operator.imatmul, operator.matmul),
    (operator.iand, operator.and_),
    (operator.ior, operator.or_),
    (operator.ixor, operator.xor),
    (operator.ilshift, operator.lshift),
    (operator.irshift, operator.rshift),
)
IN_PLACE = {f"__{target.__name__}__": target for target, _ in _OPERATORS}  # name of the method -> function
_PLAIN: dict[Any, Any] = dict(_OPERATORS)
_SAME = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)  # give what they got
_SAME_FUNCTIONS = (nn.functional.dropout, nn.functional.dropout2d, nn.functional.dropout3d)
_VIEWS = frozenset(
    (
        "view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze",
        "transpose", "permute", "movedim", "moveaxis", "swapaxes", "swapdims", "t", "narrow", "select", "chunk",
        "split", "tensor_split", "unbind", "expand", "expand_as", "broadcast_to", "contiguous", "detach", "diagonal",
        "unfold", "as_strided", "real", "imag", "float", "double", "to", "type", "type_as", "cpu", "getitem", "getattr",
    )
)  # fmt: skip
_SIZES = frozenset(("size", "dim", "numel", "ndimension", "stride", "item", "__len__"))
_SIZE_ATTRIBUTES = frozenset(("shape", "ndim", "dtype", "device"))
_KEEPS_VALUES = frozenset(("requires_grad_", "retain_grad", "detach_"))


class Unfollowed(Exception):  # noqa: N818  # a reason, caught where the network is followed
    """Why the graph cannot say what the network does."""


def without_changes(network: fx.GraphModule) -> None:
    """Replace what changes a map in place by what makes a new one, and let everything behind read that; in place.

    Raises:
        Unfollowed: When a part of a changed map, or a map that it is a part of, is read again, or there is no such
            form.
    """
    order = {node: place for place, node in enumerate(network.graph.nodes)}
    for node in list(network.graph.nodes):
        plain = _plain_form(network, node)
        if plain is None:
            continue
        changed = node.all_input_nodes[0]
        if not _is_number(changed):
            for same, exact in _sharing(network, changed).items():
                later = [user for user in same.users if order[user] > order[node]]
                if not later:
                    continue
                if not exact:
                    what = "a part of it, or what it is a part of,"
                    raise Unfollowed(f"its forward changes a map in place ({_told(node)}), and {what} is used again")
                same.replace_all_uses_with(node, delete_user_cb=later.__contains__)
        plain()
    network.recompile()


def _told(node: fx.Node) -> str:
    name = getattr(node.target, "__name__", str(node.target))
    signs = {"iadd": "+=", "isub": "-=", "imul": "*=", "itruediv": "/="}
    what = signs.get(name, name.rpartition(".")[2])
    return f"{what}, {node.meta[LINE]}" if LINE in node.meta else what


def _plain_form(network: fx.GraphModule, node: fx.Node) -> Callable[[], None] | None:
    """How to write a node that changes its first argument without that; None for every other node."""
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        return partial(setattr, module, "inplace", False) if getattr(module, "inplace", False) is True else None
    if node.op == "call_function" and node.target in _PLAIN:
        return lambda: _rename(node, _PLAIN[node.target])
    if node.op == "call_function" and isinstance(node.kwargs.get("out"), fx.Node):
        raise Unfollowed(f"its forward writes into a map that is there (out=, {_told(node)})")
    name = str(getattr(node.target, "__name__", node.target))
    if node.op == "call_function" and node.kwargs.get("inplace") is True:
        return lambda: _rename(node, node.target, inplace=False)
    if node.op not in ("call_function", "call_method") or not name.endswith("_") or name.endswith("__"):
        return None
    if name in _KEEPS_VALUES or not node.all_input_nodes:
        return None
    if node.op == "call_method" and hasattr(Tensor, name) and hasattr(Tensor, name[:-1]):
        return lambda: _rename(node, name[:-1])
    for home in (nn.functional, torch):
        if node.op == "call_function" and getattr(home, name, None) is node.target and hasattr(home, name[:-1]):
            return lambda: _rename(node, getattr(home, name[:-1]))
    if node.op == "call_method" and hasattr(Tensor, name):
        raise Unfollowed(f"its forward changes a map in place ({_told(node)})")
    return None


def _rename(node: fx.Node, target: Any, **kwargs: Any) -> None:
    node.target = target
    node.kwargs = {**node.kwargs, **kwargs}


def _sharing(network: fx.GraphModule, node: fx.Node) -> dict[fx.Node, bool]:
    """The nodes whose values lie in the memory of a node's, and whether they are all of it."""
    found, waiting = {node: True}, [node]
    while waiting:
        one = waiting.pop()
        sources = {source: _link(network, one) for source in one.all_input_nodes[:1]}
        readers = {user: _link(network, user) for user in one.users if user.all_input_nodes[:1] == [one]}
        for other, link in {**sources, **readers}.items():
            if link is not None and other not in found:
                found[other] = found[one] and link
                waiting.append(other)
    return found


def _link(network: fx.GraphModule, node: fx.Node) -> bool | None:
    """True where a node gives what it got, False where it may give a part or another view of it, None elsewhere."""
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        return True if isinstance(module, _SAME) else False if isinstance(module, (nn.Flatten, nn.Unflatten)) else None
    if node.op == "call_function" and node.target in _SAME_FUNCTIONS:
        return True
    name = str(getattr(node.target, "__name__", node.target))
    if node.op in ("call_function", "call_method") and (name in _VIEWS or name in _KEEPS_VALUES):
        return None if _is_number(node) else False
    return None


def _is_number(node: fx.Node) -> bool:
    """Whether a node's value is a size, or computed of sizes: names of numbers do not share anything."""
    if node.op == "call_method" and node.target in _SIZES:
        return True
    if node.op != "call_function":
        return False
    if node.target is getattr and len(node.args) > 1 and node.args[1] in _SIZE_ATTRIBUTES:
        return True
    arithmetic = getattr(node.target, "__module__", "") in ("_operator", "builtins", "math")
    return arithmetic and bool(node.all_input_nodes) and all(map(_is_number, node.all_input_nodes))
