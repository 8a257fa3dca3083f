"""``edgelung perf``: per-frame latency where the engine runs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgelung.cli.progress import progress_bar
from edgelung.cli.tables import format_table


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--backend", default="auto", show_default=True, help="Inference engine.")
@click.option("--frames", default=30, show_default=True, type=click.IntRange(1), help="Measured slices.")
@click.option("--warmup", default=3, show_default=True, type=click.IntRange(0), help="Slices before measuring.")
@click.option("--threads", default=0, help="CPU threads of one run; 0 leaves it to the engine.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def perf(bundle: Path, backend: str, frames: int, warmup: int, threads: int, as_json: bool) -> None:
    """Measure per-frame latency of BUNDLE on this machine, stage by stage.

    A frame is one output slice on its whole way: intensity rule and packing, inference, connected components. The
    frames are the bundle's golden slices, run to and fro. The source says what kind of machine was measured:
    `measured` is a board, `host` is any other computer and says nothing about a board.

    \b
    Example:  edgelung perf unet.bundle --frames 100
    """
    from edgelung.runtime import measure_latency

    with progress_bar("frames") as progress:
        report = measure_latency(bundle, backend, frames=frames, warmup=warmup, threads=threads, progress=progress)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))
        return
    rows = [
        (name, time.calls, f"{time.median_ms:.2f}", f"{time.p90_ms:.2f}", f"{time.p99_ms:.2f}")
        for name, time in report.stages.items()
    ]
    click.echo(format_table(("stage", "calls", "median ms", "p90 ms", "p99 ms"), rows))
    click.echo(
        f"\n{report.frames_per_second:.2f} frames per second, {report.slices_per_run} per run, "
        f"on {report.board} with {report.backend} (source: {report.source})"
    )
    click.echo(f"golden output reproduced within {report.golden_max_abs:.2g}")
    click.echo(
        f"peak memory {report.peak_memory_mib:.0f} MiB, "
        f"{report.memory_above_baseline_mib:.0f} MiB above the engine with its network loaded"
    )
