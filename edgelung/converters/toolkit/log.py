"""Reading the toolkit's log: the compiler's layer table, its memory totals, and what it complained about.

The tables are those of 2.3.2 and 2.5.0. A log without them, or with others, is an error: a zero here would become a
latency of zero.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgelung.boards.layers import LayerRecord
from edgelung.errors import ConversionError

__all__ = ["BuildTables", "clean", "complaints", "parse_tables", "read_log"]

STAGE = "toolkit log"
STAGE_MARK = "edgelung-stage:"  # worker.py writes it
NO_SPACE_SAID = "No space left on device"  # strerror(ENOSPC)
TITLE = "Network Layer Information Table"
HEADINGS = "ID OpType DataType Target InputShape OutputShape Cycles(DDR/NPU/Total) RW(KB) FullName"
_LOG_LIMIT = 64 << 20  # a U-Net's log has 40 KiB
_QUOTED = 3  # lines of a complaint
_QUOTED_LENGTH = 300  # characters of each

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_PREFIX = re.compile(r"^[DIWE] RKNN: \[\d\d:\d\d:\d\d\.\d{3}\] ?")
_SHAPE = re.compile(r"\((\d+(?:,\d+)*)\)")
_SHAPES = re.compile(r"\(\d+(?:,\d+)*\)(?:,\(\d+(?:,\d+)*\))*(?:,\.\.\.)?")
_ROW = re.compile(
    r"(?P<id>\d+) +(?P<operator>\S+) +(?P<dtype>[A-Z]+\d*) +(?P<target>[A-Z]+) +(?P<inputs>\S+) +(?P<output>\S+) +"
    r"(?P<ddr>\d+)/(?P<npu>\d+)/(?P<total>\d+) +(?P<kib>\d+(?:\.\d+)?) +(?P<name>\S.*)"
)
_TOTAL = re.compile(r"Total (?P<kind>Internal|Weight) Memory Size: (?P<kib>\d+(?:\.\d+)?)KB")
PROGRESS_BAR = re.compile(r"^(?:[DIW] )?(?P<what>\w+)[^:]*: +(?P<percent>\d+)%\|")
_NOISE = re.compile(
    r"^D$|^D |^-+$|^I |^[EW] (\w+: )?=+|^E rknn-toolkit2 version|^$|\d+%\||need parameter qtype|_values is None|"
    r"Traceback \(most recent call last\):$"
)
_ERROR = re.compile(r"^E |^ERROR|^terminate called|^\s+what\(\)|^(\w+\.)+\w+: |^\w*(Error|Exception|Interrupt)\b")
_CONV3D = re.compile(r"convert_3dconv_to_2dconv: remove node = \[(?P<names>[^\]]*)\]")


@dataclass(frozen=True)
class BuildTables:
    """What the compiler told about a network.

    Attributes:
        layers: In the order of execution, input and output operators included. Where the compiler cut a long list of
            shapes short (from the third input of a Concat on, or the second output of a Split), the record has what
            was printed.
        internal_memory_kib: Feature maps, in KiB.
        weight_memory_kib: Constants, in KiB.
    """

    layers: tuple[LayerRecord, ...]
    internal_memory_kib: float
    weight_memory_kib: float


def read_log(path: Path) -> str:
    """A log without colours.

    Raises:
        ConversionError: If it is larger than any log should be.
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        text = file.read(_LOG_LIMIT + 1)
    if len(text) > _LOG_LIMIT:
        raise ConversionError(STAGE, f"{path.name} has more than {_LOG_LIMIT >> 20} MiB")
    return clean(text.decode(errors="replace"))


