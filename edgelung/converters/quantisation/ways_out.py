"""What to do about an operator that has no int8 form, in the words of an error's hint."""

from __future__ import annotations

__all__ = ["is_about_sizes", "way_out"]

_BATCHNORM = 'fold it first: passes.restructure(..., otherwise="convolution")'
_SIGMOID = "split it off first: passes.restructure, which turns the threshold into a logit"
_FUNCTION = "make it a layer: nn.BatchNorm2d, nn.ReLU, nn.Dropout"
_ACTIVATION = "train the network with ReLU instead, or convert it with --ptq"
_STATISTICS = (
    "its statistics depend on each input, so it cannot be folded: train the network with BatchNorm2d behind its "
    "convolutions, or convert it with --ptq"
)
_SHUFFLE = "train the network with ConvTranspose2d(kernel_size=2, stride=2) instead, or convert it with --ptq"
_ATTENTION = "train the network without attention, or convert it with --ptq"
_PADDING = "let the convolutions pad, and choose height and width that the network's stride divides"
_SUM = "add two different tensors; a constant belongs into a bias, a factor into the weights of a convolution"
_CHANNELS = "concatenate along the channels, dim=1"
_SIZES = "write sizes as numbers (scale_factor=2, not size=x.shape[-2:]), or convert it with --ptq"
_WAYS_OUT = {
    _BATCHNORM: ("BatchNorm2d",),
    _SIGMOID: ("Sigmoid", "sigmoid"),
    _FUNCTION: ("batch_norm", "relu_", "dropout", "dropout2d"),
    _ACTIVATION: (
        "SiLU", "silu", "GELU", "gelu", "Mish", "mish", "ELU", "elu", "Hardswish", "hardswish", "Hardsigmoid",
        "hardsigmoid", "Tanh", "tanh", "Softplus", "softplus", "LeakyReLU", "leaky_relu", "PReLU", "prelu", "ReLU6",
        "relu6", "clamp",
    ),
    _STATISTICS: ("GroupNorm", "group_norm", "LayerNorm", "layer_norm", "InstanceNorm2d", "instance_norm"),
    _SHUFFLE: ("PixelShuffle", "pixel_shuffle"),
    _ATTENTION: (
        "MultiheadAttention", "scaled_dot_product_attention", "softmax", "Softmax", "matmul", "bmm", "einsum",
    ),
    _PADDING: ("pad", "ZeroPad2d", "ConstantPad2d", "ReflectionPad2d", "ReplicationPad2d", "CircularPad2d"),
    _SUM: ("add", "iadd"),
    _CHANNELS: ("cat", "concat", "concatenate", "stack"),
    _SIZES: ("getattr", "size", "getitem", "view", "reshape", "flatten", "permute", "transpose"),
}  # fmt: skip
_BY_OPERATOR = {operator: hint for hint, operators in _WAYS_OUT.items() for operator in operators}
_ARITHMETIC = ("sub", "mul", "floordiv", "truediv", "int")  # on sizes, where there are some


def way_out(operator: str, known: tuple[str, ...]) -> str:
    """The hint for an operator.

    Args:
        operator: Name of its layer class, function or method.
        known: ONNX operators that have an int8 form.
    """
    return _BY_OPERATOR.get(operator, f"known: {', '.join(known)}; or convert the network with --ptq")


def is_about_sizes(operator: str) -> bool:
    """Whether an operator most often prepares another one, which tells a user more."""
    return operator in _ARITHMETIC or _BY_OPERATOR.get(operator) == _SIZES
