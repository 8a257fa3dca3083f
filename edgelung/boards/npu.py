"""What a board's NPU was measured to do: the numbers behind latency estimates.

Sources, by the names they have in the comments:

* *unet*: 2 x 29 layers of one U-Net (fp16, int8) on an RK3588S, NPU at 1 GHz, DDR at 1560 MHz, one core, toolkit and
  runtime 2.3.2, from a published report.
* *logs*: 43 convolutions and 38 other layers of three networks from published profiler logs of RK3588 boards whose
  DDR clocks are unknown.

docs/latency.md tells how each number was found and what it misses; ``benchmarks/estimate_vs_measured.py`` prints the
measured tables beside the estimates and the spreads anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = [
    # tables
    "LOGS",
    "UNET",
    "UNMEASURED",
    # models
    "RK3588S_NPU",
    "RK3588_NPU",
    "ConvolutionCost",
    "LookupCost",
    "MeasuredShapes",
    "NpuModel",
    "OperatorCost",
    "Spread",
]

UNET, LOGS, UNMEASURED = "unet", "logs", ""


@dataclass(frozen=True)
class ConvolutionCost:
    """``overhead + max(compute * cycles, overlapped * cycles + bytes of the first input / input bandwidth)``.

    The input is fetched partly while the unit computes; the output is written behind it at no cost of its own.

    Attributes:
        overhead_us: Per layer.
        compute: Clock ticks per counted cycle when the unit computes without waiting.
        overlapped: The same when it waits for its input.
        input_gb_s: Bandwidth of the fetch, in 10^9 bytes per second.
    """

    overhead_us: float
    compute: float
    overlapped: float
    input_gb_s: float


@dataclass(frozen=True)
class LookupCost:
    """Activations looked up in a table (sigmoid, swish, ...): time per pixel and group of channels.

    Attributes:
        group: Channels of a group.
        half_ns: Per pixel when at most half a group is there.
        full_ns: Per pixel and group otherwise.
        half_tables: Names of the measured tables that hold the first.
        full_tables: Likewise the second.
    """

    group: int
    half_ns: float
    full_ns: float
    half_tables: tuple[str, ...]
    full_tables: tuple[str, ...]


@dataclass(frozen=True)
class OperatorCost:
    """Time per 16-byte block read and written.

    Attributes:
        read_ns: Per block of the inputs.
        write_ns: Per block of the output.
        tables: Names of the measured tables that hold it; empty for one that was inferred from its neighbours.
    """

    read_ns: float
    write_ns: float
    tables: tuple[str, ...] = ()


@dataclass(frozen=True)
class Spread:
    """Lowest and highest ratio of measured to estimated time that is allowed for."""

    low: float
    high: float


@dataclass(frozen=True)
class MeasuredShapes:
    """Within what the convolutions of a table lie, ends included.

    Attributes:
        forms: (size, stride) as in :class:`edgelung.boards.layers.Kernel`.
        in_channels: (lowest, highest).
        out_channels: (lowest, highest).
        pixels: (lowest, highest) of the output's plane.
    """

    forms: frozenset[tuple[tuple[int, ...], float]]
    in_channels: tuple[int, int]
    out_channels: tuple[int, int]
    pixels: tuple[int, int]


@dataclass(frozen=True)
class NpuModel:
    """What the estimator knows of an NPU, for one core.

    Attributes:
        table: Name of the measured table of this board.
        npu_mhz: Clock of the NPU.
        ddr_mhz: Clock of the memory; nothing is scaled by it (docs/latency.md).
        convolution: Of every dtype.
        lookup: dtype -> cost.
        overhead_us: Of an operator that is no convolution.
        conversion_us: Of an input or output operator.
        operators: (operator, dtype) -> cost.
        cpu_ns: Of an operator on the CPU, per element of the output.
        cpu_tables: Operators that were measured on the CPU -> names of the tables.
        shapes: Name of a table -> its convolutions.
        spreads: (name of a table, family) -> its residuals. The families are ``convolution``, ``operator`` and
            ``cpu``; under :data:`UNMEASURED` what is allowed for without a measurement, there with ``inferred``, too.
    """

    table: str
    npu_mhz: int
    ddr_mhz: int
    convolution: ConvolutionCost
    lookup: Mapping[str, LookupCost]
    overhead_us: float
    conversion_us: float
    operators: Mapping[tuple[str, str], OperatorCost]
    cpu_ns: float
    cpu_tables: Mapping[str, tuple[str, ...]]
    shapes: Mapping[str, MeasuredShapes]
    spreads: Mapping[tuple[str, str], Spread]

    @property
    def bandwidth_gb_s(self) -> float:
        """Of element-wise operators, bytes read and written together."""
        cost = self.operators["BatchNormalization", "INT8"]
        return 32 / (cost.read_ns + cost.write_ns)


# Least squares of relative residuals over the 20 ConvRelu rows of unet (max error 6 %).
_CONVOLUTION = ConvolutionCost(overhead_us=28.0, compute=1.14, overlapped=0.888, input_gb_s=8.66)
_LOOKUP = MappingProxyType(
    {
        # unet: ConvSigmoid of 1 channel 512x512, 4469 us. logs: conv_swish of 16 channels 960x960 and 480x480, 17.5
        # and 16.9 ns; of 32 and more channels 18.1..21.4 ns where the look-up bounds.
        "INT8": LookupCost(32, 17.0, 20.5, half_tables=(UNET, LOGS), full_tables=(LOGS,)),
        # unet: ConvSigmoid of 1 channel 512x512, 2785 us. More channels were not measured.
        "FLOAT16": LookupCost(16, 10.5, 10.5, half_tables=(UNET,), full_tables=()),
    }
)
# Least squares over the 24 BatchNormalization and Concat rows of unet: 11.2 GB/s and 13 us; no slope of its own for
# reads and writes can be told apart there.
_ELEMENTWISE_NS = 16 / 11.2
_OVERHEAD_US = 13.0
_CONVERSION_US = 4.5  # unet: the input operators take 4 and 5 us


def _elementwise(*tables: str) -> OperatorCost:
    return OperatorCost(_ELEMENTWISE_NS, _ELEMENTWISE_NS, tables)


_OPERATORS = MappingProxyType(
    {
        ("BatchNormalization", "INT8"): _elementwise(UNET),
        ("BatchNormalization", "FLOAT16"): _elementwise(UNET, LOGS),
        ("Concat", "INT8"): _elementwise(UNET, LOGS),
        ("Concat", "FLOAT16"): _elementwise(UNET, LOGS),
        ("Add", "INT8"): _elementwise(LOGS),
        ("Add", "FLOAT16"): _elementwise(LOGS),
        ("Mul", "FLOAT16"): _elementwise(LOGS),
        ("Split", "INT8"): _elementwise(LOGS),
        ("Pad", "FLOAT16"): _elementwise(LOGS),
        # unet, four rows: per block read, whatever the plane.
        ("AveragePool", "INT8"): OperatorCost(4.15, 0.0, (UNET,)),
        ("AveragePool", "FLOAT16"): OperatorCost(8.1, 0.0, (UNET,)),
        # logs, four rows of 2x2 with stride 2. In int8 only other windows were measured; average pooling takes half
        # its fp16 time there, so the fp16 time is a careful guess.
        ("MaxPool", "FLOAT16"): OperatorCost(4.5, 0.0, (LOGS,)),
        ("MaxPool", "INT8"): OperatorCost(4.5, 0.0),
        # logs, two rows with a window of 5; layer tables do not tell windows.
        ("MaxPool at stride 1", "INT8"): OperatorCost(0.0, 11.1, (LOGS,)),
        # logs, nearest by 2: 2.4 and 2.9 ns per block written in int8, 2.2 and 5.0 (a small plane) in fp16.
        ("Resize", "INT8"): OperatorCost(0.0, 2.5, (LOGS,)),
        ("Resize", "FLOAT16"): OperatorCost(0.0, 2.5, (LOGS,)),
        # logs, one row each.
        ("Transpose", "FLOAT16"): OperatorCost(0.0, 15.2, (LOGS,)),
        ("exNorm", "FLOAT16"): OperatorCost(0.0, 19.6, (LOGS,)),
        # A map that does not begin at a block's border is shifted. The report of unet: two 8-channel maps 512x512,
        # int8, 3.4 ms.
        ("Concat misaligned", "INT8"): OperatorCost(0.0, 12.9, (UNET,)),
        ("Concat misaligned", "FLOAT16"): OperatorCost(0.0, 12.9),
        # From the native layout to NCHW. int8: unet (1 channel 512x512, 128 us) and logs (64 channels 240x240, 347
        # us) make two equations; fp16: unet (1 channel, 692 us) with the int8 time of writing.
        ("OutputOperator", "INT8"): OperatorCost(0.40, 1.08, (UNET,)),
        ("OutputOperator", "FLOAT16"): OperatorCost(2.49, 1.08, (UNET,)),
        ("OutputOperator of channels", "INT8"): OperatorCost(0.40, 1.08, (LOGS,)),
        ("OutputOperator of channels", "FLOAT16"): OperatorCost(2.49, 1.08),
        # The caller's own conversion of the input is no part of the operator times.
        ("InputOperator", "INT8"): OperatorCost(0.0, 0.0, (UNET,)),
        ("InputOperator", "FLOAT16"): OperatorCost(0.0, 0.0, (UNET,)),
    }
)
# logs: bilinear Resize of fp16 maps on the CPU, three rows, 4.26..4.54 ns; taken for every operator there.
_CPU_NS = 4.3
_CPU_TABLES = MappingProxyType({"Resize": (LOGS,)})
_SHAPES = MappingProxyType(
    {
        UNET: MeasuredShapes(
            frozenset({((1, 1), 1.0), ((3, 3), 1.0), ((2, 2), 0.5)}), (7, 64), (1, 64), (128 * 128, 512 * 512)
        ),
        LOGS: MeasuredShapes(
            frozenset({((1, 1), 1.0), ((3, 3), 1.0), ((3, 3), 2.0), ((6, 6), 2.0)}),
            (3, 256),
            (3, 128),
            (20 * 20, 960 * 960),
        ),
    }
)
_SPREADS = MappingProxyType(
    {
        # The constants come from these rows, so that only the extremes of all rows are wide enough.
        (UNET, "convolution"): Spread(0.93, 1.20),
        (UNET, "operator"): Spread(0.93, 1.13),
        # Rows the constants have not seen: what holds nine tenths of the measured time.
        (LOGS, "convolution"): Spread(0.88, 1.37),
        (LOGS, "operator"): Spread(0.93, 2.09),
        (LOGS, "cpu"): Spread(0.93, 2.09),
        # Twice the error of measured shapes, on a logarithmic scale.
        (UNMEASURED, "convolution"): Spread(0.77, 1.88),
        # Estimated as element-wise: the dearest measured operator, exNorm, takes 6.9 times that per block.
        (UNMEASURED, "operator"): Spread(0.93, 6.90),
        # From the other arithmetic: average pooling, the one operator whose cost depends on it, differs by 1.95.
        (UNMEASURED, "inferred"): Spread(0.51, 1.95),
        # One operator was measured. A decade either way is a judgement, not a measurement.
        (UNMEASURED, "cpu"): Spread(0.1, 10.0),
    }
)


def _npu(table: str, ddr_mhz: int) -> NpuModel:
    return NpuModel(
        table=table,
        npu_mhz=1000,  # unet; the clock the compiler's own estimates assume, too
        ddr_mhz=ddr_mhz,
        convolution=_CONVOLUTION,
        lookup=_LOOKUP,
        overhead_us=_OVERHEAD_US,
        conversion_us=_CONVERSION_US,
        operators=_OPERATORS,
        cpu_ns=_CPU_NS,
        cpu_tables=_CPU_TABLES,
        shapes=_SHAPES,
        spreads=_SPREADS,
    )


# 2112 MHz is what the compiler assumes: its DDR cycles are those of unet times 1560 / 2112.
RK3588_NPU = _npu(LOGS, ddr_mhz=2112)
RK3588S_NPU = _npu(UNET, ddr_mhz=1560)
