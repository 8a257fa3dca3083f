"""Where a board rounds: fake-quantisation put into the graph of a network."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx, nn

from edgelung.converters.passes.graph import layer, sole_user, trace, unshared
from edgelung.converters.quantisation.fake_quantise import (
    STAGE,
    FakeQuantise,
    QuantisedConv2d,
    QuantisedConvTranspose2d,
)
from edgelung.converters.quantisation.operators import PASSES, describe, operator_of
from edgelung.converters.quantisation.rules import WEIGHT_AXES, QuantisationRules
from edgelung.errors import ConversionError

__all__ = ["prepare_qat"]

ROUNDINGS = "activation_rounding"
_HINTS = {
    "BatchNormalization": 'fold it first: passes.restructure(..., otherwise="convolution")',
    "Sigmoid": "split it off first: passes.restructure, which turns the threshold into a logit",
}


def prepare_qat(model: nn.Module, rules: QuantisationRules) -> fx.GraphModule:
    """A copy of a network that rounds where the board does: input, weights, and every tensor that is written to memory.

    A convolution and the ReLU behind it are one. What the board pools or concatenates has one range with the result.
    Names, and so the keys of a state_dict, stay; ranges are added under ``activation_rounding``. The copy observes
    ranges in train mode; see :func:`calibrate`.

    Args:
        model: Without BatchNorm and sigmoid (docs/restructuring.md); it is left as it is.
        rules: Of the board.

    Raises:
        ConversionError: For an operator that is not in the rules, naming it, or a network that cannot be followed.
    """
    if hasattr(model, ROUNDINGS):
        raise ConversionError(STAGE, "the network is prepared already", hint="give the restructured one")
    network = trace(model)
    kinds = _kinds(network, rules)
    written = [node for node, kind in kinds.items() if kind != PASSES and not _goes_into_relu(network, node, rules)]
    groups = _share_ranges(written, kinds, rules)
    _round_weights(network, kinds, rules)
    _round_activations(network, groups, kinds, rules)
    network.graph.lint()
    network.recompile()
    return network


def _kinds(network: fx.GraphModule, rules: QuantisationRules) -> dict[fx.Node, str]:
    """Each node that computes, and the input, with its operator."""
    kinds = {}
    for node in network.graph.nodes:
        if node.op == "output":
            continue
        kind = "Input" if node.op == "placeholder" else operator_of(network, node)
        if kind not in ("Input", PASSES, *rules.operators):
            hint = _HINTS.get(kind or "", f"known: {', '.join(rules.operators)}")
            raise ConversionError(STAGE, f"{describe(network, node)} has no int8 form for {rules.name}", hint=hint)
        if kind in WEIGHT_AXES:
            _check_convolution(network, node)
        kinds[node] = kind
    return kinds


def _check_convolution(network: fx.GraphModule, node: fx.Node) -> None:
    conv = layer(network, node)
    problem = ""
    if not unshared(network, node):
        problem = "is called in several places"
    elif len(node.args) + len(node.kwargs) != 1:
        problem = "is called with a wanted output size"
    elif isinstance(conv, nn.ConvTranspose2d) and conv.groups != 1:
        problem = "is a transposed convolution in groups, whose weight has no axis of all output channels"
    elif isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d)) and conv.padding_mode != "zeros":
        problem = f"pads with {conv.padding_mode!r}, not with zeros"
    if problem:
        hint = "change the network, or convert it with --ptq"
        raise ConversionError(STAGE, f"{describe(network, node)} {problem}", hint=hint)


def _goes_into_relu(network: fx.GraphModule, node: fx.Node, rules: QuantisationRules) -> bool:
    user = sole_user(node)
    return (
        user is not None
        and user.op != "output"
        and operator_of(network, user) == "Relu"
        and operator_of(network, node) in rules.fuses_relu
    )


def _share_ranges(
    written: Iterable[fx.Node], kinds: dict[fx.Node, str], rules: QuantisationRules
) -> dict[fx.Node, fx.Node]:
    """Each written node with the first node of those that have one range."""
    first = {node: node for node in written}

    def root(node: fx.Node) -> fx.Node:
        while first[node] is not node:
            node = first[node]
        return node

    order = {node: place for place, node in enumerate(first)}
    for node in first:
        if kinds[node] in rules.keeps_range:
            for source in node.all_input_nodes:
                one, other = sorted((root(node), root(_writer(source, kinds))), key=order.__getitem__)
                first[other] = one
    return {node: root(node) for node in first}


def _writer(node: fx.Node, kinds: dict[fx.Node, str]) -> fx.Node:
    """The node whose tensor this is, through what passes it on."""
    while kinds[node] == PASSES:
        (node,) = node.all_input_nodes
    return node


def _round_weights(network: fx.GraphModule, kinds: dict[fx.Node, str], rules: QuantisationRules) -> None:
    for node, kind in kinds.items():
        conv = layer(network, node)
        if isinstance(conv, nn.Conv2d):
            rounded: nn.Module = QuantisedConv2d(conv, WEIGHT_AXES[kind], rules.weight_range)
        elif isinstance(conv, nn.ConvTranspose2d):
            rounded = QuantisedConvTranspose2d(conv, WEIGHT_AXES[kind], rules.weight_range)
        else:
            continue
        parent, _, name = str(node.target).rpartition(".")
        setattr(network.get_submodule(parent), name, rounded)


def _round_activations(
    network: fx.GraphModule, groups: dict[fx.Node, fx.Node], kinds: dict[fx.Node, str], rules: QuantisationRules
) -> None:
    network.add_module(ROUNDINGS, nn.ModuleDict())
    for root in dict.fromkeys(groups.values()):
        members = [node for node, own in groups.items() if own is root]
        makers = [node for node in members if kinds[node] not in rules.keeps_range]
        places = tuple(describe(network, node) for node in makers)
        network.get_submodule(ROUNDINGS).add_module(
            root.name, FakeQuantise(places, rules.activation_range, rules.averaging)
        )
        for node in members:
            site = makers.index(node) if node in makers else None
            with network.graph.inserting_after(node):
                rounding = network.graph.call_module(f"{ROUNDINGS}.{root.name}", (node, site))
            node.replace_all_uses_with(rounding)
            rounding.update_arg(0, node)