def clean(text: str) -> str:
    """``text`` without colour codes; of lines that were drawn over, only what was drawn last."""
    lines = _COLOUR.sub("", text).split("\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)


def parse_tables(text: str) -> BuildTables:
    """The tables of a build's log.

    Args:
        text: The log, cleaned, of a build with ``verbose=True``.

    Raises:
        ConversionError: If the layer table or a total is missing, there twice, or not as known; quotes the line.
    """
    lines = [_PREFIX.sub("", line).rstrip() for line in text.split("\n")]
    totals: dict[str, list[float]] = {"Internal": [], "Weight": []}
    for match in filter(None, map(_TOTAL.fullmatch, lines)):
        totals[match["kind"]].append(float(match["kib"]))
    for kind, found in totals.items():
        if len(found) != 1:
            raise ConversionError(STAGE, f"it has {len(found)} lines with the total {kind.lower()} memory, not one")
    layers = tuple(_record(row, index) for index, row in enumerate(_rows(lines), start=1))
    operators = {layer.operator for layer in layers}
    if not {"InputOperator", "OutputOperator"} <= operators:
        raise ConversionError(STAGE, "the layer table has no input or no output operator")
    return BuildTables(layers, totals["Internal"][0], totals["Weight"][0])


def _rows(lines: list[str]) -> list[str]:
    """The rows of the one layer table, after a check of its frame."""
    starts = [number for number, line in enumerate(lines) if line.strip() == TITLE]
    if len(starts) != 1:
        raise ConversionError(STAGE, f"it has {len(starts)} layer tables, not one")
    upper, heading, lower, *rest = lines[starts[0] + 1 :] + [""] * 3
    if " ".join(heading.split()) != HEADINGS:
        raise ConversionError(STAGE, f"unknown headings of the layer table: {heading.strip()!r}")
    if not _is_rule(upper) or not _is_rule(lower):
        raise ConversionError(STAGE, "the headings of the layer table are not between two rules")
    for number, line in enumerate(rest):
        if _is_rule(line):
            return rest[:number]
    raise ConversionError(STAGE, "the layer table has no end")


def _is_rule(line: str) -> bool:
    return len(line) > 3 and set(line) == {"-"}


def _record(row: str, index: int) -> LayerRecord:
    match = _ROW.fullmatch(row)
    if match is None or int(match["id"]) != index - 1:
        raise ConversionError(STAGE, f"row {index} of the layer table is not as known: {row!r}")
    operator, outputs = match["operator"], _shapes(match["output"], row)
    if not outputs and operator != "OutputOperator":
        raise ConversionError(STAGE, f"row {index} of the layer table has no output shape: {row!r}")
    return LayerRecord(
        index=index,
        operator=operator,
        dtype=match["dtype"],
        target=match["target"],
        input_shapes=_shapes(match["inputs"], row),
        output_shape=outputs[0] if outputs else (),
        ddr_cycles=int(match["ddr"]),
        npu_cycles=int(match["npu"]),
        total_cycles=int(match["total"]),
        traffic_kib=float(match["kib"]),
        name=match["name"].partition(":")[2],
    )


def _shapes(text: str, row: str) -> tuple[tuple[int, ...], ...]:
    if text == "\\":
        return ()
    if _SHAPES.fullmatch(text) is None:
        raise ConversionError(STAGE, f"unknown shapes in the layer table: {row!r}")
    return tuple(tuple(map(int, shape.split(","))) for shape in _SHAPE.findall(text))


def complaints(text: str) -> str:
    """The last lines of a log that say something about a failure, in one line; empty when there are none.

    Lines that look like errors come before all others. When the compiler had rewritten 3-D convolutions, on which it
    is known to abort without naming them, they are named.
    """
    lines = [line.rstrip() for line in clean(text).split("\n")]
    lines = [line for line in lines if not _NOISE.search(line) and not line.startswith(STAGE_MARK)]
    errors = [line for line in lines if _ERROR.search(line)]
    plain = (_PREFIX.sub("", line).strip()[:_QUOTED_LENGTH] for line in (errors or lines))
    chosen = list(dict.fromkeys(plain))[-_QUOTED:]
    volumetric = [name for found in _CONV3D.findall(text) for name in found.split(", ")]
    if volumetric:
        chosen.append(f"it had rewritten the 3-D convolutions {', '.join(volumetric)}")
    return " | ".join(chosen)
