"""The pictures of a report, drawn without a display."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from edgelung.converters.evaluation import METRICS, Interval
from edgelung.converters.report.markdown import latency_columns
from edgelung.converters.report.records import Report, ReportRow

__all__ = ["PLOTS", "draw_plots"]

RECALL, PRECISION = METRICS[:2]
WIDTH_IN = 8.0
DPI = 120

Points = Sequence[tuple[str, float, float, float]]  # name, value, low, high


def draw_plots(report: Report, folder: Path) -> tuple[str, ...]:
    """Draw what the report has figures for, as PNG files; their names."""
    drawn = []
    for name, plot in PLOTS.items():
        figure = plot(report.rows)
        if figure is not None:
            FigureCanvasAgg(figure)
            figure.savefig(folder / name, dpi=DPI, metadata={"Software": None})
            drawn.append(name)
    return tuple(drawn)


def _size(rows: Sequence[ReportRow]) -> Figure:
    figure, (weights, files) = _panels(2, len(rows))
    _bars(weights, "weight memory, KiB", [_bar(row, row.weight_memory_kib) for row in rows])
    _mark(weights, [row.published.weight_memory_kib if row.published else None for row in rows])
    _bars(files, "model size, KiB", [_bar(row, row.model_size_kib) for row in rows])
    _mark(files, [row.published.model_size_kib if row.published else None for row in rows])
    return figure


def _latency(rows: Sequence[ReportRow]) -> Figure:
    """A panel for each source and board, and one for published figures, which were measured elsewhere."""
    columns = latency_columns(rows)
    published = [
        _bar(row, row.published.latency_ms) for row in rows if row.published and row.published.latency_ms is not None
    ]
    figure, panels = _panels(len(columns) + bool(published), len(rows))
    for axes, (key, title) in zip(panels, columns.items(), strict=False):
        own = [row for row in rows if (row.latency.source, row.latency.board) == key]
        _bars(axes, title, [(_label(row), *_milliseconds(row)) for row in own])
    if published:
        _bars(panels[-1], "ms, as published", published)
    return figure


def _quality(rows: Sequence[ReportRow]) -> Figure | None:
    found = [(row, row.evaluation.own) for row in rows if row.evaluation is not None]
    if not found:
        return None
    figure, panels = _panels(2, len(found))
    for axes, metric in zip(panels, (RECALL, PRECISION), strict=True):
        _bars(axes, metric, [(_label(row), *_triple(point.metrics[metric])) for row, point in found])
        axes.set_xlim(0, 1)
    return figure


def _pareto(rows: Sequence[ReportRow]) -> Figure | None:
    """Estimated latency against recall, a board a colour; measured and host times have no place here."""
    found = [row for row in rows if row.evaluation is not None and row.latency.source == "estimated"]
    if not found:
        return None
    figure = Figure(figsize=(WIDTH_IN, 5), layout="constrained")
    axes = figure.add_subplot()
    for board in dict.fromkeys(row.latency.board for row in found):
        own = [row for row in found if row.latency.board == board]
        times = [_milliseconds(row) for row in own]
        recalls = [_triple(row.evaluation.own.metrics[RECALL]) for row in own if row.evaluation is not None]
        axes.errorbar(
            [value for value, _, _ in times], [value for value, _, _ in recalls],
            xerr=_whiskers(times), yerr=_whiskers(recalls), fmt="o", capsize=3, label=board,
        )  # fmt: skip
        for row, (time, _, _), (recall, _, _) in zip(own, times, recalls, strict=True):
            axes.annotate(row.name, (time, recall), xytext=(6, 6), textcoords="offset points", fontsize=8)
    axes.set_xlabel("ms per slice, estimated")
    axes.set_ylabel(f"{RECALL}, at the bundle's threshold")
    axes.legend()
    return figure


PLOTS: Final[Mapping[str, Callable[[Sequence[ReportRow]], Figure | None]]] = MappingProxyType(
    {"size.png": _size, "latency.png": _latency, "recall-precision.png": _quality, "pareto.png": _pareto}
)


def _panels(count: int, bars: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH_IN, count * (0.9 + 0.35 * bars)), layout="constrained")
    return figure, list(figure.subplots(count, 1, squeeze=False)[:, 0])


def _bars(axes: Axes, title: str, points: Points) -> None:
    """Bars from above downwards, with whiskers where there are intervals."""
    values = [value for _, value, _, _ in points]
    intervals = _whiskers([point[1:] for point in points])
    shown = any(length > 0 for side in intervals for length in side)
    bars = axes.barh([name for name, *_ in points], values, xerr=intervals if shown else None, capsize=3)
    axes.bar_label(bars, [f"{value:.3g}" if value < 1 else f"{value:.1f}" for value in values], padding=4, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_title(title, fontsize=10)


def _mark(axes: Axes, published: Sequence[float | None]) -> None:
    """A stroke across each bar where a published value is known."""
    known = [(value, index) for index, value in enumerate(published) if value is not None]
    if known:
        axes.plot([value for value, _ in known], [index for _, index in known], "k|", ms=16)
        axes.set_title(f"{axes.get_title()} (stroke: published)", fontsize=10)


def _whiskers(points: Sequence[tuple[float, float, float]]) -> list[list[float]]:
    """Lengths to the left and right. An interval of draws may miss the value by rounding: then a length is 0."""
    return [[max(v - low, 0.0) for v, low, _ in points], [max(high - v, 0.0) for v, _, high in points]]


def _triple(interval: Interval) -> tuple[float, float, float]:
    return interval.value, interval.low, interval.high


def _bar(row: ReportRow, value: float) -> tuple[str, float, float, float]:
    """A value without an interval."""
    return _label(row), value, value, value


def _milliseconds(row: ReportRow) -> tuple[float, float, float]:
    low, high = row.latency.interval_us
    return row.latency.us / 1e3, low / 1e3, high / 1e3


def _label(row: ReportRow) -> str:
    return f"{row.name} ({row.target})"
