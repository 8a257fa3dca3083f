"""One layer of a compiled network, as plain data, and what follows from its shapes alone.

The NPU keeps feature maps in blocks of 16 bytes: 16 int8 or 8 fp16 channels of one pixel, channels padded to whole
blocks (the compiler's layout NC1HWC2, "Feature Tensor Information Table" of its log).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["BLOCK_BYTES", "Kernel", "LayerRecord", "blocks", "channels_per_block", "convolution_cycles"]

BLOCK_BYTES = 16


@dataclass(frozen=True)
class LayerRecord:
    """One row of a compiler's layer table.

    Attributes:
        index: Place in the order of execution, from 1.
        operator: The compiler's own name, e.g. ``ConvRelu``.
        dtype: Arithmetic, in the compiler's words: ``FLOAT16``, ``INT8``, ...
        target: Processor: ``NPU`` or ``CPU``.
        input_shapes: Shapes of the inputs, constants included (weights (Cout, Cin, kh, kw), then bias).
        output_shape: Shape of the output.
        ddr_cycles: The compiler's own estimates, in cycles of its assumed clocks.
        npu_cycles: Likewise; what a compute-bound layer needs.
        total_cycles: Likewise.
        traffic_kib: Bytes read and written, in KiB.
        name: Of the layer in the network; empty when the table has none.
    """

    index: int
    operator: str
    dtype: str
    target: str
    input_shapes: tuple[tuple[int, ...], ...]
    output_shape: tuple[int, ...]
    ddr_cycles: int
    npu_cycles: int
    total_cycles: int
    traffic_kib: float
    name: str = ""

    @property
    def feature_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The inputs without biases and other vectors; of a convolution, the first input alone."""
        if self.is_convolution:
            return self.input_shapes[:1]
        return tuple(shape for shape in self.input_shapes if len(shape) > 1)

    @property
    def is_convolution(self) -> bool:
        """Whether the NPU's convolution unit does it: ``Conv``, ``ConvRelu``, ``ConvTranspose``, ..."""
        return self.operator.startswith("Conv") and not self.operator.startswith("Convert")


@dataclass(frozen=True)
class Kernel:
    """What a convolution's weight says.

    Attributes:
        size: (height, width), or more axes.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        groups: 1 for a dense convolution, ``in_channels`` for a depthwise one.
        stride: Rows of the input per row of the output, about; below 1 for a transposed convolution.
    """

    size: tuple[int, ...]
    in_channels: int
    out_channels: int
    groups: int
    stride: float

    @classmethod
    def of(cls, layer: LayerRecord) -> Kernel:
        """The kernel of a convolution layer.

        Raises:
            ValueError: When the record has no weight shape that fits its input and output.
        """
        shapes = (*layer.input_shapes[:2], layer.output_shape)
        if len(shapes) < 3 or min(map(len, shapes)) < 3:
            raise ValueError(f"layer {layer.index} ({layer.operator}) has no weight shape")
        inside, outside = layer.input_shapes[0][1], layer.output_shape[1]
        first, second, *size = layer.input_shapes[1]
        transposed = "Transpose" in layer.operator
        if inside == outside > 1 and {first, second} == {1, inside}:
            groups = inside  # the compiler writes depthwise weights as (1, C, kh, kw), ONNX as (C, 1, kh, kw)
        elif transposed:
            groups = outside // second if first == inside and second and outside % second == 0 else 0
        else:
            groups = inside // second if first == outside and second and inside % second == 0 else 0
        if not groups:
            weight = layer.input_shapes[1]
            raise ValueError(f"layer {layer.index} ({layer.operator}): weight {weight} fits not {inside} -> {outside}")
        rows_in, rows_out = max(layer.input_shapes[0][2], 1), max(layer.output_shape[2], 1)
        stride = 1 / round(rows_out / rows_in) if rows_out > rows_in else float(round(rows_in / rows_out))
        return cls(tuple(size), inside, outside, groups, stride)


def channels_per_block(dtype: str) -> int:
    """Channels in one block: 16 of one byte, 8 of two, 4 of four.

    Args:
        dtype: In the compiler's words; a name without its number of bits (``BOOL``) counts as one byte.
    """
    bits = "".join(character for character in dtype if character.isdigit()) or "8"
    return max(BLOCK_BYTES * 8 // max(int(bits), 8), 1)


def blocks(shape: tuple[int, ...], dtype: str) -> int:
    """16-byte blocks that a feature map of (N, C, ...) takes on the NPU."""
    if len(shape) < 2:
        shape = (1, *shape) if shape else (0, 0)
    return shape[0] * math.ceil(shape[1] / channels_per_block(dtype)) * math.prod(shape[2:])


def convolution_cycles(kernel: Kernel, output_plane: tuple[int, ...], dtype: str) -> int:
    """NPU cycles of a convolution on one core, as the compiler counts them.

    ``P * ceil(Cout / K) * max(L, taps * ceil(Cin / 32))`` with P the output's pixels rounded up to 16, K = 32 and
    L = 4 in int8, K = 16 and L = 2 in fp16; depthwise ``P * taps * ceil(C / 64)``. Inferred from the layer tables of
    rknn-toolkit2 2.3 (docs/latency.md): equal in all 26 and 33 rows that were compared.

    Args:
        kernel: Its weight.
        output_plane: (height, width) of the output in pixels.
        dtype: ``INT8`` or ``FLOAT16``; others are counted as fp16.
    """
    pixels = math.ceil(math.prod(output_plane) / 16) * 16
    taps = math.prod(kernel.size)
    if kernel.groups > 1 and kernel.groups == kernel.in_channels:
        return pixels * taps * math.ceil(kernel.in_channels / 64)
    out_block, least = (32, 4) if channels_per_block(dtype) == 16 else (16, 2)
    return pixels * math.ceil(kernel.out_channels / out_block) * max(least, taps * math.ceil(kernel.in_channels / 32))
