"""Latency without a board: from a compiler's layer table and a board's profile.

The model is a sum over layers, one core, no other load. docs/latency.md has its terms, its residuals on measured
tables and what it misses. What it gives is the NPU's operator time: the call around it (copying and quantising the
input, the driver) comes on top.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgelung.boards.layers import BLOCK_BYTES, Kernel, LayerRecord, blocks, channels_per_block, convolution_cycles
from edgelung.boards.npu import LOGS, UNMEASURED, MeasuredShapes, NpuModel
from edgelung.boards.profiles import BoardProfile
from edgelung.errors import InputError

__all__ = ["Bound", "LatencyEstimate", "LayerEstimate", "SliceLatency", "estimate"]

Bound = Literal["compute", "memory", "activation", "operator", "conversion", "cpu"]

_LOOKED_UP = re.compile("Sigmoid|Swish|Silu|Tanh|Gelu|Elu|Mish|Softplus")
_BORDERS = ("InputOperator", "OutputOperator")
_CONVERSIONS = (*_BORDERS, "exDataConvert", "Cast")


@dataclass(frozen=True)
class LayerEstimate:
    """One layer's share.

    Attributes:
        layer: What was estimated.
        us: Microseconds per run.
        interval_us: (low, high).
        bound: What its time is made of: ``compute`` and ``memory`` (fetching and moving feature maps), ``activation``
            (a function looked up in a table), ``operator`` (a cost of this operator alone), ``conversion`` (of layout
            or arithmetic) or ``cpu``.
        flags: Why the interval is wider than that of measured layers, in words; empty for measured ones.
    """

    layer: LayerRecord
    us: float
    interval_us: tuple[float, float]
    bound: Bound
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class SliceLatency:
    """A latency per output slice, with what it was computed from.

    Attributes:
        us: Microseconds per output slice.
        interval_us: (low, high) of ``us``.
        us_per_run: Microseconds per run of the network.
        slices_per_run: Output slices of one run.
        source: Where the figure comes from.
    """

    us: float
    interval_us: tuple[float, float]
    us_per_run: float
    slices_per_run: int
    source: Literal["estimated"] = "estimated"


@dataclass(frozen=True)
class LatencyEstimate:
    """A network's latency on one NPU core.

    Attributes:
        us_per_run: Microseconds of all operators in one run.
        interval_us: (low, high). Errors of the layers are taken to go the same way, so that they add.
        layers: One row per layer, in order.
        board: Name of the profile.
        source: Always ``estimated``: never to be mixed with measured figures.
    """

    us_per_run: float
    interval_us: tuple[float, float]
    layers: tuple[LayerEstimate, ...]
    board: str
    source: Literal["estimated"] = "estimated"

    def per_output_slice(self, slices_per_run: int) -> SliceLatency:
        """The latency of one of the slices that a run answers for.

        Raises:
            ValueError: When ``slices_per_run`` is below 1.
        """
        if slices_per_run < 1:
            raise ValueError(f"slices_per_run must be at least 1, got {slices_per_run}")
        low, high = (us / slices_per_run for us in self.interval_us)
        return SliceLatency(self.us_per_run / slices_per_run, (low, high), self.us_per_run, slices_per_run)


def estimate(layers: Sequence[LayerRecord], profile: BoardProfile) -> LatencyEstimate:
    """Estimate the latency of a compiled network.

    Args:
        layers: All rows of the compiler's table, input and output operators included.
        profile: The board.

    Raises:
        InputError: When there are no layers, the board has no NPU, or a convolution lacks its weight's shape.
    """
    if profile.npu is None:
        raise InputError(f"{profile.name} has no NPU to estimate for", hint="choose rk3588 or rk3588s")
    if not layers:
        raise InputError("there are no layers to estimate")
    try:
        rows = tuple(_estimate_layer(layer, profile.npu) for layer in layers)
    except ValueError as error:
        raise InputError(str(error), hint="give the rows of the compiler's layer table") from None
    low, high = (math.fsum(row.interval_us[side] for row in rows) for side in (0, 1))
    return LatencyEstimate(math.fsum(row.us for row in rows), (low, high), rows, profile.name)


@dataclass(frozen=True)
class _Cost:
    us: float
    bound: Bound
    family: str
    tables: tuple[str, ...]
    reason: str = ""


def _estimate_layer(layer: LayerRecord, npu: NpuModel) -> LayerEstimate:
    if layer.target == "CPU" and layer.operator not in _BORDERS:
        cost = _cpu(layer, npu)
    elif layer.is_convolution:
        cost = _convolution(layer, npu)
    else:
        cost = _operator(layer, npu)
    flags = [cost.reason] if cost.reason else []
    table = npu.table
    if not cost.tables:
        table = UNMEASURED
    elif npu.table not in cost.tables:
        table = LOGS  # how far measurements carry from one board to another is what these logs show
        flags.append("measured on other boards only")
    family = cost.family
    if _arithmetic(layer) != layer.dtype and layer.target != "CPU":
        flags.append(f"arithmetic {layer.dtype} was not measured")
        table, family = UNMEASURED, "operator"
    spread = npu.spreads[table, family]
    return LayerEstimate(layer, cost.us, (cost.us * spread.low, cost.us * spread.high), cost.bound, tuple(flags))


def _cpu(layer: LayerRecord, npu: NpuModel) -> _Cost:
    us = npu.overhead_us + npu.cpu_ns * math.prod(layer.output_shape) / 1e3
    return _Cost(us, "cpu", "cpu", npu.cpu_tables.get(layer.operator, ()), f"{layer.operator} runs on the CPU")


def _convolution(layer: LayerRecord, npu: NpuModel) -> _Cost:
    kernel = Kernel.of(layer)
    plane = layer.output_shape[2:]
    cycles_us = (layer.npu_cycles or convolution_cycles(kernel, plane, layer.dtype)) / npu.npu_mhz
    rates = npu.convolution
    fetch = BLOCK_BYTES * blocks(layer.input_shapes[0], layer.dtype) / (rates.input_gb_s * 1e3)
    looked_up, tables = _lookup(layer, npu)
    terms: dict[Bound, float] = {
        "compute": rates.compute * cycles_us,
        "memory": rates.overlapped * cycles_us + fetch,
        "activation": looked_up,
    }
    bound = max(terms, key=lambda name: terms[name])
    us = rates.overhead_us + terms[bound]
    if bound == "activation":
        reason = "" if tables else f"{layer.operator} of this many channels was not measured in {layer.dtype}"
        return _Cost(us, bound, "convolution", tables, reason)
    tables = tuple(table for table, shapes in npu.shapes.items() if _within(kernel, plane, shapes))
    return _Cost(us, bound, "convolution", tables, "" if tables else "a convolution of this shape was not measured")


def _within(kernel: Kernel, plane: tuple[int, ...], shapes: MeasuredShapes) -> bool:
    return (
        kernel.groups == 1
        and (kernel.size, kernel.stride) in shapes.forms
        and shapes.in_channels[0] <= kernel.in_channels <= shapes.in_channels[1]
        and shapes.out_channels[0] <= kernel.out_channels <= shapes.out_channels[1]
        and shapes.pixels[0] <= math.prod(plane) <= shapes.pixels[1]
    )


def _lookup(layer: LayerRecord, npu: NpuModel) -> tuple[float, tuple[str, ...]]:
    """Microseconds of an activation that is looked up, and where that was measured; 0 for others."""
    if not _LOOKED_UP.search(layer.operator) or len(layer.output_shape) < 2:
        return 0.0, ()
    cost = npu.lookup[_arithmetic(layer)]
    images, channels, *plane = layer.output_shape
    is_half = channels <= cost.group // 2
    ns = cost.half_ns if is_half else cost.full_ns * math.ceil(channels / cost.group)
    return images * math.prod(plane) * ns / 1e3, cost.half_tables if is_half else cost.full_tables


def _operator(layer: LayerRecord, npu: NpuModel) -> _Cost:
    name = _cost_name(layer)
    is_border = layer.operator in _BORDERS
    cost = npu.operators.get((name, _arithmetic(layer)))
    element_wise = npu.operators["BatchNormalization", "INT8"]
    rates = cost or element_wise
    written = blocks(layer.output_shape, layer.dtype)
    read = sum(blocks(shape, layer.dtype) for shape in layer.feature_shapes)
    if layer.operator == "Concat":
        read = max(read, written)  # the compiler's table does not list all inputs of a long Concat
    if layer.operator == "OutputOperator":
        written = math.ceil(sum(map(math.prod, layer.feature_shapes)) / channels_per_block(layer.dtype))
    moved = (rates.read_ns * read + rates.write_ns * written) / 1e3
    looked_up, _ = _lookup(layer, npu)
    us = (npu.conversion_us if is_border else npu.overhead_us) + max(moved, looked_up)
    bound: Bound = "operator"
    if layer.operator in _CONVERSIONS:
        bound = "conversion"
    elif looked_up > moved:
        bound = "activation"
    elif rates.read_ns == element_wise.read_ns and cost:
        bound = "memory"
    if cost is None:
        return _Cost(us, bound, "operator", (), f"operator {name} was not measured")
    if not cost.tables:
        return _Cost(us, bound, "inferred", (), f"{name} was not measured in {layer.dtype}")
    return _Cost(us, bound, "operator", cost.tables)


def _cost_name(layer: LayerRecord) -> str:
    """The operator, with what its shapes tell of the way it is done."""
    if layer.operator == "MaxPool" and layer.feature_shapes and layer.output_shape[2:] == layer.feature_shapes[0][2:]:
        return "MaxPool at stride 1"
    if layer.operator == "OutputOperator" and any(math.prod(shape[1:2]) > 1 for shape in layer.feature_shapes):
        return "OutputOperator of channels"
    return "Concat misaligned" if _is_misaligned(layer) else layer.operator


def _is_misaligned(layer: LayerRecord) -> bool:
    """Whether a Concat of channels puts a map somewhere else than at the border of a block."""
    maps = [shape for shape in layer.feature_shapes if len(shape) > 1]
    if layer.operator != "Concat" or not maps or len(layer.output_shape) < 2:
        return False
    listed = sum(shape[1] for shape in maps)
    if all(shape[1] == layer.output_shape[1] for shape in maps):
        return False  # along another axis
    followed = maps if listed < layer.output_shape[1] else maps[:-1]
    return any(shape[1] % channels_per_block(layer.dtype) for shape in followed)


def _arithmetic(layer: LayerRecord) -> str:
    """The measured arithmetic nearest to the layer's."""
    return layer.dtype if layer.dtype in ("INT8", "FLOAT16") else "FLOAT16"
