"""``edgelung perf --device``: the networks of a bundle on a board that is attached to this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelung.cli.progress import status_line
from edgelung.cli.tables import format_table
from edgelung.errors import InputError

if TYPE_CHECKING:
    from edgelung.converters.device import DeviceReport

__all__ = ["perf_on_device"]

_UNITS = {"CPU": "kHz", "NPU": "Hz", "DDR": "Hz"}  # in which the toolkit prints the clocks


def perf_on_device(
    bundle: Path, serial: str | None, *, toolkit: str | None, calls: int, warmup: int, as_json: bool
) -> None:
    """Measure on the board and print tables, or one JSON object."""
    try:
        from edgelung.converters.device import measure_on_device
    except ModuleNotFoundError as error:
        hint = 'pip install "edgelung[convert]" on the host that the board is attached to'
        raise InputError(f"the package {error.name} is not installed", hint=hint) from None
    with status_line() as status:
        reports = measure_on_device(
            bundle, serial, toolkit=toolkit, calls=calls, warmup=warmup, progress=lambda name: status.tick(name)
        )
    if as_json:
        click.echo(json.dumps({"source": "measured", "artefacts": [row.to_json() for row in reports]}, indent=2))
        return
    click.echo("\n\n".join(map(_report_text, reports)))


def _report_text(report: DeviceReport) -> str:
    row = report.estimated
    rows = [
        (
            f"{entry.layer.index} {entry.layer.operator}",
            entry.layer.dtype,
            "x".join(map(str, entry.layer.output_shape)) or "-",
            f"{entry.measured_us:.0f}",
            f"{entry.estimated.us:.0f}" if entry.estimated else "-",
        )
        for entry in report.layers
    ]
    lines = [
        f"{row.network}, {row.artefact.precision}, for {row.artefact.target}: measured on the board {report.device}",
        format_table(("layer", "dtype", "output", "measured us", "estimated us"), rows),
        "",
        format_table(("", "measured operators us", "measured call us", "estimated operators us"), _totals(report)),
        f"operators: timed one by one on the board; call: from this machine and back, median of {report.calls}",
        "",
        f"golden output reproduced within {report.golden_max_abs:.2g}",
        f"memory on the board: {_memory(report.memory_bytes)}",
        *(f"{name} clocks: {', '.join(values)} {_UNITS[name]}" for name, values in report.clocks.items()),
        f"rknn-toolkit2 {report.toolkit}; {report.runtime}",
    ]
    return "\n".join(lines)


def _totals(report: DeviceReport) -> list[tuple[str, ...]]:
    estimate = report.estimated.estimate
    figures = (report.operator_us, report.call_us, estimate.us_per_run if estimate else None)
    parts = (("per run", 1), ("per output slice", report.estimated.slices_per_run))
    return [(name, *("-" if us is None else f"{us / part:.0f}" for us in figures)) for name, part in parts]


def _memory(kinds: dict[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {size / 1024:.1f} KiB" for name, size in kinds.items())
