"""Where a board rounds: fake-quantisation put into the graph of a network."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, fx, nn

from edgelung.converters.passes.graph import layer, sole_user, trace, unshared
from edgelung.converters.quantisation.fake_quantise import (
    STAGE,
    FakeQuantise,
    QuantisedConv2d,
    QuantisedConvTranspose2d,
)
from edgelung.converters.quantisation.operators import PASSES, describe, describe_place, kind_name, operator_of
from edgelung.converters.quantisation.pooling import average_problem
from edgelung.converters.quantisation.resizing import resize_problem
from edgelung.converters.quantisation.rules import WEIGHT_AXES, QuantisationRules
from edgelung.converters.quantisation.ways_out import is_about_sizes, way_out
from edgelung.errors import ConversionError

__all__ = ["prepare_qat"]

ROUNDINGS = "activation_rounding"
_OR_PTQ = "or convert it with --ptq"


def prepare_qat(model: nn.Module, rules: QuantisationRules, example: Tensor | None = None) -> fx.GraphModule:
    """A copy of a network that rounds where the board does: input, weights, and every tensor that is written to memory.

    A convolution and the ReLU behind it are one, and so are, on some boards, a convolution and the addition behind it.
    What the board pools, resizes or concatenates has one range with the result.
    Names, and so the keys of a state_dict, stay; ranges are added under ``activation_rounding``. The copy observes
    ranges in train mode; see :func:`calibrate`.

    Args:
        model: Without BatchNorm and sigmoid (docs/restructuring.md); it is left as it is.
        rules: Of the board.
        example: (N, C, height, width) input on which the graph is compared with a model that is not one yet.

    Raises:
        ConversionError: For an operator that is not in the rules, naming it, or a network that cannot be followed.
    """
    if hasattr(model, ROUNDINGS):
        raise ConversionError(STAGE, "the network is prepared already", hint="give the restructured one")
    network = trace(model, example, STAGE, "write it without, or convert it with --ptq and --no-restructure")
    kinds = _kinds(network, rules)
    summed = _fused_into_sums(network, kinds, rules)
    written = [node for node, kind in kinds.items() if kind != PASSES and not _goes_into_relu(network, node, rules)]
    groups = _share_ranges(written, kinds, rules)
    _round_weights(network, kinds, rules)
    for root, rounding in _round_activations(network, groups, kinds, rules).items():
        rounding.rounds = root not in summed
    network.graph.lint()
    network.recompile()
    return network


def _kinds(network: fx.GraphModule, rules: QuantisationRules) -> dict[fx.Node, str]:
    """Each node that computes, and the input, with its operator."""
    kinds = {}
    refused = []
    for node in network.graph.nodes:
        if node.op == "output":
            continue
        kind = "Input" if node.op == "placeholder" else operator_of(network, node)
        problem, hint = _problem(network, node, kind, rules)
        if problem or kind is None:
            refused.append(
                (is_about_sizes(kind_name(network, node)), f"{describe_place(network, node)} {problem}", hint)
            )
        else:
            kinds[node] = kind
    if refused:
        _, reason, hint = min(refused, key=lambda item: item[0])  # the first that is not about sizes
        raise ConversionError(STAGE, reason, hint=hint)
    return kinds


def _problem(network: fx.GraphModule, node: fx.Node, kind: str | None, rules: QuantisationRules) -> tuple[str, str]:
    """Why a node has no int8 form, and the way out; both empty when it has one."""
    if kind not in ("Input", PASSES, *rules.operators):
        return f"has no int8 form for {rules.name}", way_out(kind_name(network, node), rules.operators)
    if kind == "Resize":
        return resize_problem(network, node)
    if kind == "AveragePool":
        return average_problem(network, node)
    if kind in WEIGHT_AXES:
        return _convolution_problem(network, node)
    return "", ""


def _convolution_problem(network: fx.GraphModule, node: fx.Node) -> tuple[str, str]:
    """Why a convolution has no int8 form, and the way out."""
    conv = layer(network, node)
    if not unshared(network, node):
        return "is called in several places", f"give each place a layer of its own, {_OR_PTQ}"
    if len(node.args) + len(node.kwargs) != 1:
        return "is called with a wanted output size", f"give output_padding when it is built, {_OR_PTQ}"
    if isinstance(conv, nn.ConvTranspose2d) and conv.groups != 1:
        reason = "is a transposed convolution in groups, whose weight has no axis of all output channels"
        return reason, f"train the network with groups=1, {_OR_PTQ}"
    if isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d)) and conv.padding_mode != "zeros":
        reason = f"has padding_mode={conv.padding_mode!r}, which has no int8 form for the NPU"
        return reason, f'train the network with padding_mode="zeros", {_OR_PTQ}'
    return "", ""


def _goes_into_relu(network: fx.GraphModule, node: fx.Node, rules: QuantisationRules) -> bool:
    user = sole_user(node)
    return (
        user is not None
        and user.op != "output"
        and operator_of(network, user) == "Relu"
        and operator_of(network, node) in rules.fuses_relu
    )


def _fused_into_sums(network: fx.GraphModule, kinds: dict[fx.Node, str], rules: QuantisationRules) -> list[fx.Node]:
    """The convolutions that an addition is one with: for each, the first of those that nothing else reads.

    Which one that is was found with the simulator of toolkit 2.3.2 (docs/qat.md). Without groups: it leaves others be.
    """
    found = []
    for total in (node for node, kind in kinds.items() if kind == "Add"):
        operands = [_writer(source, kinds) for source in total.all_input_nodes]
        alone = [node for node in kinds if node in operands and _reader(node, kinds) is total]
        able = [node for node in alone if kinds[node] in rules.fuses_sum]
        for node in able:
            if _writer(node.all_input_nodes[0], kinds) in operands:
                reason = f"{describe(network, total)} adds to {describe(network, node)} what that reads"
                told = f"{reason}, and the compiler of {rules.name} makes one convolution of other weights of it"
                hint = "put a ReLU behind the convolution, or add 1 to the middle of its weights in its place"
                raise ConversionError(STAGE, told, hint=hint)
        found += [node for node in able if getattr(layer(network, node), "groups", 1) == 1][:1]
    return found


def _reader(node: fx.Node, kinds: dict[fx.Node, str]) -> fx.Node | None:
    """The one node that reads a node's tensor, through what passes it on; None when there are several."""
    user = sole_user(node)
    while user is not None and kinds.get(user) == PASSES:
        user = sole_user(user)
    return user


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
) -> dict[fx.Node, FakeQuantise]:
    """By the first node of those that share it, each range that was put into the graph."""
    network.add_module(ROUNDINGS, nn.ModuleDict())
    ranges = {}
    for root in dict.fromkeys(groups.values()):
        members = [node for node, own in groups.items() if own is root]
        makers = [node for node in members if kinds[node] not in rules.keeps_range]
        places = tuple(describe(network, node) for node in makers)
        ranges[root] = FakeQuantise(places, rules.activation_range, rules.averaging)
        network.get_submodule(ROUNDINGS).add_module(root.name, ranges[root])
        for node in members:
            site = makers.index(node) if node in makers else None
            with network.graph.inserting_after(node):
                rounding = network.graph.call_module(f"{ROUNDINGS}.{root.name}", (node, site))
            node.replace_all_uses_with(rounding)
            rounding.update_arg(0, node)
    return ranges
