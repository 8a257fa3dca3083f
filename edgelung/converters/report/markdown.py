"""A report as Markdown: the published report's columns, a column of latency for each source and board."""

from __future__ import annotations

from collections.abc import Sequence

from edgelung.converters.evaluation import METRICS, Interval, OperatingPoint
from edgelung.converters.report.records import EvaluationRecord, Published, Report, ReportRow

__all__ = ["latency_columns", "render_markdown"]

_HEADS = {
    "measured": "ms, measured on {board}",
    "estimated": "ms, estimated for {board}",
    "host": "ms, on the converting computer",
}
_VOLUME = METRICS[2]
NONE = "-"


def latency_columns(rows: Sequence[ReportRow]) -> dict[tuple[str, str], str]:
    """Heading by (source, board), in order of appearance: figures of different sources never share a column."""
    keys = dict.fromkeys((row.latency.source, row.latency.board) for row in rows)
    return {key: _HEADS[key[0]].format(board=key[1]) for key in keys}


def render_markdown(report: Report, plots: Sequence[str]) -> str:
    """The text of report.md.

    Args:
        report: The report.
        plots: Names of picture files beside it.
    """
    parts = [f"# {report.title}", "", *_cost_table(report.rows), ""]
    evaluated = [(row, row.evaluation) for row in report.rows if row.evaluation is not None]
    if evaluated:
        parts += ["## Nodules", "", *(f"* {line}" for line in report.data), ""]
        parts += ["Each at its bundle's threshold; 95 % intervals by paired bootstrap.", ""]
        parts += [*_quality_table([(row, record, record.own) for row, record in evaluated]), ""]
        parts += [*_difference_table([(row, record.own) for row, record in evaluated]), ""]
        parts += [*_matched_part(evaluated), ""]
    parts += [f"![{name.removesuffix('.png')}]({name})" for name in plots]
    if report.notes:
        parts += ["", "## To be kept in mind", "", *(f"* {note}" for note in report.notes)]
    return "\n".join(parts).rstrip() + "\n"


def _cost_table(rows: Sequence[ReportRow]) -> list[str]:
    latencies = latency_columns(rows)
    published = any(row.published for row in rows)
    heads = ["variant", "target", "arithmetic", "parameters", "weight memory KiB", "model size KiB"]
    heads += [*latencies.values(), "layers: NPU / all", "float16", "conversions", "verified"]
    if published:
        heads += ["published: weight memory KiB", "model size KiB", "ms, measured there"]
    lines = []
    for row in rows:
        own = (row.latency.source, row.latency.board)
        cells = [row.name, row.target, row.precision, str(row.parameters) if row.parameters else NONE]
        cells += [f"{row.weight_memory_kib:.2f}", f"{row.model_size_kib:.2f}"]
        cells += [_milliseconds(row) if key == own else NONE for key in latencies]
        cells += [f"{row.layers.npu} / {row.layers.total}", str(row.layers.float16), str(row.layers.convert)]
        cells += ["yes" if row.verified else "NO: misses a limit"]
        lines.append(cells + (_published_cells(row.published) if published else []))
    sources = dict.fromkeys(row.published.source for row in rows if row.published)
    return [*_table(heads, lines), *(line for source in sources for line in ("", f"Published: {source}."))]


def _published_cells(published: Published | None) -> list[str]:
    if published is None:
        return [NONE] * 3
    sizes = [_number(value, 2) for value in (published.weight_memory_kib, published.model_size_kib)]
    return [*sizes, _number(published.latency_ms, 1)]


def _quality_table(points: Sequence[tuple[ReportRow, EvaluationRecord, OperatingPoint]]) -> list[str]:
    published = any(_has_quality(row.published) for row, _, _ in points)
    heads = ["variant", "answers from", "nodules", "threshold", *METRICS]
    heads += ["published: recall", "precision"] if published else []
    lines = []
    for row, record, point in points:
        cells = [row.name, record.engine, str(record.nodules), f"{point.threshold:.3g}"]
        cells += [_interval(name, point.metrics[name]) for name in METRICS]
        if published:
            known = row.published or Published("")
            cells += [_number(known.pixel_recall, 3), _number(known.pixel_precision, 3)]
        lines.append(cells)
    return _table(heads, lines)


def _difference_table(points: Sequence[tuple[ReportRow, OperatingPoint]]) -> list[str]:
    lines = []
    for row, point in points:
        if point.difference:
            found = ((name, point.difference[name]) for name in METRICS)
            lines.append([row.name, *(f"{_interval(name, x)}{' *' * x.is_clear}" for name, x in found)])
    if not lines:
        return []
    text = "Variant minus original, on the same nodules and slices; * marks intervals without 0."
    return [text, "", *_table(["variant", *METRICS], lines)]


def _matched_part(evaluated: Sequence[tuple[ReportRow, EvaluationRecord]]) -> list[str]:
    matched = [(row, record, record.matched) for row, record in evaluated if record.matched is not None]
    parts = []
    if matched:
        parts = ["At thresholds that keep to the original's false-positive volume on another block:", ""]
        parts += [*_quality_table(matched), "", *_difference_table([(row, point) for row, _, point in matched])]
    refused = [f"* {row.name}: {record.unmatched}" for row, record in evaluated if record.unmatched]
    return [*parts, *([""] if parts and refused else []), *refused]


def _has_quality(published: Published | None) -> bool:
    return published is not None and (published.pixel_recall, published.pixel_precision) != (None, None)


def _milliseconds(row: ReportRow) -> str:
    low, high = row.latency.interval_us
    return f"{row.latency.us / 1e3:.1f} ({low / 1e3:.1f} .. {high / 1e3:.1f})"


def _interval(metric: str, interval: Interval) -> str:
    digits = 0 if metric == _VOLUME else 3
    return f"{interval.value:.{digits}f} ({interval.low:.{digits}f} .. {interval.high:.{digits}f})"


def _number(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    rows = [heads, ["---"] * len(heads), *lines]
    return [f"| {' | '.join(cells)} |" for cells in rows]
