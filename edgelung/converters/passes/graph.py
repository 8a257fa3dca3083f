"""A network as a torch.fx graph of layers, and what the passes ask of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from edgelung.converters.passes.follow import follow

__all__ = [
    "STAGE",
    "channels",
    "concatenated",
    "is_relu",
    "is_sigmoid",
    "layer",
    "remove",
    "set_weights",
    "sole_user",
    "trace",
    "unshared",
]

STAGE = "restructure"
_RELU_FUNCTIONS = (torch.relu, nn.functional.relu)
_SIGMOID_FUNCTIONS = (torch.sigmoid, nn.functional.sigmoid)
_CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)
_KEEPS_CHANNELS = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.AvgPool2d,
    nn.MaxPool2d,
    nn.Upsample,
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
)


def trace(
    model: nn.Module,
    example: Tensor | None = None,
    stage: str = STAGE,
    way_out: str = "convert it as it is with --no-restructure",
) -> fx.GraphModule:
    """A copy of the network as a graph of layers, in eval mode; the network itself is left as it is.

    Nothing in the graph changes a map in place. It is compared with the network in float64, on the example and on its
    mirror image, and differs by no more than 1e-9 of the spread of the output.

    Args:
        model: The network.
        example: (N, C, height, width) input in the unit of the network on which its output varies. Without one nothing
            is compared, which is right for a network that is a graph of this function's already.
        stage: Who asks, for the error.
        way_out: What else can be done with a network that cannot be followed.

    Raises:
        ConversionError: When the network's ``forward`` cannot be followed, or the graph is another network.
    """
    return follow(model, None if isinstance(model, fx.GraphModule) else example, stage, way_out)


def layer(network: fx.GraphModule, node: object) -> nn.Module | None:
    """The module that a node calls; None for everything else."""
    if isinstance(node, fx.Node) and node.op == "call_module":
        return network.get_submodule(str(node.target))
    return None


def unshared(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the layer of a node is called nowhere else, so that its weights are this node's alone."""
    own = layer(network, node)
    return sum(layer(network, other) is own for other in network.graph.nodes) == 1


def sole_user(node: fx.Node) -> fx.Node | None:
    """The one node that uses a node; None when there are several or none."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def is_relu(network: fx.GraphModule, node: object) -> bool:
    """Whether a node lets positive factors through, relu(a x) = a relu(x), and positive values as they are."""
    return isinstance(layer(network, node), (nn.ReLU, nn.LeakyReLU)) or _calls(node, _RELU_FUNCTIONS, "relu")


def is_sigmoid(network: fx.GraphModule, node: object) -> bool:
    """Whether a node is a sigmoid."""
    return isinstance(layer(network, node), nn.Sigmoid) or _calls(node, _SIGMOID_FUNCTIONS, "sigmoid")


def concatenated(node: fx.Node) -> Sequence[fx.Node] | None:
    """What a node puts behind each other along the channels; None for every other node."""
    if node.op != "call_function" or node.target not in _CONCATENATIONS:
        return None
    tensors = node.args[0] if node.args else node.kwargs.get("tensors")
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
    if axis not in (1, -3) or not isinstance(tensors, (list, tuple)):
        return None
    return [item for item in tensors if isinstance(item, fx.Node)]


def channels(network: fx.GraphModule, node: fx.Node) -> int | None:
    """Channels of what a node gives; None where the layers around it do not tell."""
    module = layer(network, node)
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        return module.out_channels
    if isinstance(module, nn.BatchNorm2d):
        return module.num_features
    parts = concatenated(node)
    if parts is not None:
        widths = [channels(network, part) for part in parts]
        return sum(width for width in widths if width is not None) if None not in widths else None
    if isinstance(module, _KEEPS_CHANNELS) or is_relu(network, node) or is_sigmoid(network, node):
        (source, *_) = node.all_input_nodes
        return channels(network, source)
    for user in node.users:
        eater = layer(network, user)
        if isinstance(eater, (nn.Conv2d, nn.ConvTranspose2d)):
            return eater.in_channels
        if isinstance(eater, nn.BatchNorm2d):
            return eater.num_features
    return None


def set_weights(conv: nn.Conv2d | nn.ConvTranspose2d, weight: Tensor, bias: Tensor) -> None:
    """Give a convolution other weights, and the channel counts that go with them."""
    conv.weight = nn.Parameter(weight.contiguous(), requires_grad=conv.weight.requires_grad)
    conv.bias = nn.Parameter(bias.contiguous(), requires_grad=conv.weight.requires_grad)
    ins, outs = (0, 1) if conv.transposed else (1, 0)
    factors = {ins: 1 if conv.transposed else conv.groups, outs: conv.groups if conv.transposed else 1}
    conv.in_channels, conv.out_channels = weight.shape[ins] * factors[ins], weight.shape[outs] * factors[outs]


def remove(network: fx.GraphModule, node: fx.Node) -> None:
    """Take a node with one input out of the graph."""
    (source,) = node.all_input_nodes
    node.replace_all_uses_with(source)
    network.graph.erase_node(node)


def _calls(node: object, functions: Sequence[object], method: str) -> bool:
    if not isinstance(node, fx.Node):
        return False
    return (node.op == "call_function" and node.target in functions) or (
        node.op == "call_method" and node.target == method
    )
