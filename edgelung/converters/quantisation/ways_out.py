"""What to do about an operator that has no int8 form, in the words of an error's hint."""

from __future__ import annotations

__all__ = ["is_about_sizes", "way_out"]

_BATCHNORM = "restructuring folds those that keep running statistics (track_running_stats=True): do that first"
_SIGMOID = (
    'only the one that the network ends in can be split off (quantity = "probability" in its spec); train the network '
    "without this one, or convert it with --ptq"
)
_FUNCTION = "make it a layer: nn.BatchNorm2d, nn.ReLU, nn.Dropout"
_OWN = (
    "only the weights of layers have one: put a factor into the weights of the convolution before it and a summand "
    "into its bias, or convert the network with --ptq"
)
_SPLIT = "train the network with a convolution for each part, not with one that is split, or convert it with --ptq"
_MIX = "train the network with a 1x1 convolution that mixes the channels, or convert it with --ptq"
_POOL = "pool by a whole factor (nn.AvgPool2d(2), nn.MaxPool2d(2)), or convert the network with --ptq"
_PRODUCT = (
    "a factor belongs into the weights of a convolution, a summand into a bias; a product or a choice of two maps has "
    "none: train the network without, or convert it with --ptq"
)
_LINEAR = "write it as nn.Conv2d(..., kernel_size=1), or convert the network with --ptq"
_ACTIVATION = "train the network with ReLU instead, or convert it with --ptq"
_STATISTICS = (
    "its statistics depend on each input, so it cannot be folded: train the network with BatchNorm2d behind its "
    "convolutions, or convert it with --ptq"
)
_SHUFFLE = "train the network with ConvTranspose2d(kernel_size=2, stride=2) instead, or convert it with --ptq"
_DOWN = "train the network with Conv2d(kernel_size=2, stride=2) instead, or convert it with --ptq"
_ATTENTION = "train the network without attention, or convert it with --ptq"
_PADDING = (
    "let the convolutions pad with zeros, and choose height and width that the network's stride divides, or convert it "
    "with --ptq"
)
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
        "relu6", "clamp", "Hardtanh", "hardtanh", "CELU", "celu", "SELU", "selu", "RReLU", "rrelu",
        "Threshold", "threshold", "LogSigmoid", "logsigmoid", "Softsign", "softsign", "Tanhshrink", "Softshrink",
        "Hardshrink", "GLU", "glu",
    ),
    _STATISTICS: (
        "GroupNorm", "group_norm", "LayerNorm", "layer_norm", "InstanceNorm2d", "instance_norm",
        "LocalResponseNorm", "local_response_norm",
    ),
    _SHUFFLE: ("PixelShuffle", "pixel_shuffle"),
    _DOWN: ("PixelUnshuffle", "pixel_unshuffle"),
    _ATTENTION: (
        "MultiheadAttention", "scaled_dot_product_attention", "softmax", "Softmax", "Softmax2d", "matmul", "bmm",
        "einsum",
    ),
    _PADDING: ("pad", "ZeroPad2d", "ReflectionPad2d", "ReplicationPad2d", "ConstantPad2d", "CircularPad2d"),
    _OWN: ("Parameter", "Tensor", "Buffer"),
    _SPLIT: ("chunk", "split", "tensor_split", "unbind", "narrow", "slice"),
    _MIX: ("ChannelShuffle", "channel_shuffle", "flip", "roll", "index_select"),
    _POOL: (
        "AdaptiveAvgPool2d", "adaptive_avg_pool2d", "AdaptiveMaxPool2d", "adaptive_max_pool2d", "LPPool2d", "lp_pool2d",
        "mean", "amax", "max", "sum",
    ),
    _PRODUCT: ("mul", "sub", "neg", "truediv", "div", "maximum", "minimum", "where", "abs", "pow", "square", "sqrt"),
    _LINEAR: ("Linear", "linear"),
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
