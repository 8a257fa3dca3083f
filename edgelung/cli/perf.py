"""``edgelung perf``: latency where the engine runs, estimates for boards, and measuring on an attached board."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelung.cli.device import perf_on_device
from edgelung.cli.progress import progress_bar
from edgelung.cli.tables import format_table

if TYPE_CHECKING:
    from edgelung.boards import LatencyEstimate
    from edgelung.runtime import ArtefactEstimate, PerfReport

_NPU_ENGINE = "rknn"


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--backend", default="auto", show_default=True, help="Inference engine.")
@click.option("--frames", default=30, show_default=True, type=click.IntRange(1), help="Measured slices; calls.")
@click.option(
    "--warmup", default=3, show_default=True, type=click.IntRange(0), help="Slices or calls before measuring."
)
@click.option("--threads", default=0, help="CPU threads of one run; 0 leaves it to the engine.")
@click.option(
    "--device", is_flag=False, flag_value="", metavar="[SERIAL]",
    help="Measure on a board attached by USB instead; SERIAL as `adb devices` shows it. Write it after BUNDLE.",
)  # fmt: skip
@click.option("--toolkit", metavar="VERSION", help="With --device: rknn-toolkit2; see `edgelung toolkit list`.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def perf(
    bundle: Path,
    backend: str,
    frames: int,
    warmup: int,
    threads: int,
    device: str | None,
    toolkit: str | None,
    as_json: bool,
) -> None:
    """Measure per-frame latency of BUNDLE on this machine, stage by stage, and estimate it for boards.

    A frame is one output slice on its whole way: intensity rule and packing, inference, connected components. The
    frames are the bundle's golden slices, run to and fro. The source says what kind of machine was measured:
    `measured` is a board, `host` is any other computer and says nothing about a board.

    Networks compiled for an NPU that is not here are not run. For each a table of its own follows, layer by layer,
    with the latency estimated from the compiler's table. On a board with its NPU in use there is none.

    With --device the vendor's toolkit runs them on a board that is attached to this machine: the time of each operator
    there (the published tables hold their sum) beside its estimate, and the time of a call from here, transfer
    included. rknn_server must run on the board; its clocks are fixed at their highest until it starts again. This was
    tested over a stand-in for the toolkit, and is unproven on hardware.

    \b
    Examples:  edgelung perf unet.bundle --frames 100
               edgelung perf unet.bundle --device
               edgelung-perf unet.bundle --device 0123456789ABCDEF --json
    """
    if device is not None:
        if backend != "auto" or threads:
            raise click.UsageError("--backend and --threads are for this machine; with --device the toolkit chooses")
        perf_on_device(bundle, device or None, toolkit=toolkit, calls=frames, warmup=warmup, as_json=as_json)
        return
    if toolkit is not None:
        raise click.UsageError("--toolkit goes with --device")
    from edgelung.runtime import estimate_bundle, measure_latency

    estimates = estimate_bundle(bundle)
    with progress_bar("frames") as progress:
        report = measure_latency(bundle, backend, frames=frames, warmup=warmup, threads=threads, progress=progress)
    if report.backend == _NPU_ENGINE:
        estimates = ()
    if as_json:
        click.echo(json.dumps({**report.to_json(), "estimates": [row.to_json() for row in estimates]}, indent=2))
        return
    _show_report(report)
    if estimates:
        names = ", ".join(sorted({row.artefact.target for row in estimates}))
        click.echo(f"\nThe networks for {names} were not run here; {report.backend} ran another form of them.")
    for row in estimates:
        click.echo(f"\n{_estimate_text(row)}")


def _show_report(report: PerfReport) -> None:
    rows = [
        (name, time.calls, f"{time.median_ms:.2f}", f"{time.p90_ms:.2f}", f"{time.p99_ms:.2f}")
        for name, time in report.stages.items()
    ]
    click.echo(format_table(("stage", "calls", "median ms", "p90 ms", "p99 ms"), rows))
    click.echo(
        f"\n{report.frames_per_second:.2f} frames per second, {report.slices_per_run} per run, "
        f"on {report.board} with {report.backend} (source: {report.source})"
    )
    click.echo(f"processor {report.processor}")
    click.echo(f"golden output reproduced within {report.golden_max_abs:.2g}")
    click.echo(
        f"peak memory {report.peak_memory_mib:.0f} MiB, "
        f"{report.memory_above_baseline_mib:.0f} MiB above the engine with its network loaded"
    )


def _estimate_text(row: ArtefactEstimate) -> str:
    name = f"{row.network}, {row.artefact.precision}"
    estimate = row.estimate
    if estimate is None:
        return f"{name}: no estimate for {row.artefact.target}, the bundle has no layer table of it"
    latency = estimate.per_output_slice(row.slices_per_run)
    lines = [f"{name}: estimated for {estimate.board}, not measured", *_layer_lines(estimate), ""]
    for what, us, (low, high) in (
        ("per run", estimate.us_per_run, estimate.interval_us),
        ("per output slice", latency.us, latency.interval_us),
    ):
        lines.append(f"{what}: {us:.0f} us, between {low:.0f} and {high:.0f} (source: {latency.source})")
    lines.append(f"output slices per run: {latency.slices_per_run}; operators on one NPU core, without the call around")
    return "\n".join(lines)


def _layer_lines(estimate: LatencyEstimate) -> list[str]:
    """The table of layers, and what its flags mean."""
    reasons = list(dict.fromkeys(flag for row in estimate.layers for flag in row.flags))
    marks = {reason: f"[{number}]" for number, reason in enumerate(reasons, start=1)}
    rows = [
        (
            f"{row.layer.index} {row.layer.operator}",
            row.layer.dtype,
            "x".join(map(str, row.layer.output_shape)) or "-",
            f"{row.us:.0f}",
            f"{row.interval_us[0]:.0f}..{row.interval_us[1]:.0f}",
            f"{100 * row.us / estimate.us_per_run:.1f}",
            row.bound,
            "".join(marks[flag] for flag in row.flags),
        )
        for row in estimate.layers
    ]
    header = ("layer", "dtype", "output", "estimated us", "interval us", "share %", "bound", "flags")
    return [format_table(header, rows), *(f"{mark} {reason}" for reason, mark in marks.items())]
