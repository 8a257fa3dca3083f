"""Reading what the toolkit prints of a board: clocks, the table of layers with their times, and its total.

The layout is that of published logs of 2.x on the RK3588. Anything else is an error, never a zero.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgelung.boards.layers import LayerRecord
from edgelung.converters.toolkit.log import TITLE
from edgelung.errors import ConversionError

__all__ = ["DevicePerformance", "parse_performance"]

STAGE = "toolkit measure operators"
_HEADINGS = (
    "ID OpType DataType Target InputShape OutputShape Cycles(DDR/NPU/Total) Time(us) MacUsage(%) WorkLoad(0/1/2) "
    "RW(KB) FullName"
)
# The column MacUsage is a backslash, empty or three figures; a FullName can be missing.
_ROW = re.compile(
    r"(?P<id>\d{1,9}) +(?P<operator>\S+) +(?P<dtype>[A-Z]+\d*) +(?P<target>[A-Z]+) +(?P<inputs>\S+) +(?P<output>\S+) +"
    r"(?P<ddr>\d+)/(?P<npu>\d+)/(?P<total>\d+) +(?P<us>\d+)(?: +(?:\\|\d+\.\d+(?:/\d+\.\d+){2}))? +"
    r"\d+\.\d+%/\d+\.\d+%/\d+\.\d+% +(?P<kib>\d+(?:\.\d+)?)(?: +(?P<name>\S.*))?"
)
_SHAPE = re.compile(r"\((\d+(?:,\d+)*)\)")
_SHAPES = re.compile(r"\\|\(\d+(?:,\d+)*\)(?:,\(\d+(?:,\d+)*\))*(?:,\.\.\.)?")
_TOTAL = re.compile(r"Total Operator Elapsed Per Frame Time\(us\): (?P<us>\d+(?:\.\d+)?)")
_CLOCKS = re.compile(r"(?P<unit>CPU|NPU|DDR) Current Frequency List:")
_CLOCK = re.compile(r"- (?P<value>\d+|Unknown)")


@dataclass(frozen=True)
class DevicePerformance:
    """What ``eval_perf`` told.

    Attributes:
        layers: The layers as the board ran them, input and output operators included.
        layer_us: Measured microseconds of each.
        operator_us: "Total Operator Elapsed Per Frame Time", microseconds; the published tables hold this figure.
        clocks: Of ``CPU`` in kHz, ``NPU`` and ``DDR`` in Hz, as printed (``Unknown`` where the board does not tell).
    """

    layers: tuple[LayerRecord, ...]
    layer_us: tuple[float, ...]
    operator_us: float
    clocks: dict[str, tuple[str, ...]]


def parse_performance(text: str) -> DevicePerformance:
    """Read what ``eval_perf`` printed for a session with ``perf_debug``.

    Args:
        text: The printed lines, without colours.

    Raises:
        ConversionError: If the layer table or its total is missing, there twice, or not as known; quotes the line.
    """
    lines = [line.rstrip() for line in text.split("\n")]
    rows = [_row(line, place) for place, line in enumerate(_table(lines), start=1)]
    totals = [float(match["us"]) for match in map(_TOTAL.fullmatch, lines) if match]
    if len(totals) != 1:
        raise ConversionError(STAGE, f"the toolkit printed {len(totals)} totals of operator time, not one")
    times = tuple(us for _, us in rows)
    if abs(sum(times) - totals[0]) > len(rows):  # each row is rounded to 1 us
        raise ConversionError(STAGE, f"the layers take {sum(times):.0f} us, the total says {totals[0]:.0f} us")
    return DevicePerformance(tuple(layer for layer, _ in rows), times, totals[0], _clocks(lines))


def _table(lines: list[str]) -> list[str]:
    starts = [number for number, line in enumerate(lines) if line.strip() == TITLE]
    if len(starts) != 1:
        raise ConversionError(STAGE, f"the toolkit printed {len(starts)} tables of layers, not one")
    upper, heading, lower, *rest = [*lines[starts[0] + 1 :], "", "", ""]
    if " ".join(heading.split()) != _HEADINGS or not _is_rule(upper) or not _is_rule(lower):
        raise ConversionError(STAGE, f"unknown headings of the table of layers: {heading.strip()[:200]!r}")
    ends = [number for number, line in enumerate(rest) if _is_rule(line)]
    if not ends or not ends[0]:
        raise ConversionError(STAGE, "the table of layers has no rows or no end")
    return rest[: ends[0]]


def _is_rule(line: str) -> bool:
    return len(line) > 3 and set(line) == {"-"}


def _row(line: str, place: int) -> tuple[LayerRecord, float]:
    match = _ROW.fullmatch(line)
    shapes = [match[side] for side in ("inputs", "output")] if match else []
    if match is None or int(match["id"]) != place or not all(map(_SHAPES.fullmatch, shapes)):
        raise ConversionError(STAGE, f"row {place} of the table of layers is not as known: {line[:300]!r}")
    inputs, outputs = (tuple(tuple(map(int, shape.split(","))) for shape in _SHAPE.findall(text)) for text in shapes)
    layer = LayerRecord(
        index=place,
        operator=match["operator"],
        dtype=match["dtype"],
        target=match["target"],
        input_shapes=inputs,
        output_shape=outputs[0] if outputs else (),
        ddr_cycles=int(match["ddr"]),
        npu_cycles=int(match["npu"]),
        total_cycles=int(match["total"]),
        traffic_kib=float(match["kib"]),
        name=(match["name"] or "").partition(":")[2],
    )
    return layer, float(match["us"])


def _clocks(lines: list[str]) -> dict[str, tuple[str, ...]]:
    clocks: dict[str, tuple[str, ...]] = {}
    unit = ""
    for line in map(str.strip, lines):
        if heading := _CLOCKS.fullmatch(line):
            unit = heading["unit"]
            clocks[unit] = ()
        elif unit and (value := _CLOCK.fullmatch(line)):
            clocks[unit] = (*clocks[unit], value["value"])
        else:
            unit = ""
    return clocks
