"""Latency estimates beside the measured layers of RK3588 boards: totals, layers, residuals by operator, spreads.

    python benchmarks/estimate_vs_measured.py [FOLDER] [--layers]

FOLDER (../shared/facts unless given) holds ``rk3588s_measured_layers.csv``, a U-Net in fp16 and int8 on one board, from
which the constants of edgelung/boards/profiles.py come, and ``rk3588_measured_convs_other_logs.csv``, layers of three
other networks on other boards, which the constants of convolutions and element-wise operators have not seen.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgelung.boards import LayerEstimate, LayerRecord, estimate, get_board
from edgelung.boards.layers import Kernel, convolution_cycles

UNET_FILE = "rk3588s_measured_layers.csv"
LOGS_FILE = "rk3588_measured_convs_other_logs.csv"
# This log was written by an older compiler, which counts cycles otherwise (docs/latency.md).
OLDER_COMPILER = "yolov5s_relu640"
# How the logs' table names operators -> how the compiler does.
OPERATORS = {
    "conv": "Conv", "convadd": "ConvAdd", "conv_relu": "ConvRelu", "conv_relu_add": "ConvReluAdd",
    "conv_swish": "ConvExSwish", "conv_sigmoid": "ConvSigmoid", "maxpool": "MaxPool", "maxpool5": "MaxPool",
    "resize_nearest": "Resize", "resize_bilinear_cpu": "Resize", "concat": "Concat", "add": "Add", "split": "Split",
    "mul_bcast": "Mul", "bn": "BatchNormalization", "pad_reflect": "Pad", "transpose": "Transpose",
    "exnorm": "exNorm", "output_cpu_nc1hwc2_to_nchw": "OutputOperator",
}  # fmt: skip
# A depthwise transposed convolution, which no compiler table here describes.
LEFT_OUT = ("convtranspose_dw4x4s2",)


@dataclass(frozen=True)
class Measured:
    """A layer with its measured time and where it was measured."""

    source: str
    layer: LayerRecord
    us: float


@dataclass(frozen=True)
class Row:
    """A measured layer with its estimate."""

    measured: Measured
    estimated: LayerEstimate

    @property
    def ratio(self) -> float:
        """Measured over estimated."""
        return self.measured.us / self.estimated.us

    @property
    def family(self) -> str:
        """As in NpuModel.spreads."""
        return "convolution" if self.measured.layer.is_convolution else "operator"


def shapes(text: str) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(n) for n in re.findall(r"\d+", part)) for part in re.findall(r"\(([\d,]+)\)", text))


def read_unet(path: Path) -> list[Measured]:
    """The layers of the two U-Nets."""
    found = []
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            layer = LayerRecord(
                int(row["id"]),
                row["op"],
                row["dtype"],
                row["target"],
                shapes(row["input_shapes"]),
                (shapes(row["output_shape"]) or ((),))[0],
                int(row["ddr_cycles"]),
                int(row["npu_cycles"]),
                int(row["total_cycles"]),
                float(row["rw_kib"]),
            )
            found.append(Measured(row["model"], layer, float(row["time_us"])))
    return found


def read_logs(path: Path) -> list[Measured]:
    """The layers of the other logs."""
    found = []
    with path.open(newline="") as file:
        for index, row in enumerate(csv.DictReader(file), start=1):
            if row["op"] not in LEFT_OUT:
                found.append(Measured(row["src"], _log_layer(index, row), float(row["us"])))
    return found


def _log_layer(index: int, row: dict[str, str]) -> LayerRecord:
    operator = OPERATORS[row["op"]]
    inside, height, width, outside, size = (int(row[name]) for name in ("cin", "ih", "iw", "cout", "k"))
    image, output = (1, inside, height, width), (1, outside, int(row["oh"]), int(row["ow"]))
    inputs: tuple[tuple[int, ...], ...] = (image,)
    if operator.startswith("Conv"):
        inputs = (image, (outside, inside, size, size), (outside,))
    elif operator == "Add":
        inputs = (image, image)
    elif (
        operator == "Concat"
    ):  # the table has the whole; the compiler prints the first two inputs, here taken as whole blocks
        inputs = ((1, 16, height, width),) * 2
    elif operator == "OutputOperator":
        output = ()
    cycles = 0 if row["src"] == OLDER_COMPILER else int(row["npu_cyc"])
    target = "CPU" if "cpu" in row["op"] else "NPU"
    dtype = {"int8": "INT8", "fp16": "FLOAT16"}[row["dtype"]]
    return LayerRecord(index, operator, dtype, target, inputs, output, 0, cycles, cycles, 0.0)


def estimate_all(measured: Sequence[Measured], board: str) -> list[Row]:
    """Every measured layer with its estimate for a board."""
    layers = [item.layer for item in measured]
    return [Row(*pair) for pair in zip(measured, estimate(layers, get_board(board)).layers, strict=True)]


def quantiles(rows: Sequence[Row]) -> tuple[float, float]:
    """Of the ratio, the bounds between which nine tenths of the measured time lie."""
    ordered = sorted(rows, key=lambda row: row.ratio)
    total, passed = math.fsum(row.measured.us for row in rows), 0.0
    low = high = ordered[0].ratio
    for row in ordered:
        if passed <= 0.05 * total:
            low = row.ratio
        if passed <= 0.95 * total:
            high = row.ratio
        passed += row.measured.us
    return low, high


def same_cycles(rows: Sequence[Row]) -> tuple[int, int]:
    """(equal, all) of the convolutions whose cycles the compiler printed."""
    layers = [row.measured.layer for row in rows if row.measured.layer.is_convolution]
    layers = [layer for layer in layers if layer.npu_cycles]
    counted = [convolution_cycles(Kernel.of(layer), layer.output_shape[2:], layer.dtype) for layer in layers]
    return sum(a == b.npu_cycles for a, b in zip(counted, layers, strict=True)), len(layers)


def line(label: str, rows: Sequence[Row]) -> str:
    measured = math.fsum(row.measured.us for row in rows)
    estimated = math.fsum(row.estimated.us for row in rows)
    low, high = (math.fsum(row.estimated.interval_us[side] for row in rows) for side in (0, 1))
    ratios = sorted(row.ratio for row in rows)
    return (
        f"{label:<32} {len(rows):>4} {measured:>9.0f} {estimated:>9.0f} {measured / estimated:>6.3f} "
        f"{low:>9.0f} ..{high:>9.0f} {ratios[0]:>6.2f} ..{ratios[-1]:>5.2f}"
    )


def grouped(rows: Iterable[Row], key) -> dict[str, list[Row]]:
    groups = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return dict(sorted(groups.items()))


def print_layers(rows: Sequence[Row]) -> None:
    print(f"{'source':<16} {'operator':<19} {'dtype':<8} {'input':<20} {'output':<20} {'measured':>8} {'estimated':>9} "
          f"{'ratio':>6}  bound")  # fmt: skip
    for row in rows:
        layer, guess = row.measured.layer, row.estimated
        inside = "x".join(map(str, layer.input_shapes[0])) if layer.input_shapes else "-"
        outside = "x".join(map(str, layer.output_shape)) or "-"
        print(f"{row.measured.source:<16} {layer.operator:<19} {layer.dtype:<8} {inside:<20} {outside:<20} "
              f"{row.measured.us:>8.0f} {guess.us:>9.0f} {row.ratio:>6.2f}  {guess.bound}"
              f"{'; ' + '; '.join(guess.flags) if guess.flags else ''}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    beside = Path(__file__).resolve().parents[2] / "shared" / "facts"
    parser.add_argument("folder", nargs="?", type=Path, default=beside)
    parser.add_argument("--layers", action="store_true", help="print every layer, too")
    options = parser.parse_args()
    tables = {
        "rk3588s": estimate_all(read_unet(options.folder / UNET_FILE), "rk3588s"),
        "rk3588": estimate_all(read_logs(options.folder / LOGS_FILE), "rk3588"),
    }
    if options.layers:
        for rows in tables.values():
            print_layers(rows)
    print(
        f"{'':<32} {'rows':>4} {'measured':>9} {'estimated':>9} {'ratio':>6} {'interval us':>21} {'layer ratios':>14}"
    )
    for board, rows in tables.items():
        for source, part in grouped(rows, lambda row: row.measured.source).items():
            print(line(f"{board}: {source}", part))
        for name, part in grouped(
            rows, lambda row: f"{row.measured.layer.operator} {row.measured.layer.dtype}"
        ).items():
            print(line(f"  {name}", part))
        # What was fitted to single rows of this table tells nothing about errors.
        seen = [row for row in rows if row.family == "convolution" or row.estimated.bound == "memory"]
        for family, part in grouped(seen, lambda row: row.family).items():
            print("  {}s: nine tenths of the time at ratios {:.2f} .. {:.2f}".format(family, *quantiles(part)))
        print("  cycles as the compiler counts them: {} of {}".format(*same_cycles(rows)))


if __name__ == "__main__":
    main()
