"""Which ONNX operator a node of a torch.fx graph becomes."""

from __future__ import annotations

import operator

import torch
from torch import fx, nn

from edgelung.converters.passes.graph import concatenated, is_sigmoid, layer
from edgelung.converters.quantisation.resizing import is_resize

__all__ = ["PASSES", "describe", "describe_place", "kind_name", "operator_of"]

PASSES = "Identity"
_LAYERS: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.Conv2d, "Conv"),
    (nn.ConvTranspose2d, "ConvTranspose"),
    (nn.ReLU, "Relu"),
    (nn.AvgPool2d, "AveragePool"),
    (nn.MaxPool2d, "MaxPool"),
    (nn.BatchNorm2d, "BatchNormalization"),
    (nn.Dropout, PASSES),
    (nn.Dropout2d, PASSES),
    (nn.Dropout3d, PASSES),
    (nn.AlphaDropout, PASSES),
    (nn.FeatureAlphaDropout, PASSES),
    (nn.Identity, PASSES),
)
_DROPOUTS = (nn.functional.dropout, nn.functional.dropout2d)
_FUNCTIONS = {
    operator.add: "Add",
    operator.iadd: "Add",
    torch.add: "Add",
    torch.relu: "Relu",
    nn.functional.relu: "Relu",
    nn.functional.avg_pool2d: "AveragePool",
    nn.functional.max_pool2d: "MaxPool",
}
_METHODS = {"add": "Add", "relu": "Relu", "contiguous": PASSES, "clone": PASSES}


def operator_of(network: fx.GraphModule, node: fx.Node) -> str | None:
    """The operator's ONNX name, ``PASSES`` for what is nothing in a finished network, None for what is not known."""
    if is_sigmoid(network, node):
        return "Sigmoid"
    if concatenated(node) is not None:
        return "Concat"
    if is_resize(network, node):
        return "Resize"
    module = layer(network, node)
    if module is not None:
        return next((name for kind, name in _LAYERS if type(module) is kind), None)
    if node.op == "call_function" and node.target in _DROPOUTS:
        return PASSES if _is_off(node) else None
    if node.op == "call_function":
        name = _FUNCTIONS.get(node.target)  # type: ignore[arg-type]
    else:
        name = _METHODS.get(str(node.target)) if node.op == "call_method" else None
    two_tensors = len(node.all_input_nodes) == len(node.args) == 2 and not node.kwargs
    return name if name != "Add" or two_tensors else None


def kind_name(network: fx.GraphModule, node: fx.Node) -> str:
    """Name of the layer's class, of the function or of the method that a node calls, or of the kind of its constant."""
    module = layer(network, node)
    if module is not None:
        return type(module).__name__
    if node.op == "get_attr":
        owner, _, name = str(node.target).rpartition(".")
        return type(getattr(network.get_submodule(owner), name)).__name__
    return "slice" if _is_slice(node) else getattr(node.target, "__name__", str(node.target))


def describe(network: fx.GraphModule, node: fx.Node) -> str:
    """The node in the user's terms: ``unet.pool (AvgPool2d)``."""
    name = node.target if layer(network, node) is not None or node.op == "get_attr" else node.name
    return f"{name} ({kind_name(network, node)})"


def describe_place(network: fx.GraphModule, node: fx.Node) -> str:
    """The same, and for what is no layer, the layer that it comes behind: ``chunk (chunk) behind stem.0``."""
    source = node
    while layer(network, source) is None and source.all_input_nodes:
        source = source.all_input_nodes[0]
    behind = source is not node and layer(network, source) is not None
    return f"{describe(network, node)} behind {source.target}" if behind else describe(network, node)


def _is_off(node: fx.Node) -> bool:
    """Whether a functional dropout gives what it got: ``F.dropout(x, p, self.training)`` in eval mode."""
    training = node.args[2] if len(node.args) > 2 else node.kwargs.get("training", True)
    return training is False


def _is_slice(node: fx.Node) -> bool:
    """Whether a node takes a part of a map, not of its shape."""
    if node.op != "call_function" or node.target is not operator.getitem:
        return False
    source, index = node.args
    of_sizes = isinstance(source, fx.Node) and source.target in (getattr, "size")
    return not of_sizes and isinstance(index, (tuple, slice))
